"""/v1/quota: how much a project may have at a time, and how much it has."""

from __future__ import annotations

import re
from typing import Any

from cml_nova import exception
from cml_nova.api import auth, quota
from cml_nova.api.routing import Resource
from cml_nova.api.schemas import quota as schemas
from cml_nova.api.services import catalog, services
from cml_nova.db import quotas

RESOURCE = Resource("quota", __name__)


@RESOURCE.operation("GET", "/quota", policy="quota:get", response=schemas.QUOTA)
def show_own() -> Any:
    """Show the limits of the token's project, and what it has."""
    return _view(str(auth.current().project_id))


@RESOURCE.operation("PUT", "/quota", policy="quota:update", body=schemas.UPDATE, response=schemas.QUOTA)
def update_own(body: dict[str, Any]) -> Any:
    """Change limits of the token's project; null for the configured ones again."""
    return _update(str(auth.current().project_id), body)


@RESOURCE.operation("GET", "/quota/<project_id>", policy="quota:get", response=schemas.QUOTA)
def show(project_id: str) -> Any:
    """Show the limits of a project, and what it has."""
    auth.authorize("quota:get", {"project_id": _checked(project_id)})
    return _view(project_id)


@RESOURCE.operation("PUT", "/quota/<project_id>", policy="quota:update", body=schemas.UPDATE, response=schemas.QUOTA)
def update(project_id: str, body: dict[str, Any]) -> Any:
    """Change limits of a project; null for the configured ones again."""
    auth.authorize("quota:update", {"project_id": _checked(project_id)})
    if catalog().has_project(project_id) is False:
        raise _unknown(project_id)
    return _update(project_id, body)


def _checked(project_id: str) -> str:
    """:raises NotFound: no project can have such an id. Whether one has it only Keystone can tell."""
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", project_id):
        raise _unknown(project_id)
    return project_id


def _unknown(project_id: str) -> exception.NotFound:
    return exception.NotFound(f"There is no project {project_id[:80]!r}; give the id of one (openstack project list).")


def _update(project_id: str, body: dict[str, Any]) -> Any:
    quota.set_limits(project_id, body["quota"]["limits"])
    return _view(project_id)


def _view(project_id: str) -> dict[str, Any]:
    limits = quota.limits(project_id)
    with services().db.read() as session:
        in_use = quotas.in_use(session, project_id)
    return {"quota": {"project_id": project_id, "limits": limits, "in_use": in_use}}
