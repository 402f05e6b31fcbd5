"""/v1/frameworks, /v1/flavors: what jobs can be made of. /v1/workers: who carries them out."""

from __future__ import annotations

from typing import Any

from cml_nova.api import cost
from cml_nova.api.routing import Resource
from cml_nova.api.schemas import catalog as schemas
from cml_nova.api.services import catalog, services
from cml_nova.api.views import iso
from cml_nova.compute.catalog import Image
from cml_nova.db import nodes as db_nodes
from cml_nova.frameworks import get_framework
from cml_nova.frameworks.base import framework_names

RESOURCE = Resource("catalog", __name__)


@RESOURCE.operation("GET", "/frameworks", policy="frameworks:list", response=schemas.FRAMEWORKS)
def frameworks() -> Any:
    """List the frameworks, their roles, and the images that have them."""
    images = catalog().images()
    return {"frameworks": [_framework(name, [image for image in images if image.framework == name]) for name in sorted(framework_names())]}


def _framework(name: str, images: list[Image]) -> dict[str, Any]:
    roles = get_framework(name).roles
    return {
        "name": name,
        "roles": [{"name": role, "min": low, "max": high} for role, (low, high) in roles.items()],
        "images": [{"id": image.id, "name": image.name, "version": image.framework_version} for image in images],
    }


@RESOURCE.operation("GET", "/flavors", policy="flavors:list", response=schemas.FLAVORS)
def flavors() -> Any:
    """List the flavors with the accelerators that they promise."""
    return {"flavors": [
        {"id": f.id, "name": f.name, "vcpus": f.vcpus, "ram": f.ram, "disk": f.disk,
         "cost_per_hour": cost.price({"id": f.id, "name": f.name}),
         "accelerators": {"kind": f.accelerator_kind, "count": f.accelerator_count} if f.accelerator_kind else None}
        for f in catalog().flavors()]}


@RESOURCE.operation("GET", "/workers", policy="workers:list", response=schemas.WORKERS)
def workers() -> Any:
    """List the worker processes."""
    with services().db.read() as session:
        rows = db_nodes.workers(session)
    return {"workers": [
        {"id": row.id, "host": row.host, "capacity": row.capacity, "draining": row.draining,
         "started_at": iso(row.started_at), "seen_at": iso(row.seen_at)} for row in rows]}
