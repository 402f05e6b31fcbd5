"""What the services say when they refuse: clients read these words, and so do we."""

from __future__ import annotations

import re
import uuid
from typing import Any

import pytest
import requests
from openstack import connection as sdk_connection

from cml_nova import exception
from cml_nova.compute import rest
from cml_nova.compute.catalog import Catalog, Image
from cml_nova.compute.fleet import Fleet
from tests.contract.conftest import Target

WRONG = str(uuid.uuid4())


@pytest.fixture(scope="module")
def server(catalog: Catalog, image: Image, fleet: Fleet, target: Target) -> dict[str, Any]:
    """A server that Nova would make."""
    return {"name": "cml-contract", "flavorRef": catalog.get_flavor(target.flavor).id, "imageRef": image.id,
            "networks": [{"uuid": fleet.network_id()}]}


@pytest.mark.parametrize(("change", "says"), [
    ({"flavorRef": WRONG}, f"Flavor {WRONG} could not be found."),
    ({"imageRef": WRONG}, "Can not find requested image"),
    ({"networks": [{"uuid": WRONG}]}, f"Network {WRONG} could not be found."),
    ({"networks": [{"port": WRONG}]}, f"Port id {WRONG} could not be found."),
    ({"networks": "all"}, "Invalid input for field/attribute networks. Value: all. 'all' is not valid under any of the given schemas"),
    ({"security_groups": [{"name": WRONG}]}, f"Unable to find security_group with name or id '{WRONG}'"),
    ({"name": ""}, "Invalid input for field/attribute name. Value: . '' is too short"),
    ({"name": " x"}, "An invalid 'name' value was provided. The name must be: printable characters. Can not start or end with whitespace."),
    ({"min_count": 0}, "Invalid input for field/attribute min_count. Value: 0. 0 is less than the minimum of 1"),
    ({"min_count": "x"}, "Invalid input for field/attribute min_count. Value: x. 'x' does not match '^[0-9]*$'"),
    ({"min_count": 3, "max_count": 2}, "min_count must be <= max_count"),
    ({"availability_zone": "nowhere"}, "The requested availability zone is not available"),
    ({"key_name": "nothing"}, "Invalid key_name provided."),
    ({"metadata": {"a": 1}}, "Invalid input for field/attribute a. Value: 1. 1 is not of type 'string'"),
    ({"user_data": "abc"}, "Invalid input for field/attribute user_data. Value: abc. 'abc' is not a 'base64'"),
    ({"tags": ["a/b"]}, "Invalid input for field/attribute 0. Value: a/b. 'a/b' does not match '^[^,/]*$'"),
    ({"tags": ["a,b"]}, "Invalid input for field/attribute 0. Value: a,b. 'a,b' does not match '^[^,/]*$'"),
    ({"tags": ["a", ""]}, "Invalid input for field/attribute 1. Value: . '' is too short"),
    ({"tags": ["x" * 61]}, f"Invalid input for field/attribute 0. Value: {'x' * 61}. '{'x' * 61}' is too long"),
    ({"tags": "a"}, "Invalid input for field/attribute tags. Value: a. 'a' is not of type 'array'"),
    ({"hostname": "-_a b"},
     "Invalid input for field/attribute hostname. Value: -_a b. '-_a b' does not match '^[a-zA-Z0-9]+[a-zA-Z0-9-]*[a-zA-Z0-9]+$'"),
])
def test_nova_on_a_server_that_can_not_be(connection: sdk_connection.Connection, server: dict[str, Any], change: dict[str, Any],
                                          says: str) -> None:
    response = connection.compute.post("/servers", json={"server": server | change}, microversion=rest.MICROVERSION)
    assert (response.status_code, response.json()) == (400, {"badRequest": {"code": 400, "message": says}})


def test_nova_on_bodies_that_are_none(connection: sdk_connection.Connection) -> None:
    for kwargs, says in (({"json": {}}, "'server' is a required property"),
                         ({"data": "{", "headers": {"Content-Type": "application/json"}}, "Malformed request body")):
        response = connection.compute.post("/servers", microversion=rest.MICROVERSION, **kwargs)
        assert (response.status_code, response.json()["badRequest"]["message"]) == (400, says)


@pytest.mark.parametrize(("query", "says"), [
    ("flavour=x", r".*'flavour'.*"),
    ("limit=x", r"Invalid input for query parameters limit. Value: x. 'x' does not match '\^\[0-9\]\*\$'"),
    ("marker=" + WRONG, rf"marker \[{WRONG}\] not found"),
    ("status=NONE", "Invalid status value"),
    ("sort_dir=up", "Invalid input received: Unknown sort direction, must be 'desc' or 'asc'"),
    ("name=[", r"Invalid input for query parameters name. Value: \[. '\[' is not a 'regex'"),
    ("changes-since=x", r"Invalid input for query parameters changes-since. Value: x. 'x' is not a 'date-time'"),
])
def test_nova_on_filters(connection: sdk_connection.Connection, query: str, says: str) -> None:
    response = connection.compute.get(f"/servers/detail?{query}", microversion=rest.MICROVERSION)
    assert response.status_code == 400
    assert re.fullmatch(says, response.json()["badRequest"]["message"]), response.text


def test_nova_on_what_only_administrators_may(connection: sdk_connection.Connection) -> None:
    project = connection.current_project_id
    for method, path, body, rule in (("GET", "/servers/detail?all_tenants=1", None, "servers:detail:get_all_tenants"),
                                     ("PUT", f"/os-quota-sets/{project}", {"quota_set": {"instances": 1}}, "os-quota-sets:update")):
        response = connection.compute.request(path, method, json=body, microversion=rest.MICROVERSION, raise_exc=False)
        assert response.status_code == 403
        assert response.json()["forbidden"]["message"] == f"Policy doesn't allow os_compute_api:{rule} to be performed."


