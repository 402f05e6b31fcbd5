"""Nova's servers on the wire, as of microversion 2.90."""

from __future__ import annotations

import hashlib
import secrets
from typing import Any

from flask import Blueprint, Response, jsonify, request

from cml_nova.localcloud import errors
from cml_nova.localcloud.networks import NETWORK_NAME
from cml_nova.localcloud.nova import MAX_VERSION, MIN_VERSION, check_request, links, policy
from cml_nova.localcloud.server_requests import MAX_TAGS, check_metadata, check_tags, list_servers, parse_create
from cml_nova.localcloud.servers import FAULT_DELAY, HOST
from cml_nova.localcloud.store import Document
from cml_nova.localcloud.times import iso, iso_fraction
from cml_nova.localcloud.web import body_object, caller, cloud, page

blueprint = Blueprint("compute", __name__)


@blueprint.before_request
def _check() -> None:
    if request.endpoint not in ("compute.versions", "compute.version"):
        check_request()


def _version() -> Document:
    return {"id": "v2.1", "status": "CURRENT", "version": MAX_VERSION, "min_version": MIN_VERSION, "updated": "2013-07-23T11:33:21Z",
            "links": [{"rel": "self", "href": f"{cloud().options.url}/compute/v2.1/"}]}


@blueprint.get("/")
def versions() -> Response:
    """Version discovery."""
    return jsonify({"versions": [_version()]})


@blueprint.get("/v2.1/")
def version() -> Response:
    """The one version."""
    return jsonify({"version": {**_version(), "media-types": [{"base": "application/json",
                                                               "type": "application/vnd.openstack.compute+json;version=2.1"}]}})


# Servers

def _find(server_id: str, *, partial: bool = False) -> Document:
    """Find a server for something to be done with it.

    :param partial: it is enough to know that there is one.
    """
    server = cloud().store.get("server", server_id)
    if server is None or not (caller().is_admin or server["project_id"] == caller().project_id):
        raise errors.not_found(f"Instance {server_id} could not be found.")
    if cloud().servers.hidden(server) and not partial:
        raise errors.ApiError(500, "Unexpected API Error. The cell is not responding and hence instance info is not available.")
    return server


def _change(server_id: str, **changes: Any) -> Document:
    with cloud().store as store:
        return store.update("server", _find(server_id)["id"], updated=cloud().clock(), **changes)


def _brief(server: Document) -> Document:
    if cloud().servers.hidden(server):
        return {"id": server["id"], "status": "UNKNOWN", "links": links(f"servers/{server['id']}")}
    return {"id": server["id"], "name": server["name"], "links": links(f"servers/{server['id']}")}


def _addresses(server: Document) -> Document:
    ports = [port for port in map(lambda key: cloud().store.get("port", key), server["port_ids"]) if port]
    if not ports:
        return {}
    floating = {one["port_id"]: one["floating_ip_address"] for one in cloud().store.all("floatingip")}
    found = [(port, kind, address) for port in ports
             for kind, address in (("fixed", port["fixed_ips"][0]["ip_address"]), ("floating", floating.get(port["id"]))) if address]
    return {NETWORK_NAME: [{"version": 4, "addr": address, "OS-EXT-IPS:type": kind, "OS-EXT-IPS-MAC:mac_addr": port["mac_address"]}
                           for port, kind, address in found]}


def _listed(server: Document) -> Document:
    """Show a server as a list does: where Nova's API has the database of a cell, it lacks the faults of servers that never got a host."""
    shown = _show(server)
    if not server["host"]:
        shown.pop("fault", None)
    return shown


