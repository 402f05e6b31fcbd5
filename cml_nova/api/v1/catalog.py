"""/v1/frameworks, /v1/flavors: what jobs can be made of. /v1/workers: who carries them out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cml_nova.api import auth, cost, quota
from cml_nova.api.jobspec import flavor_view
from cml_nova.api.routing import Resource
from cml_nova.api.schemas import catalog as schemas
from cml_nova.api.services import catalog, services
from cml_nova.api.views import iso
from cml_nova.compute.catalog import Flavor, Image
from cml_nova.db import demand, quotas
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
    """List the flavors with the accelerators that they promise, and what jobs have and want of them."""
    project_id = str(auth.current().project_id)
    known, limits = catalog().flavors(), quota.limits(project_id)
    with services().db.read() as session:
        wanted, in_use = demand.by_flavor(session), quotas.in_use(session, project_id)
    return {"flavors": [_flavor(flavor, wanted.get(flavor.id, demand.Demand()), in_use, limits) for flavor in known]}


def _flavor(flavor: Flavor, wanted: demand.Demand, in_use: Mapping[str, int], limits: Mapping[str, int]) -> dict[str, Any]:
    view = flavor_view(flavor)
    return {**view, "disk": flavor.disk, "cost_per_hour": cost.price(view), "nodes_in_use": wanted.held, "jobs_waiting": wanted.waiting,
            "quota_left": quota.nodes_left(view, in_use, limits)}


@RESOURCE.operation("GET", "/workers", policy="workers:list", response=schemas.WORKERS)
def workers() -> Any:
    """List the worker processes."""
    with services().db.read() as session:
        rows = db_nodes.workers(session)
    return {"workers": [
        {"id": row.id, "host": row.host, "capacity": row.capacity, "draining": row.draining,
         "started_at": iso(row.started_at), "seen_at": iso(row.seen_at)} for row in rows]}
