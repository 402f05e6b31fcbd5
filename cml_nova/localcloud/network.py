"""Neutron v2.0 on the wire: networks, subnets, ports, tags, quotas."""

from __future__ import annotations

from flask import Blueprint, Response, jsonify, request

from cml_nova.localcloud import errors
from cml_nova.localcloud.neutron import change, check_request, find, listing, only, owner, policy, visible
from cml_nova.localcloud.scheduler import NETWORK_QUOTA
from cml_nova.localcloud.store import Document
from cml_nova.localcloud.web import body_object, caller, cloud

blueprint = Blueprint("network", __name__)
_TAGGED = {"networks": "network", "subnets": "subnet", "ports": "port", "security-groups": "security_group",
           "floatingips": "floatingip"}
_EXTENSIONS = ("security-group", "standard-attr-tag", "standard-attr-description", "standard-attr-timestamp",
               "standard-attr-revisions", "stateful-security-group", "filter-validation",
               "quotas", "quota_details", "sorting", "pagination", "project-id",
               "binding", "port-security", "availability_zone", "network_availability_zone", "external-net", "router",
               "security-groups-remote-address-group")


@blueprint.before_request
def _check() -> None:
    if request.endpoint not in ("network.versions", "network.version"):
        check_request()


def _version() -> Document:
    return {"id": "v2.0", "status": "CURRENT", "links": [{"rel": "self", "href": f"{cloud().options.url}/network/v2.0/"}]}


@blueprint.get("/")
def versions() -> Response:
    """Version discovery."""
    return jsonify({"versions": [_version()]})


@blueprint.get("/v2.0/")
def version() -> Response:
    """The resources of the one version."""
    url = f"{cloud().options.url}/network/v2.0"
    return jsonify({"resources": [{"name": name, "collection": f"{name}s", "links": [{"rel": "self", "href": f"{url}/{name}s"}]}
                                  for name in ("network", "subnet", "port")]})


@blueprint.get("/v2.0/extensions")
def extensions() -> Response:
    """What is beside the core."""
    return jsonify({"extensions": [_extension(alias) for alias in _EXTENSIONS]})


def _extension(alias: str) -> Document:
    return {"alias": alias, "name": alias, "description": "", "updated": "2016-01-01T00:00:00-00:00", "links": []}


@blueprint.get("/v2.0/extensions/<alias>")
def extension(alias: str) -> Response:
    """One extension."""
    if alias not in _EXTENSIONS:
        raise errors.not_found(f"Extension with alias {alias} does not exist", "HTTPNotFound")
    return jsonify({"extension": _extension(alias)})


# Networks, subnets

@blueprint.get("/v2.0/networks")
def networks() -> Response:
    """The networks."""
    policy("get_network")
    return listing("networks", visible("network"))


@blueprint.get("/v2.0/networks/<key>")
def network(key: str) -> Response:
    """One network."""
    policy("get_network")
    return jsonify({"network": find("network", key)})


@blueprint.get("/v2.0/subnets")
def subnets() -> Response:
    """The subnets."""
    policy("get_subnet")
    return listing("subnets", visible("subnet"))


@blueprint.get("/v2.0/subnets/<key>")
def subnet(key: str) -> Response:
    """One subnet."""
    policy("get_subnet")
    return jsonify({"subnet": find("subnet", key)})


# Ports

@blueprint.get("/v2.0/ports")
def ports() -> Response:
    """The ports."""
    policy("get_port")
    return listing("ports", visible("port"))


@blueprint.get("/v2.0/ports/<key>")
def port(key: str) -> Response:
    """One port."""
    policy("get_port")
    return jsonify({"port": find("port", key)})


@blueprint.post("/v2.0/ports")
def add_port() -> tuple[Response, int]:
    """Make a port that no server has."""
    policy("create_port", write=True)
    body = only(body_object("port"), "name", "description", "network_id", "security_groups", "admin_state_up", "project_id", "tenant_id",
                "device_id")
    with cloud().store:
        project = owner(body)
        network = cloud().store.get("network", str(body.get("network_id")))
        if network and network["router:external"] and not caller().is_admin:
            raise errors.forbidden(f"Tenant {project} not allowed to create port on this network", "HTTPForbidden")
        groups = _groups(body.get("security_groups")) or [cloud().networks.default_group(project)["id"]]
        ports = cloud().networks.add_ports(project, str(body.get("network_id")), groups, [""], name=str(body.get("name") or ""))
        made = change("port", ports[0], description=body.get("description") or "", device_id=body.get("device_id") or "")
    return jsonify({"port": made}), 201


def _groups(keys: object) -> list[str]:
    if keys is not None and not isinstance(keys, list):
        raise errors.bad_request(f"Invalid input for security_groups. Reason: '{keys}' is not a list.", "HTTPBadRequest")
    return [find("security_group", str(key))["id"] for key in keys or []]


