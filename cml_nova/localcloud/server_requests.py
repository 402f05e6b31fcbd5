"""What a client may ask of Nova about servers: the body of a create, the filters of a list."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from typing import Any

from flask import request

from cml_nova.localcloud import errors
from cml_nova.localcloud.image import show_images
from cml_nova.localcloud.servers import Request
from cml_nova.localcloud.store import Document
from cml_nova.localcloud.times import parse
from cml_nova.localcloud.web import by_tags, caller, cloud

MAX_COUNT = 2000
MAX_TAGS, MAX_TAG = 50, 60
MAX_USER_DATA = 65535
_HOSTNAME = "[a-zA-Z0-9]+[a-zA-Z0-9-]*[a-zA-Z0-9]+"
_STATUSES = {"ACTIVE", "BUILD", "DELETED", "ERROR", "HARD_REBOOT", "MIGRATING", "PASSWORD", "PAUSED", "REBOOT", "REBUILD", "RESCUE",
             "RESIZE", "REVERT_RESIZE", "SHELVED", "SHELVED_OFFLOADED", "SHUTOFF", "SOFT_DELETED", "SUSPENDED", "UNKNOWN", "VERIFY_RESIZE"}
_KEYS = {"name", "imageRef", "flavorRef", "networks", "security_groups", "tags", "metadata", "user_data", "config_drive", "key_name",
         "min_count", "max_count", "availability_zone", "description", "hostname", "return_reservation_id", "block_device_mapping_v2",
         "adminPass", "OS-DCF:diskConfig", "accessIPv4", "accessIPv6"}


def _invalid(name: str, value: object, reason: str) -> errors.ApiError:
    return errors.bad_request(f"Invalid input for field/attribute {name}. Value: {value}. {reason}")


def _typed(body: Document, name: str, kind: type, default: Any) -> Any:
    value = body.get(name, default)
    if value is not None and (not isinstance(value, kind) or (kind is int and isinstance(value, bool))):
        raise _invalid(name, value, f"{value!r} is not of type '{ {str: 'string', int: 'integer', list: 'array', dict: 'object'}[kind]}'")
    return value


def parse_create(body: Document) -> Request:
    """Give what the ``server`` object of a POST asks for.

    :raises ApiError: 400 naming the field, in Nova's wording where it has one.
    """
    unknown = sorted(set(body) - _KEYS)
    if unknown:
        raise _invalid("server", body, f"Additional properties are not allowed ('{unknown[0]}' was unexpected)")
    for needed in ("name", "flavorRef"):
        if needed not in body:
            raise _invalid("server", body, f"'{needed}' is a required property")
    name = _typed(body, "name", str, "")
    _check_length("name", name, 255)
    if name != name.strip() or not name.isprintable():
        raise errors.bad_request("An invalid 'name' value was provided. The name must be: printable characters. Can not start or end with "
                                 "whitespace.")
    count = _count(body)
    hostname = _hostname(body, count)
    _check_devices(body)
    return Request(
        name=name, count=count, project_id=caller().project_id, user_id=caller().user["id"],
        flavor=_flavor(body), image=_image(body), networks=_networks(body), groups=_groups(body), tags=check_tags(body.get("tags", [])),
        metadata=check_metadata(body.get("metadata", {})), user_data=_user_data(body),
        config_drive=body.get("config_drive") in (True, "True", "true"), key_name=_key_name(body), availability_zone=_zone(body),
        description=_typed(body, "description", str, None), hostname=hostname)


def _check_length(field: str, value: str, longest: int, shortest: int = 1) -> None:
    """Raise what a JSON schema says of a text that is too short or too long.

    :raises ApiError: 400.
    """
    if not shortest <= len(value) <= longest:
        raise _invalid(field, value, f"{value!r} is too {'short' if len(value) < shortest else 'long'}")


def _hostname(body: Document, count: int) -> str | None:
    hostname = _typed(body, "hostname", str, None)
    if hostname is None:
        return None
    _check_length("hostname", hostname, 63, shortest=2)
    if not re.fullmatch(_HOSTNAME, hostname):
        raise _invalid("hostname", hostname, f"{hostname!r} does not match '^{_HOSTNAME}$'")
    if count > 1:
        raise errors.bad_request("Unable to allocate a single hostname to multiple instances")
    return str(hostname)


def _count(body: Document) -> int:
    low, high = (_integer(body, name) for name in ("min_count", "max_count"))
    low, high = low or 1, high or low or 1
    if low > high:
        raise errors.bad_request("min_count must be <= max_count")
    if high > MAX_COUNT:
        raise _invalid("max_count", high, f"{high} is greater than the maximum of {MAX_COUNT}")
    return high


def _integer(body: Document, name: str) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not re.fullmatch(r"-?\d{1,9}", str(value)):
        raise _invalid(name, value, f"{value!r} does not match '^[0-9]*$'")
    if int(value) < 1:
        raise _invalid(name, value, f"{value!r} is less than the minimum of 1")
    return int(value)


def _check_devices(body: Document) -> None:
    for device in _typed(body, "block_device_mapping_v2", list, []):
        if device.get("source_type") != "image" or device.get("destination_type") != "local":
            raise errors.bad_request("Block Device Mapping is Invalid: this cloud has no volumes.")


def _flavor(body: Document) -> Document:
    key = str(body.get("flavorRef", "")).rpartition("/")[2]
    flavor = cloud().store.get("flavor", key)
    if flavor is None:
        raise errors.bad_request(f"Flavor {key} could not be found.")
    return flavor


def _image(body: Document) -> Document:
    key = str(body.get("imageRef", "")).rpartition("/")[2]
    for image in show_images():
        if image["id"] == key:
            return {"id": image["id"], "name": image["name"]}
    raise errors.bad_request("Can not find requested image" if key else "Missing imageRef attribute")


def _networks(body: Document) -> list[str]:
    wanted = body.get("networks", "auto")
    known = [network["id"] for network in cloud().store.all("network")]
    if wanted == "auto" or wanted == []:
        return [key for key in known if not (cloud().store.get("network", key) or {}).get("router:external")][:1]
    if not isinstance(wanted, list) or not all(isinstance(network, dict) for network in wanted):
        raise _invalid("networks", wanted, f"{wanted!r} is not valid under any of the given schemas")
    for network in wanted:
        if "port" in network and not cloud().store.get("port", str(network["port"])):
            raise errors.bad_request(f"Port id {network['port']} could not be found.")
    if any(set(network) - {"uuid", "tag"} for network in wanted):
        raise _invalid("networks", wanted, "this cloud takes networks by 'uuid' only: no 'port', no 'fixed_ip'")
    ids = [str(network.get("uuid")) for network in wanted]
    for key in ids:
        if key not in known:
            raise errors.bad_request(f"Network {key} could not be found.")
    return ids


def _groups(body: Document) -> list[Document]:
    with cloud().store as store:
        default = cloud().networks.default_group(caller().project_id)
        groups = store.find("security_group", project_id=caller().project_id)
    wanted = [str(group.get("name")) for group in _typed(body, "security_groups", list, [])] or ["default"]
    chosen = []
    for name in dict.fromkeys(wanted):
        found = [default] if name == "default" else [group for group in groups if name in (group["id"], group["name"])]
        if not found:
            raise errors.bad_request(f"Unable to find security_group with name or id '{name}'")
        if len(found) > 1:
            raise errors.conflict(f"Multiple security groups found matching '{name}'. Use an ID to be more specific.")
        chosen.append(found[0])
    return chosen


def check_tags(tags: object) -> list[str]:
    """Give the tags of a server as they are kept: each once, in order.

    :raises ApiError: 400.
    """
    if not isinstance(tags, list):
        raise _invalid("tags", tags, f"{tags!r} is not of type 'array'")
    if len(tags) > MAX_TAGS:
        raise _invalid("tags", tags, f"{tags!r} is too long")
    for place, tag in enumerate(tags):  # the schema names a bad tag by its place
        if not isinstance(tag, str):
            raise _invalid(str(place), tag, f"{tag!r} is not of type 'string'")
        _check_length(str(place), tag, MAX_TAG)
        if "/" in tag or "," in tag:
            raise _invalid(str(place), tag, f"{tag!r} does not match '^[^,/]*$'")
    return sorted(set(tags))


def check_metadata(metadata: object) -> dict[str, str]:
    """Give a server's metadata.

    :raises ApiError: 400.
    """
    if not isinstance(metadata, dict):
        raise _invalid("metadata", metadata, f"{metadata!r} is not of type 'object'")
    for key, value in metadata.items():
        if not isinstance(value, str):
            raise _invalid(key, value, f"{value!r} is not of type 'string'")
        _check_length(key, value, 255, shortest=0)
        _check_length("metadata", key, 255)
    return metadata


def _user_data(body: Document) -> str | None:
    text = _typed(body, "user_data", str, None)
    if text is None:
        return None
    _check_length("user_data", text, MAX_USER_DATA, shortest=0)
    try:
        base64.b64decode(text)  # as in Nova, what is no sign of base64 is passed over
    except binascii.Error:
        raise _invalid("user_data", text, f"{text!r} is not a 'base64'") from None
    return str(text)


def _key_name(body: Document) -> str | None:
    name = _typed(body, "key_name", str, None)
    if name is not None and not cloud().store.get("keypair", f"{caller().user['id']}:{name}"):
        raise errors.bad_request("Invalid key_name provided.")
    return name


def _zone(body: Document) -> str:
    zone = _typed(body, "availability_zone", str, None) or "nova"
    if zone != "nova":
        raise errors.bad_request("The requested availability zone is not available")
    return str(zone)


# Filters. Those of the first group work for everyone, those of the second are ignored for others than admins.

_OPEN: dict[str, Callable[[Document, str], bool]] = {
    "name": lambda server, value: bool(re.search(value, server["name"])),
    "status": lambda server, value: server["status"] == value.upper(),
    "flavor": lambda server, value: server["flavor"]["id"] == value,
    "image": lambda server, value: server["image"]["id"] == value,
    "reservation_id": lambda server, value: server["reservation_id"] == value,
    "ip": lambda server, value: bool(server["port_ids"]) and bool(re.search(value, cloud().servers.address(server))),
    "uuid": lambda server, value: server["id"] == value,
    "user_id": lambda server, value: server["user_id"] == value,
    "key_name": lambda server, value: server["key_name"] == value,
    "vm_state": lambda server, value: server["vm_state"] == value,
    "task_state": lambda server, value: (server["task_state"] or "None") == value,
    "power_state": lambda server, value: str(server["power_state"]) == value,
    "availability_zone": lambda server, value: server["availability_zone"] == value,
    "hostname": lambda server, value: server["hostname"] == value,
}
_PATTERNS = ("name", "ip")  # values that are regular expressions
_ADMIN: dict[str, Callable[[Document, str], bool]] = {
    "project_id": lambda server, value: server["project_id"] == value,
    "tenant_id": lambda server, value: server["project_id"] == value,
    "host": lambda server, value: server["host"] == value,
}
_TAKEN = {*_OPEN, *_ADMIN, "tags", "tags-any", "not-tags", "not-tags-any", "all_tenants", "deleted", "changes-since", "changes-before",
          "limit", "marker", "sort_key", "sort_dir"}
# Nova knows these as well; no server of this cloud differs in them.
_KNOWN = {"access_ip_v4", "access_ip_v6", "auto_disk_config", "config_drive", "created_at", "description", "display_name",
          "display_description", "ip6", "kernel_id", "launch_index", "launched_at", "locked", "locked_by", "node", "progress", "ramdisk_id",
          "root_device_name", "soft_deleted", "terminated_at", "block_device_mapping", "services", "metadata", "security_groups",
          "system_metadata", "info_cache", "pci_devices"}
_SORT = {"created_at": "created", "updated_at": "updated", "display_name": "name", "uuid": "id", "name": "name", "id": "id"}


def list_servers() -> list[Document]:
    """Give the servers that the request asks for and the caller may see, newest first if no order is asked for.

    :raises ApiError: 400 a parameter that Nova does not know, or a bad value; 403 all_tenants by others than admins.
    """
    unknown = sorted(set(request.args) - _TAKEN - _KNOWN)
    if unknown:
        raise errors.bad_request(f"Invalid input for query parameters. Value: {unknown[0]}. "
                                 f"Additional properties are not allowed ('{unknown[0]}' was unexpected)")
    if any(value.upper() not in _STATUSES for value in request.args.getlist("status")):
        raise errors.bad_request("Invalid status value")
    if request.args.get("sort_dir", "desc") not in ("asc", "desc"):
        raise errors.bad_request("Invalid input received: Unknown sort direction, must be 'desc' or 'asc'")
    servers = by_tags(_scoped())
    hidden = [server for server in servers if cloud().servers.hidden(server)]
    servers = [server for server in servers if not cloud().servers.hidden(server)]
    filters = {**_OPEN, **_ADMIN} if caller().is_admin else _OPEN
    for name in set(request.args) & set(filters):
        servers = _matching(servers, name, filters[name])
    sort_key = _SORT.get(request.args.get("sort_key", "created_at"))
    if sort_key is None:
        raise errors.bad_request(f"Invalid input for query parameters sort_key. Value: {request.args['sort_key']}.")
    marker = cloud().store.get("deleted_server", request.args.get("marker", ""))
    if marker and marker not in servers:
        servers.append(marker)  # where it was, the page begins
    servers.sort(key=lambda server: (server[sort_key], server["launch_index"]), reverse=request.args.get("sort_dir", "desc") == "desc")
    # Nova can't tell where servers of a cell that does not answer belong, nor whether they fit a filter: they come last, where nobody asks
    # for an order, a part or a page, and are left out otherwise.
    return servers if request.args else servers + hidden


def _scoped() -> list[Document]:
    store = cloud().store
    every = request.args.get("all_tenants", "0").lower() not in ("0", "false", "f", "no", "n", "off")
    if every and not caller().is_admin:
        raise errors.forbidden("Policy doesn't allow os_compute_api:servers:detail:get_all_tenants to be performed.")
    every = every or (caller().is_admin and bool({"project_id", "tenant_id"} & set(request.args)))
    deleted = request.args.get("deleted", "").lower() in ("1", "true") and caller().is_admin
    since = request.args.get("changes-since")
    servers = [] if deleted else store.all("server")
    if deleted or since:
        servers += store.all("deleted_server")
    for name, sign in (("changes-since", 1), ("changes-before", -1)):
        if name in request.args:
            limit = parse(name, request.args[name])
            servers = [server for server in servers if sign * server["updated"] >= sign * limit]
    return [server for server in servers if every or server["project_id"] == caller().project_id]


def _matching(servers: list[Document], name: str, test: Callable[[Document, str], bool]) -> list[Document]:
    values = request.args.getlist(name)
    try:
        for value in values if name in _PATTERNS else ():
            re.compile(value)
    except re.error:
        raise errors.bad_request(f"Invalid input for query parameters {name}. Value: {value}. '{value}' is not a 'regex'") from None
    return [server for server in servers if any(test(server, value) for value in values)]
