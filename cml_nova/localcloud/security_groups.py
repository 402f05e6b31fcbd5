"""Neutron v2.0 on the wire: security groups and their rules."""

from __future__ import annotations

from flask import Blueprint, Response, jsonify

from cml_nova.localcloud import errors
from cml_nova.localcloud.networks import RULE_KEYS
from cml_nova.localcloud.neutron import change, check_request, find, listing, only, owner, policy, visible
from cml_nova.localcloud.store import Document
from cml_nova.localcloud.web import body_object, caller, cloud

blueprint = Blueprint("security_groups", __name__)
blueprint.before_request(check_request)


def _show(group: Document) -> Document:
    return {**group, "security_group_rules": cloud().store.find("security_group_rule", security_group_id=group["id"])}


@blueprint.get("/v2.0/security-groups")
def index() -> Response:
    """The security groups."""
    policy("get_security_group")
    with cloud().store:
        cloud().networks.default_group(caller().project_id)
    rules: dict[str, list[Document]] = {}
    for rule in cloud().store.all("security_group_rule"):
        rules.setdefault(rule["security_group_id"], []).append(rule)
    return listing("security_groups", [{**group, "security_group_rules": rules.get(group["id"], [])}
                                       for group in visible("security_group")])


@blueprint.post("/v2.0/security-groups")
def create() -> tuple[Response, int]:
    """Make a security group."""
    policy("create_security_group", write=True)
    body = only(body_object("security_group"), "name", "description", "stateful", "project_id", "tenant_id")
    name = body.get("name", "")
    if not isinstance(name, str) or len(name) > 255:
        raise errors.bad_request(f"Invalid input for name. Reason: '{name}' is not a string of at most 255 characters.", "HTTPBadRequest")
    with cloud().store:
        group = cloud().networks.add_group(owner(body), name, body.get("description") or "", bool(body.get("stateful", True)))
        return jsonify({"security_group": _show(group)}), 201


@blueprint.get("/v2.0/security-groups/<key>")
def show(key: str) -> Response:
    """One security group."""
    policy("get_security_group")
    return jsonify({"security_group": _show(find("security_group", key))})


@blueprint.put("/v2.0/security-groups/<key>")
def update(key: str) -> Response:
    """Another name or description."""
    policy("update_security_group", write=True)
    body = only(body_object("security_group"), "name", "description", "stateful")
    with cloud().store:
        return jsonify({"security_group": _show(change("security_group", find("security_group", key), **body))})


@blueprint.delete("/v2.0/security-groups/<key>")
def delete(key: str) -> tuple[str, int]:
    """Remove a security group that no port has."""
    policy("delete_security_group", write=True)
    with cloud().store:
        cloud().networks.remove_group(find("security_group", key))
    return "", 204


@blueprint.get("/v2.0/security-group-rules")
def rules() -> Response:
    """The rules of all groups."""
    policy("get_security_group_rule")
    return listing("security_group_rules", visible("security_group_rule"))


@blueprint.post("/v2.0/security-group-rules")
def add_rules() -> tuple[Response, int]:
    """Add one rule, or all of a list or none."""
    policy("create_security_group_rule", write=True)
    body = body_object()
    many = body.get("security_group_rules")
    if many is not None and not (isinstance(many, list) and all(isinstance(rule, dict) for rule in many)):
        raise errors.bad_request("Invalid input for security_group_rules. Reason: it is not a list of objects.", "HTTPBadRequest")
    wanted = [body_object("security_group_rule")] if many is None else many
    with cloud().store:
        made = [_add_rule(rule) for rule in wanted]
    return jsonify({"security_group_rule": made[0]} if many is None else {"security_group_rules": made}), 201


def _add_rule(wanted: Document) -> Document:
    only(wanted, *RULE_KEYS, "security_group_id", "description", "project_id", "tenant_id", "remote_address_group_id")
    return cloud().networks.add_rule(find("security_group", str(wanted.get("security_group_id"))), wanted)


@blueprint.get("/v2.0/security-group-rules/<key>")
def show_rule(key: str) -> Response:
    """One rule."""
    policy("get_security_group_rule")
    return jsonify({"security_group_rule": find("security_group_rule", key)})


@blueprint.delete("/v2.0/security-group-rules/<key>")
def delete_rule(key: str) -> tuple[str, int]:
    """Remove a rule."""
    policy("delete_security_group_rule", write=True)
    with cloud().store as store:
        store.remove("security_group_rule", find("security_group_rule", key)["id"])
    return "", 204
