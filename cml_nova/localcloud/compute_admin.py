"""The smaller resources of Nova on the wire: limits, quotas, key pairs, zones, hypervisors, services."""

from __future__ import annotations

import base64
import hashlib

from flask import Blueprint, Response, jsonify, request

from cml_nova.localcloud import errors
from cml_nova.localcloud.nova import check_request, policy
from cml_nova.localcloud.scheduler import QUOTA
from cml_nova.localcloud.servers import HOST
from cml_nova.localcloud.store import Document
from cml_nova.localcloud.times import iso, iso_fraction
from cml_nova.localcloud.web import body_object, caller, cloud

blueprint = Blueprint("compute_admin", __name__)
blueprint.before_request(check_request)

# Nova's name in the limits by name in the quota
_LIMITS = {"maxTotalInstances": "instances", "maxTotalCores": "cores", "maxTotalRAMSize": "ram", "maxTotalKeypairs": "key_pairs",
           "maxServerMeta": "metadata_items", "maxServerGroups": "server_groups", "maxServerGroupMembers": "server_group_members"}
_USED = {"totalInstancesUsed": "instances", "totalCoresUsed": "cores", "totalRAMUsed": "ram", "totalServerGroupsUsed": "server_groups"}


@blueprint.get("/v2.1/limits")
def limits() -> Response:
    """What a project may have and has."""
    policy("limits")
    project = request.args.get("tenant_id", caller().project_id)
    if project != caller().project_id:
        policy("limits:other_project", admin=True)
    allowed, used = cloud().quotas.limits(project), cloud().quotas.used(project)
    absolute = {shown: allowed[name] for shown, name in _LIMITS.items()} | {shown: used[name] for shown, name in _USED.items()}
    return jsonify({"limits": {"rate": [], "absolute": absolute}})


@blueprint.get("/v2.1/os-quota-sets/<project_id>")
@blueprint.get("/v2.1/os-quota-sets/<project_id>/detail")
def quota(project_id: str) -> Response:
    """The quota of a project."""
    policy("os-quota-sets:show", admin=project_id != caller().project_id)
    allowed = cloud().quotas.limits(project_id)
    if not request.path.endswith("/detail"):
        return jsonify({"quota_set": {"id": project_id, **{name: allowed[name] for name in QUOTA}}})
    used = cloud().quotas.used(project_id)
    return jsonify({"quota_set": {"id": project_id, **{name: {"limit": allowed[name], "in_use": used[name], "reserved": 0}
                                                       for name in QUOTA}}})


@blueprint.get("/v2.1/os-quota-sets/<project_id>/defaults")
def quota_defaults(project_id: str) -> Response:
    """The quota that projects have at first."""
    policy("os-quota-sets:defaults")
    return jsonify({"quota_set": {"id": project_id, **QUOTA}})


@blueprint.put("/v2.1/os-quota-sets/<project_id>")
def set_quota(project_id: str) -> Response:
    """Change the quota of a project."""
    policy("os-quota-sets:update", admin=True)
    given = {name: value for name, value in body_object("quota_set").items() if name != "force"}
    for name, value in given.items():
        if name not in QUOTA or not isinstance(value, int | str) or not str(value).removeprefix("-").isdecimal() or int(value) < -1:
            raise errors.bad_request(f"Invalid input for field/attribute {name}. Value: {value}. A quota is one of {', '.join(QUOTA)} "
                                     "and an integer of at least -1")
    cloud().quotas.set(project_id, {name: int(value) for name, value in given.items()})
    allowed = cloud().quotas.limits(project_id)
    return jsonify({"quota_set": {name: allowed[name] for name in QUOTA}})


@blueprint.delete("/v2.1/os-quota-sets/<project_id>")
def reset_quota(project_id: str) -> tuple[str, int]:
    """Give a project the quota back that it had at first."""
    policy("os-quota-sets:delete", admin=True)
    cloud().quotas.reset(project_id, QUOTA)
    return "", 202


# Key pairs belong to users

def _keypair(name: str) -> Document:
    found = cloud().store.get("keypair", f"{caller().user['id']}:{name}")
    if found is None:
        raise errors.not_found(f"Keypair {name} not found for user {caller().user['id']}")
    return found


