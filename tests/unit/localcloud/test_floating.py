"""Floating addresses: made, associated, and what becomes of them when their port goes."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.localcloud.conftest import Client, Site

FLOATING = "network/v2.0/floatingips"


def external(client: Client) -> str:
    return str(client.get("network/v2.0/networks?router:external=true")["networks"][0]["id"])


def port_of(client: Client, server_id: str) -> dict[str, Any]:
    port: dict[str, Any] = client.get(f"network/v2.0/ports?device_id={server_id}")["ports"][0]
    return port


def make(client: Client, status: int = 201, **wanted: Any) -> Any:
    return client.post(FLOATING, {"floatingip": {"floating_network_id": external(client), **wanted}}, status)


def test_an_address_stands_for_a_server_until_its_port_goes(site: Site, demo: Client) -> None:
    server_id = demo.boot()["server"]["id"]
    site.after(1)
    port = port_of(demo, server_id)
    fixed = port["fixed_ips"][0]["ip_address"]
    made = make(demo, port_id=port["id"], description="d")["floatingip"]
    assert (made["port_id"], made["fixed_ip_address"], made["status"], made["description"]) == (port["id"], fixed, "ACTIVE", "d")
    address = made["floating_ip_address"]
    assert site.hypervisor.forwards[address]() == server_id
    shown = demo.servers()[0]["addresses"]["local-net"]
    assert [(entry["addr"], entry["OS-EXT-IPS:type"]) for entry in shown] == [(fixed, "fixed"), (address, "floating")]
    assert make(demo, 409, port_id=port["id"])["NeutronError"]["type"] == "FloatingIPPortAlreadyAssociated"
    demo.request("DELETE", f"compute/v2.1/servers/{server_id}")
    site.after(1)
    left = demo.get(f"{FLOATING}?description=d")["floatingips"][0]
    assert (left["port_id"], left["fixed_ip_address"], left["status"]) == (None, None, "DOWN")
    assert site.hypervisor.forwards[address]() is None
    assert demo.request("DELETE", f"{FLOATING}/{left['id']}").status_code == 204
    assert site.hypervisor.forwards == {}
    gone = demo.request("GET", f"{FLOATING}/{left['id']}")
    assert (gone.status_code, gone.json["NeutronError"]["type"]) == (404, "FloatingIPNotFound")


def test_an_address_is_given_another_port(site: Site, demo: Client) -> None:
    demo.boot(count=2)
    first, second = (port_of(demo, server["id"]) for server in demo.servers())
    made = make(demo, port_id=first["id"])["floatingip"]
    path = f"{FLOATING}/{made['id']}"
    changed = demo.request("PUT", path, {"floatingip": {"port_id": second["id"], "description": "new"}}).json["floatingip"]
    assert (changed["port_id"], changed["description"]) == (second["id"], "new")
    assert demo.request("PUT", path, {"floatingip": {"port_id": None}}).json["floatingip"]["status"] == "DOWN"
    assert site.hypervisor.forwards[made["floating_ip_address"]]() is None


@pytest.mark.parametrize(("wanted", "status", "kind", "text"), [
    ({"floating_network_id": None}, 400, "HTTPBadRequest", "Required attribute 'floating_network_id' not specified"),
    ({"floating_network_id": "none"}, 404, "NetworkNotFound", "Network none could not be found."),
    ({"port_id": "none"}, 404, "PortNotFound", "Port none could not be found."),
    ({"colour": "red"}, 400, "HTTPBadRequest", "Unrecognized attribute(s) 'colour'"),
])
def test_refusals(demo: Client, wanted: dict[str, Any], status: int, kind: str, text: str) -> None:
    error = make(demo, status, **wanted)["NeutronError"]
    assert error["type"] == kind
    assert text in error["message"]


def test_a_network_that_is_not_external_and_a_fixed_address_of_another_are_refused(demo: Client) -> None:
    inside = demo.get("network/v2.0/networks?router:external=false")["networks"][0]["id"]
    assert "is not a valid external network" in make(demo, 400, floating_network_id=inside)["NeutronError"]["message"]
    port = port_of(demo, demo.boot()["server"]["id"])
    assert "does not have fixed ip 10.0.0.1" in make(demo, 400, port_id=port["id"], fixed_ip_address="10.0.0.1")["NeutronError"]["message"]


def test_quota_and_the_end_of_the_pool(site: Site, demo: Client) -> None:
    site.client("local-admin").request("PUT", f"network/v2.0/quotas/{demo.project}", {"quota": {"floatingip": 1}})
    make(demo)
    assert make(demo, 409)["NeutronError"] == {
        "type": "OverQuota", "message": "Quota exceeded for resources: ['floatingip'].", "detail": ""}
    site.hypervisor.no_addresses = True
    assert make(site.client("local-other"), 409)["NeutronError"]["type"] == "IpAddressGenerationFailure"


def test_the_external_network_is_for_floating_addresses_only(site: Site, demo: Client) -> None:
    refused = demo.request("POST", "network/v2.0/ports", {"port": {"network_id": external(demo)}})
    assert (refused.status_code, refused.json["NeutronError"]["type"]) == (403, "HTTPForbidden")
    demo.boot(networks=[{"uuid": external(demo)}])
    site.after(1)
    server = demo.get(f"compute/v2.1/servers/{demo.servers()[0]['id']}")["server"]
    assert server["status"] == "ERROR"
    assert "Failed to allocate the network(s)" in server["fault"]["message"]
    demo.boot("inside", networks="auto")
    assert demo.servers("name=inside")[0]["addresses"]


def test_another_project_sees_none_of_them(site: Site, demo: Client) -> None:
    made = make(demo)["floatingip"]
    other = site.client("local-other")
    assert other.get(FLOATING)["floatingips"] == []
    assert other.request("DELETE", f"{FLOATING}/{made['id']}").status_code == 404
    assert len(site.client("local-admin").get(FLOATING)["floatingips"]) == 1