@blueprint.put("/v2.0/ports/<key>")
def update_port(key: str) -> Response:
    """Change a port."""
    policy("update_port", write=True)
    body = only(body_object("port"), "name", "description", "security_groups", "admin_state_up", "device_id")
    with cloud().store:
        found = find("port", key)
        _groups(body.get("security_groups"))
        return jsonify({"port": change("port", found, **body)})


@blueprint.delete("/v2.0/ports/<key>")
def delete_port(key: str) -> tuple[str, int]:
    """Remove a port; its server, if there is one, loses it."""
    policy("delete_port", write=True)
    with cloud().store as store:
        found = find("port", key)
        server = store.get("server", found["device_id"])
        if server:
            store.update("server", server["id"], port_ids=[kept for kept in server["port_ids"] if kept != key])
        cloud().networks.remove_port(key)
    return "", 204


# Tags of all kinds

def _tagged(collection: str, key: str) -> tuple[str, Document]:
    if collection not in _TAGGED:
        raise errors.not_found("The resource could not be found.", "HTTPNotFound")
    kind = _TAGGED[collection]
    found = find(kind, key)
    if request.method != "GET":
        policy(f"update_{kind}_tags", write=True, admin=found["project_id"] != caller().project_id)
    return kind, found


def _check_tags(tags: object) -> list[str]:
    if not isinstance(tags, list) or not all(isinstance(tag, str) and 0 < len(tag) <= 255 for tag in tags):
        raise errors.bad_request(f"Invalid input for tags. Reason: '{tags}' is not a list of strings of 1 to 255 characters.",
                                 "HTTPBadRequest")
    return list(dict.fromkeys(tags))


@blueprint.route("/v2.0/<collection>/<key>/tags", methods=["GET", "PUT", "DELETE"])
def tags(collection: str, key: str) -> tuple[Response | str, int]:
    """All tags of a resource: read, replace, remove."""
    with cloud().store:
        kind, found = _tagged(collection, key)
        if request.method == "GET":
            return jsonify({"tags": found["tags"]}), 200
        kept = _check_tags(body_object().get("tags")) if request.method == "PUT" else []
        change(kind, found, tags=kept)
    return (jsonify({"tags": kept}), 200) if request.method == "PUT" else ("", 204)


@blueprint.route("/v2.0/<collection>/<key>/tags/<name>", methods=["GET", "PUT", "DELETE"])
def tag(collection: str, key: str, name: str) -> tuple[str, int]:
    """One tag of a resource: is it there, add, remove."""
    with cloud().store:
        kind, found = _tagged(collection, key)
        there = name in found["tags"]
        if request.method == "PUT":
            change(kind, found, tags=_check_tags([*found["tags"], name]))
            return "", 201
        if not there:
            raise errors.not_found(f"Tag {name} could not be found.", "TagNotFound")
        if request.method == "DELETE":
            change(kind, found, tags=[kept for kept in found["tags"] if kept != name])
    return "", 204


# Quotas

@blueprint.get("/v2.0/quotas/<project_id>")
@blueprint.get("/v2.0/quotas/<project_id>/details")
@blueprint.get("/v2.0/quotas/<project_id>/details.json")
def quota(project_id: str) -> Response:
    """The quota of a project."""
    policy("get_quota", admin=project_id != caller().project_id)
    allowed = cloud().quotas.limits(project_id)
    if "/details" not in request.path:
        return jsonify({"quota": {name: allowed[name] for name in NETWORK_QUOTA}})
    used = cloud().quotas.used(project_id)
    return jsonify({"quota": {name: {"limit": allowed[name], "used": used[name], "reserved": 0} for name in NETWORK_QUOTA}})


@blueprint.get("/v2.0/quotas/<project_id>/default")
def quota_default(project_id: str) -> Response:
    """The quota that projects have at first."""
    policy("get_quota", admin=project_id != caller().project_id)
    return jsonify({"quota": NETWORK_QUOTA})


@blueprint.put("/v2.0/quotas/<project_id>")
def set_quota(project_id: str) -> Response:
    """Change the quota of a project."""
    policy("update_quota", admin=True)
    given = only(body_object("quota"), *NETWORK_QUOTA, "check_limit")
    try:
        cloud().quotas.set(project_id, {name: int(value) for name, value in given.items() if name != "check_limit"})
    except (TypeError, ValueError):
        raise errors.bad_request(f"Invalid input for quota. Reason: {given} are not integers.", "HTTPBadRequest") from None
    allowed = cloud().quotas.limits(project_id)
    return jsonify({"quota": {name: allowed[name] for name in NETWORK_QUOTA}})


@blueprint.delete("/v2.0/quotas/<project_id>")
def reset_quota(project_id: str) -> tuple[str, int]:
    """Give a project the quota back that it had at first."""
    policy("delete_quota", admin=True)
    cloud().quotas.reset(project_id, NETWORK_QUOTA)
    return "", 204
