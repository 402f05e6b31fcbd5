"""Keystone's unified limits on the wire: what services register for everybody, and what single projects have instead."""

from __future__ import annotations

import uuid

from flask import Blueprint, Response, jsonify, request

from cml_nova.localcloud import errors
from cml_nova.localcloud.identity import admin, links, listing
from cml_nova.localcloud.store import Document
from cml_nova.localcloud.web import authenticate, body_object, caller, cloud

blueprint = Blueprint("unified_limits", __name__)

_FILTERS = ("service_id", "region_id", "resource_name", "project_id")


@blueprint.before_request
def _authenticate() -> None:
    authenticate()


@blueprint.get("/v3/limits/model")
def model() -> Response:
    """How limits of projects go together: each stands for itself."""
    return jsonify({"model": {"name": "flat", "description": "Limits of projects do not depend on each other."}})


@blueprint.get("/v3/registered_limits")
def registered_limits() -> Response:
    """What holds for everybody."""
    return _list("registered_limit")


@blueprint.post("/v3/registered_limits")
def register() -> tuple[Response, int]:
    """Make limits that hold for everybody."""
    return _create("registered_limit", ("service_id", "resource_name", "default_limit"))


@blueprint.get("/v3/limits")
def limits() -> Response:
    """What projects have instead: the caller's, or all for an admin."""
    if request.args.get("project_id") != caller().project_id:
        admin("identity:list_limits")
    return _list("limit")


@blueprint.post("/v3/limits")
def create() -> tuple[Response, int]:
    """Make limits of projects."""
    return _create("limit", ("service_id", "resource_name", "resource_limit", "project_id"))


@blueprint.patch("/v3/<any(registered_limits, limits):kind>/<key>")
def update(kind: str, key: str) -> Response:
    """Change a limit."""
    one = kind.removesuffix("s")
    admin(f"identity:update_{one}")
    with cloud().store as store:
        if store.get(one, key) is None:
            raise errors.not_found(f"Could not find {one}: {key}.")
        return jsonify({one: store.update(one, key, **body_object(one))})


def _list(kind: str) -> Response:
    wanted = {name: request.args[name] for name in _FILTERS if name in request.args}
    return listing(f"{kind}s", [_show(kind, document) for document in cloud().store.find(kind, **wanted)])


def _create(kind: str, required: tuple[str, ...]) -> tuple[Response, int]:
    admin(f"identity:create_{kind}s")
    given = (request.get_json(silent=True) or {}).get(f"{kind}s")
    if not isinstance(given, list) or not all(isinstance(entry, dict) and set(required) <= set(entry) for entry in given):
        raise errors.bad_request(f"'{kind}s' must be a list of objects with {', '.join(required)}")
    with cloud().store as store:
        made = [store.put(kind, {"region_id": None, "description": None, **entry, "id": uuid.uuid4().hex}) for entry in given]
    return jsonify({f"{kind}s": [_show(kind, document) for document in made]}), 201


def _show(kind: str, document: Document) -> Document:
    return {**document, "links": links(f"{kind}s/{document['id']}")}