@pytest.mark.parametrize(("method", "path", "body", "status", "kind", "says"), [
    ("GET", "/networks?colour=red", None, 400, "HTTPBadRequest", "['colour'] is invalid attribute for filtering"),
    ("GET", "/ports?limit=x", None, 400, "BadRequest", "Bad limit request: Limit must be an integer 0 or greater and not 'x'."),
    ("GET", f"/floatingips/{WRONG}", None, 404, "FloatingIPNotFound", f"Floating IP {WRONG} could not be found"),
    ("DELETE", f"/ports/{WRONG}", None, 404, "PortNotFound", f"Port {WRONG} could not be found."),
    ("DELETE", f"/security-groups/{WRONG}", None, 404, "SecurityGroupNotFound", f"Security group {WRONG} does not exist"),
    ("POST", "/security-groups", {}, 400, "HTTPBadRequest", "Resource body required"),
    ("POST", "/security-groups", {"security_group": {"name": "default"}}, 409, "SecurityGroupDefaultAlreadyExists",
     "Default security group already exists."),
    ("POST", "/security-groups", {"security_group": {"colour": "red"}}, 400, "HTTPBadRequest", "Unrecognized attribute(s) 'colour'"),
    ("POST", "/ports", {"port": {"network_id": WRONG}}, 404, "NetworkNotFound", f"Network {WRONG} could not be found."),
    ("POST", "/floatingips", {"floatingip": {"floating_network_id": WRONG}}, 404, "NetworkNotFound",
     f"Network {WRONG} could not be found."),
    ("POST", "/floatingips", {"floatingip": {}}, 400, "HTTPBadRequest",
     "Failed to parse request. Required attribute 'floating_network_id' not specified"),
])
def test_neutron(connection: sdk_connection.Connection, method: str, path: str, body: Any, status: int, kind: str, says: str) -> None:
    response = connection.network.request(path, method, json=body, raise_exc=False)
    assert (response.status_code, response.json()) == (status, {"NeutronError": {"type": kind, "message": says, "detail": ""}})


@pytest.mark.parametrize(("rule", "status", "kind", "says"), [
    ({"direction": "in"}, 400, "HTTPBadRequest", "Invalid input for direction. Reason: in is not in valid_values."),
    ({"remote_ip_prefix": "::/0"}, 400, "SecurityGroupRuleParameterConflict", "Conflicting value ethertype IPv4 for CIDR ::/0"),
    ({"remote_group_id": WRONG}, 404, "SecurityGroupNotFound", f"Security group {WRONG} does not exist"),
    ({"port_range_min": 1, "port_range_max": 2}, 400, "SecurityGroupProtocolRequiredWithPorts",
     "Must also specify protocol if port range is given."),
    ({"protocol": "tcp", "port_range_min": 70000, "port_range_max": 70000}, 400, "SecurityGroupInvalidPortValue",
     "Invalid value for port 70000"),
])
def test_neutron_on_rules(connection: sdk_connection.Connection, fleet: Fleet, some_group: str, rule: dict[str, Any], status: int,
                          kind: str, says: str) -> None:
    body = {"security_group_rule": {"security_group_id": some_group, "direction": "ingress", "ethertype": "IPv4", **rule}}
    response = connection.network.post("/security-group-rules", json=body)
    assert (response.status_code, response.json()) == (status, {"NeutronError": {"type": kind, "message": says, "detail": ""}})


@pytest.fixture(scope="module")
def some_group(fleet: Fleet) -> Any:
    job_id = str(uuid.uuid4())
    yield fleet.ensure_group(job_id)
    fleet.delete_groups(job_id)


def test_glance_answers_in_html(connection: sdk_connection.Connection) -> None:
    response = connection.image.get(f"/images/{WRONG}")
    assert response.status_code == 404
    assert response.text.startswith("<html>")
    with pytest.raises(exception.NotFound, match="404"):
        rest.get(connection, "image", f"/images/{WRONG}", "look")


@pytest.mark.parametrize("service", ["compute", "image", "network", "identity"])
def test_a_token_that_is_none_is_401(connection: sdk_connection.Connection, service: str) -> None:
    path = {"compute": "/servers", "image": "/images", "network": "/networks", "identity": "/projects"}[service]
    response = getattr(connection, service).get(path, headers={"X-Auth-Token": "none"}, authenticated=False)
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"].startswith("Keystone uri=")


@pytest.mark.parametrize(("body", "status", "says"), [
    ({}, 400, "Expecting to find auth in request body. The server could not comply"),
    ({"auth": {"identity": {"methods": ["none"]}}}, 400, "Expecting to find none in identity. The server could not comply"),
    ({"auth": {"identity": {"methods": ["password"], "password": {"user": {"name": WRONG, "domain": {"id": "default"}, "password": "x"}}}}},
     401, "The request you have made requires authentication."),
])
def test_keystone(connection: sdk_connection.Connection, body: Any, status: int, says: str) -> None:
    url = str(connection.config.config["auth"]["auth_url"]).rstrip("/").removesuffix("/v3")
    response = requests.post(f"{url}/v3/auth/tokens", json=body, timeout=60)
    assert response.status_code == response.json()["error"]["code"] == status
    assert response.json()["error"]["message"].startswith(says)
