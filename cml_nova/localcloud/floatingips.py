"""Neutron v2.0 on the wire: floating addresses."""

from __future__ import annotations

from flask import Blueprint, Response, jsonify

from cml_nova.localcloud.neutron import change, check_request, find, listing, only, owner, policy, visible
from cml_nova.localcloud.web import body_object, cloud

blueprint = Blueprint("floatingips", __name__)
blueprint.before_request(check_request)


@blueprint.get("/v2.0/floatingips")
def index() -> Response:
    """The floating addresses."""
    policy("get_floatingip")
    return listing("floatingips", visible("floatingip"))


@blueprint.post("/v2.0/floatingips")
def create() -> tuple[Response, int]:
    """Make a floating address."""
    policy("create_floatingip", write=True)
    body = only(body_object("floatingip"), "floating_network_id", "port_id", "fixed_ip_address", "description", "project_id", "tenant_id")
    return jsonify({"floatingip": cloud().floating.create(owner(body), body)}), 201


@blueprint.get("/v2.0/floatingips/<key>")
def show(key: str) -> Response:
    """One floating address."""
    policy("get_floatingip")
    return jsonify({"floatingip": find("floatingip", key)})


@blueprint.put("/v2.0/floatingips/<key>")
def update(key: str) -> Response:
    """Another description, another port or none."""
    policy("update_floatingip", write=True)
    body = only(body_object("floatingip"), "port_id", "fixed_ip_address", "description")
    with cloud().store:
        found = find("floatingip", key)
        changes = {"description": str(body["description"] or "")} if "description" in body else {}
        if "port_id" in body:
            changes |= cloud().floating.associate(found, body["port_id"], body.get("fixed_ip_address"))
        return jsonify({"floatingip": change("floatingip", found, **changes)})


@blueprint.delete("/v2.0/floatingips/<key>")
def delete(key: str) -> tuple[str, int]:
    """Give a floating address back."""
    policy("delete_floatingip", write=True)
    with cloud().store:
        cloud().floating.remove(find("floatingip", key))
    return "", 204