def _show_keypair(keypair: Document) -> Document:
    return {key: value for key, value in keypair.items() if key != "id"}


@blueprint.get("/v2.1/os-keypairs")
def keypairs() -> Response:
    """The caller's key pairs."""
    policy("os-keypairs:index")
    return jsonify({"keypairs": [{"keypair": _show_keypair(found)}
                                 for found in cloud().store.find("keypair", user_id=caller().user["id"])]})


@blueprint.post("/v2.1/os-keypairs")
def add_keypair() -> tuple[Response, int]:
    """Import a public key."""
    policy("os-keypairs:create", write=True)
    body = body_object("keypair")
    name, public = str(body.get("name", "")), str(body.get("public_key", ""))
    try:
        digest = hashlib.md5(base64.b64decode(public.split()[1], validate=True), usedforsecurity=False).hexdigest()
    except (IndexError, ValueError):
        raise errors.bad_request("Keypair data is invalid: failed to generate fingerprint (this cloud makes no keys: "
                                 "give a public_key)") from None
    key = f"{caller().user['id']}:{name}"
    with cloud().store as store:
        if store.get("keypair", key):
            raise errors.conflict(f"Key pair '{name}' already exists.")
        keypair = store.put("keypair", {"id": key, "name": name, "public_key": public, "type": body.get("type", "ssh"),
                                        "user_id": caller().user["id"], "created_at": iso_fraction(cloud().clock()),
                                        "fingerprint": ":".join(digest[place:place + 2] for place in range(0, 32, 2))})
    return jsonify({"keypair": _show_keypair(keypair)}), 201


@blueprint.get("/v2.1/os-keypairs/<name>")
def show_keypair(name: str) -> Response:
    """One key pair."""
    policy("os-keypairs:show")
    return jsonify({"keypair": _show_keypair(_keypair(name))})


@blueprint.delete("/v2.1/os-keypairs/<name>")
def delete_keypair(name: str) -> tuple[str, int]:
    """Remove a key pair."""
    policy("os-keypairs:delete", write=True)
    with cloud().store as store:
        store.remove("keypair", _keypair(name)["id"])
    return "", 204


# The one host

@blueprint.get("/v2.1/os-availability-zone")
@blueprint.get("/v2.1/os-availability-zone/detail")
def zones() -> Response:
    """The one zone."""
    admin = request.path.endswith("/detail")
    policy("os-availability-zone:list", admin=admin)
    hosts = {HOST: {"nova-compute": {"available": True, "active": True, "updated_at": iso_fraction(cloud().clock())}}} if admin else None
    return jsonify({"availabilityZoneInfo": [{"zoneName": "nova", "zoneState": {"available": True}, "hosts": hosts}]})


@blueprint.get("/v2.1/os-hypervisors")
@blueprint.get("/v2.1/os-hypervisors/detail")
def hypervisors() -> Response:
    """The one hypervisor."""
    policy("os-hypervisors:list", admin=True)
    number = hashlib.md5(HOST.encode(), usedforsecurity=False).hexdigest()
    shown: Document = {"id": f"{number[:8]}-{number[8:12]}-{number[12:16]}-{number[16:20]}-{number[20:]}", "hypervisor_hostname": HOST,
                       "state": "up", "status": "enabled"}
    if request.path.endswith("/detail"):
        shown |= {"hypervisor_type": "processes", "hypervisor_version": 1, "host_ip": "127.0.0.1", "uptime": None, "servers": [],
                  "service": {"id": HOST, "host": HOST, "disabled_reason": None}}
    return jsonify({"hypervisors": [shown]})


@blueprint.get("/v2.1/os-services")
def services() -> Response:
    """The compute services."""
    policy("os-services:list", admin=True)
    now = iso(cloud().clock())
    return jsonify({"services": [
        {"id": f"{binary}-{HOST}", "binary": binary, "host": HOST, "zone": zone, "status": "enabled", "state": "up", "updated_at": now,
         "disabled_reason": None, "forced_down": False}
        for binary, zone in (("nova-scheduler", "internal"), ("nova-conductor", "internal"), ("nova-compute", "nova"))]})