def _show(server: Document) -> Document:
    if cloud().servers.hidden(server):  # what the API's own database knows
        return {"id": server["id"], "status": "UNKNOWN", "tenant_id": server["project_id"], "created": iso(server["created"]),
                "links": links(f"servers/{server['id']}")}
    flavor = server["flavor"]
    shown: Document = {
        **_brief(server), "status": server["status"], "tenant_id": server["project_id"], "user_id": server["user_id"],
        "metadata": server["metadata"], "hostId": _host_id(server), "image": {"id": server["image"]["id"],
                                                                              "links": links(f"images/{server['image']['id']}")[1:]},
        "flavor": {"vcpus": flavor["vcpus"], "ram": flavor["ram"], "disk": flavor["disk"], "ephemeral": 0, "swap": 0,
                   "original_name": flavor["name"], "extra_specs": flavor["extra_specs"]},
        "created": iso(server["created"]), "updated": iso(server["updated"]), "addresses": _addresses(server),
        "accessIPv4": "", "accessIPv6": "", "OS-DCF:diskConfig": "MANUAL", "config_drive": "True" if server["config_drive"] else "",
        "OS-EXT-AZ:availability_zone": server["availability_zone"] if server["host"] else "", "key_name": server["key_name"],
        "OS-SRV-USG:launched_at": iso_fraction(server["launched_at"]), "OS-SRV-USG:terminated_at": iso_fraction(server["terminated_at"]),
        "OS-EXT-STS:task_state": server["task_state"], "OS-EXT-STS:vm_state": server["vm_state"],
        "OS-EXT-STS:power_state": server["power_state"], "OS-EXT-SRV-ATTR:hostname": server["hostname"],
        "os-extended-volumes:volumes_attached": [], "locked": server["locked"], "locked_reason": None,
        "description": server["description"], "tags": server["tags"], "trusted_image_certificates": None, "server_groups": []}
    if server["host"]:
        shown["security_groups"] = [{"name": name} for name in server["security_groups"]]
    if server["status"] == "ACTIVE":
        shown["progress"] = 0
    if server["fault"] and cloud().clock() >= server["fault"]["created"] + FAULT_DELAY:
        shown["fault"] = {**server["fault"], "created": iso(server["fault"]["created"])}
    if caller().is_admin:
        shown |= {"OS-EXT-SRV-ATTR:host": server["host"], "OS-EXT-SRV-ATTR:hypervisor_hostname": server["host"],
                  "OS-EXT-SRV-ATTR:instance_name": f"instance-{server['id'][:8]}", "OS-EXT-SRV-ATTR:user_data": server["user_data"],
                  "OS-EXT-SRV-ATTR:reservation_id": server["reservation_id"], "OS-EXT-SRV-ATTR:launch_index": server["launch_index"],
                  "OS-EXT-SRV-ATTR:root_device_name": "/dev/vda", "OS-EXT-SRV-ATTR:kernel_id": "", "OS-EXT-SRV-ATTR:ramdisk_id": ""}
    if caller().is_admin or cloud().settings.host_status:
        shown["host_status"] = "" if not server["host"] else "DOWN" if server.get("host_down") else "UP"
    return shown


def _host_id(server: Document) -> str:
    return hashlib.sha224((server["project_id"] + HOST).encode()).hexdigest() if server["host"] else ""


def _listing(path: str, show: Any) -> Response:
    servers, rest = page(list_servers())
    body: Document = {"servers": [show(server) for server in servers]}
    if rest:
        body["servers_links"] = [{"rel": "next", "href": f"{cloud().options.url}/compute/v2.1/{path}?{rest}"}]
    return jsonify(body)


@blueprint.get("/v2.1/servers")
def index() -> Response:
    """Names and ids."""
    policy("servers:index")
    return _listing("servers", _brief)


@blueprint.get("/v2.1/servers/detail")
def detail() -> Response:
    """All of the servers."""
    policy("servers:detail")
    return _listing("servers/detail", _listed)


@blueprint.post("/v2.1/servers")
def create() -> tuple[Response, int]:
    """Make one server or many."""
    policy("servers:create", write=True)
    body = body_object("server")
    created = cloud().servers.create(parse_create(body))
    if body.get("return_reservation_id") in (True, "True", "true"):
        return jsonify({"reservation_id": created[0]["reservation_id"]}), 202
    first = created[0]
    response = jsonify({"server": {"id": first["id"], "links": links(f"servers/{first['id']}"), "OS-DCF:diskConfig": "MANUAL",
                                   "security_groups": [{"name": name} for name in first["security_groups"]],
                                   "adminPass": secrets.token_urlsafe(9)}})
    response.headers["Location"] = f"{cloud().options.url}/compute/v2.1/servers/{first['id']}"
    return response, 202


@blueprint.get("/v2.1/servers/<server_id>")
def show(server_id: str) -> Response:
    """One server."""
    policy("servers:show")
    return jsonify({"server": _show(_find(server_id, partial=True))})


@blueprint.put("/v2.1/servers/<server_id>")
def update(server_id: str) -> Response:
    """Another name or description."""
    policy("servers:update", write=True)
    body = body_object("server")
    unknown = sorted(set(body) - {"name", "description"})
    if unknown:
        raise errors.bad_request(f"Additional properties are not allowed ('{unknown[0]}' was unexpected)")
    return jsonify({"server": _show(_change(server_id, **body))})


@blueprint.delete("/v2.1/servers/<server_id>")
def delete(server_id: str) -> tuple[str, int]:
    """Begin to delete a server."""
    policy("servers:delete", write=True)
    cloud().servers.delete(_find(server_id)["id"])
    return "", 204


# Actions

def _console(server: Document, options: Document) -> Document:
    return {"output": f"{server['hostname']}: a guest of the local cloud; it has no console. Its state is {server['status']}.\n"}


def _require(server: Document, action: str, *states: str) -> None:
    if server["vm_state"] not in states or server["task_state"]:
        state = f"task_state {server['task_state']}" if server["task_state"] else f"vm_state {server['vm_state']}"
        raise errors.conflict(f"Cannot '{action}' instance {server['id']} while it is in {state}")


def _stop(server: Document, options: Document) -> None:
    _require(server, "stop", "active", "error")
    cloud().servers.stop(server["id"])


def _start(server: Document, options: Document) -> None:
    _require(server, "start", "stopped")
    cloud().servers.start(server["id"])


def _reboot(server: Document, options: Document) -> None:
    _require(server, "reboot", "active", "stopped")
    cloud().servers.reboot(server["id"])


def _reset(server: Document, options: Document) -> None:
    policy("os-admin-actions:reset_state", admin=True)
    if options.get("state") not in ("active", "error"):
        raise errors.bad_request(f"Invalid input for field/attribute state. Value: {options.get('state')}. It is not one of "
                                 "['active', 'error']")
    cloud().servers.reset_state(server["id"], str(options["state"]))


def _force_delete(server: Document, options: Document) -> None:
    cloud().servers.delete(server["id"])


_ACTIONS = {"os-getConsoleOutput": _console, "os-stop": _stop, "os-start": _start, "reboot": _reboot, "os-resetState": _reset,
            "forceDelete": _force_delete}


@blueprint.post("/v2.1/servers/<server_id>/action")
def action(server_id: str) -> tuple[Response | str, int]:
    """Do something to a server."""
    policy("servers:action", write=True)
    server = _find(server_id)
    body = body_object()
    name = next(iter(body), "")
    if len(body) != 1 or name not in _ACTIONS:
        raise errors.bad_request(f"There is no such action: {name}")
    answer = _ACTIONS[name](server, body[name] or {})
    return (jsonify(answer), 200) if answer is not None else ("", 202)


# Parts of a server

@blueprint.get("/v2.1/servers/<server_id>/os-interface")
def interfaces(server_id: str) -> Response:
    """The ports."""
    policy("os-attach-interfaces:list")
    ports = (cloud().store.get("port", key) for key in _find(server_id)["port_ids"])
    return jsonify({"interfaceAttachments": [
        {"port_id": port["id"], "net_id": port["network_id"], "mac_addr": port["mac_address"], "port_state": port["status"],
         "fixed_ips": port["fixed_ips"], "tag": None} for port in ports if port]})


@blueprint.get("/v2.1/servers/<server_id>/ips")
def ips(server_id: str) -> Response:
    """The addresses by network."""
    policy("ips:index")
    return jsonify({"addresses": {network: [{"version": 4, "addr": one["addr"]} for one in found]
                                  for network, found in _addresses(_find(server_id)).items()}})


@blueprint.get("/v2.1/servers/<server_id>/os-security-groups")
def groups(server_id: str) -> Response:
    """The security groups."""
    policy("os-security-groups:list")
    server = _find(server_id)
    ids = {group for key in server["port_ids"] for group in (cloud().store.get("port", key) or {"security_groups": []})["security_groups"]}
    return jsonify({"security_groups": [
        {"id": group["id"], "name": group["name"], "description": group["description"], "tenant_id": group["project_id"], "rules": []}
        for group in cloud().store.all("security_group") if group["id"] in ids]})


@blueprint.route("/v2.1/servers/<server_id>/metadata", methods=["GET", "POST", "PUT"])
def metadata(server_id: str) -> Response:
    """The metadata: read, add to, replace."""
    policy("server-metadata:index", write=request.method != "GET")
    server = _find(server_id)
    if request.method != "GET":
        given = check_metadata(body_object("metadata"))
        server = _change(server_id, metadata={**server["metadata"], **given} if request.method == "POST" else given)
    return jsonify({"metadata": server["metadata"]})


@blueprint.route("/v2.1/servers/<server_id>/tags", methods=["GET", "PUT", "DELETE"])
def tags(server_id: str) -> tuple[Response | str, int]:
    """All tags: read, replace, remove."""
    policy("os-server-tags:index", write=request.method != "GET")
    server = _find(server_id)
    if request.method == "GET":
        return jsonify({"tags": server["tags"]}), 200
    kept = check_tags(body_object().get("tags")) if request.method == "PUT" else []
    _change(server_id, tags=kept)
    return (jsonify({"tags": kept}), 200) if request.method == "PUT" else ("", 204)


@blueprint.route("/v2.1/servers/<server_id>/tags/<name>", methods=["GET", "PUT", "DELETE"])
def tag(server_id: str, name: str) -> tuple[str, int]:
    """One tag: is it there, add, remove."""
    policy("os-server-tags:show", write=request.method != "GET")
    server = _find(server_id)
    there = name in server["tags"]
    if request.method == "PUT":
        if len(server["tags"]) >= MAX_TAGS and not there:
            raise errors.bad_request(f"The number of tags exceeded the per-server limit {MAX_TAGS}")
        _change(server_id, tags=check_tags([*server["tags"], name]))
        return "", 204 if there else 201
    if not there:
        raise errors.not_found(f"Server {server_id} has no tag '{name}'")
    if request.method == "DELETE":
        _change(server_id, tags=[kept for kept in server["tags"] if kept != name])
    return "", 204
