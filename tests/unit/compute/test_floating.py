"""Floating addresses: made with their ports, adopted by their description, deleted when a server has them no more."""

from __future__ import annotations

from typing import Any

import pytest
from oslo_config import cfg

from cml_nova import exception
from cml_nova.compute.fleet import Fleet
from tests.unit.compute.conftest import PROJECT, FakeConnection

JOB = "5e6d7d5c-9a3b-4f6e-8f0a-2f8f7f1f0001"
MARK = f"Node of a cml_nova job; deployment=dep1; job={JOB}"
FIXED = {"s1": "10.0.0.1", "s2": "10.0.0.2"}


class Neutron:
    """Ports of two servers, and floating addresses as Neutron makes them."""

    def __init__(self, cloud: FakeConnection) -> None:
        self.ports = [{"id": f"p-{server}", "device_id": server, "fixed_ips": [{"subnet_id": "n", "ip_address": address}]}
                      for server, address in FIXED.items()]
        self.floating: list[dict[str, Any]] = []
        self.refusal: tuple[int, Any] | None = None
        self.calls = cloud.network.calls
        cloud.network.handler = self.answer

    def add(self, port: str | None, description: str = MARK) -> dict[str, Any]:
        number = len(self.calls) + len(self.floating)
        made = {"id": f"f{number}", "port_id": port, "floating_ip_address": f"192.0.2.{number}", "description": description,
                "created_at": "2026-11-23T10:00:00Z"}
        self.floating.append(made)
        return made

    def answer(self, call: dict[str, Any]) -> Any:
        match call["method"], call["path"].split("/")[1:]:
            case "GET", ["networks"]:
                return 200, {"networks": [{"id": "ext", "name": "public"}]}
            case "GET", ["ports"]:
                assert call["params"]["security_groups"] == "g"
                return 200, {"ports": self.ports}
            case "GET", ["floatingips"]:
                assert call["params"]["project_id"] == PROJECT
                wanted = call["params"].get("description")
                return 200, {"floatingips": [one for one in self.floating if wanted in (None, one["description"])]}
            case "POST", ["floatingips"]:
                if self.refusal:
                    return self.refusal
                wanted = call["json"]["floatingip"]
                assert wanted["floating_network_id"] == "ext"
                assert wanted["fixed_ip_address"] == FIXED[wanted["port_id"].removeprefix("p-")]
                return 201, {"floatingip": self.add(wanted["port_id"], wanted["description"])}
            case "DELETE", ["floatingips", id_]:
                self.floating = [one for one in self.floating if one["id"] != id_]
                return 204, None
        raise AssertionError(call)

    def made(self) -> dict[str, str]:
        return {one["port_id"].removeprefix("p-"): one["floating_ip_address"] for one in self.floating}

    def count(self, method: str) -> int:
        return len([call for call in self.calls if call["method"] == method])


@pytest.fixture
def neutron(cloud: FakeConnection) -> Neutron:
    return Neutron(cloud)


@pytest.fixture
def fleet(conf: cfg.ConfigOpts, cloud: FakeConnection) -> Fleet:
    conf.set_override("floating_network", "public", group="cloud")
    return Fleet(conf, cloud)  # type: ignore[arg-type]


def test_none_are_wanted_where_no_network_is_named(conf: cfg.ConfigOpts, cloud: FakeConnection) -> None:
    assert not Fleet(conf, cloud).floating.wanted  # type: ignore[arg-type]


def test_each_server_gets_one_and_a_second_look_makes_none(fleet: Fleet, neutron: Neutron) -> None:
    found = fleet.floating.ensure(JOB, "g", FIXED)
    assert found == neutron.made()
    assert set(found) == set(FIXED)
    assert (neutron.count("GET"), neutron.count("POST")) == (3, 2)  # ports, addresses, the external network
    assert fleet.floating.ensure(JOB, "g", FIXED) == found
    assert (neutron.count("GET"), neutron.count("POST")) == (5, 2)


def test_what_a_lost_answer_made_is_adopted(fleet: Fleet, neutron: Neutron) -> None:
    address = neutron.add("p-s2")["floating_ip_address"]
    found = fleet.floating.ensure(JOB, "g", FIXED)
    assert found["s2"] == address
    assert neutron.count("POST") == 1


def test_those_of_servers_that_were_replaced_are_deleted(fleet: Fleet, neutron: Neutron) -> None:
    for port in (None, None, "p-of-another"):
        neutron.add(port)
    assert fleet.floating.ensure(JOB, "g", FIXED) == neutron.made()
    assert len(neutron.floating) == 2


def test_those_of_others_are_not_ours(fleet: Fleet, neutron: Neutron, cloud: FakeConnection) -> None:
    for description in ("", "Node of a cml_nova job; deployment=dep2; job=" + JOB, "Node of a cml_nova job; deployment=dep1; job=another"):
        neutron.add(None, description)
    mine = neutron.add("p-s1")
    assert fleet.floating.ids(JOB) == [mine["id"]]
    assert {job for _, job, _ in fleet.floating.all()} == {JOB, "another"}
    cloud.network.handler = lambda call: (200, {"floatingips": neutron.floating})  # a cloud that doesn't know the filters
    assert fleet.floating.ids(JOB) == [mine["id"]]
    cloud.network.handler = neutron.answer
    fleet.floating.delete(JOB)
    fleet.floating.delete(JOB)
    assert len(neutron.floating) == 3


def test_a_server_without_a_port_is_waited_for(fleet: Fleet, neutron: Neutron) -> None:
    neutron.ports.pop()
    with pytest.raises(exception.CloudError, match="s2") as caught:
        fleet.floating.ensure(JOB, "g", FIXED)
    assert type(caught.value) is exception.CloudError
    assert neutron.count("POST") == 0


@pytest.mark.parametrize(("status", "kind", "message", "error"), [
    (409, "OverQuota", "Quota exceeded for resources: ['floatingip'].", exception.CloudQuota),
    (409, "IpAddressGenerationFailure", "No more IP addresses available on network ext.", exception.NoCapacity),
    (400, "ExternalIpAddressExhausted", "Unable to find any IP address on external network ext.", exception.NoCapacity),
    (404, "ExternalGatewayForFloatingIPNotFound", "External network ext is not reachable from subnet n. Therefore, cannot associate "
                                                  "Port p-s1 with a Floating IP.", exception.CloudRefused),
    (404, "PortNotFound", "Port p-s1 could not be found.", exception.CloudError),
    (503, "ServiceUnavailable", "Not now.", exception.CloudError),
])
def test_refusals_are_told_apart(fleet: Fleet, neutron: Neutron, status: int, kind: str, message: str, error: type[Exception]) -> None:
    neutron.refusal = (status, {"NeutronError": {"type": kind, "message": message, "detail": ""}})
    with pytest.raises(exception.CloudError, match=message[:20]) as caught:
        fleet.floating.ensure(JOB, "g", FIXED)
    assert type(caught.value) is error
    assert neutron.count("POST") == 2  # each is tried, none twice


def test_a_cloud_without_routers_has_none(fleet: Fleet, cloud: FakeConnection) -> None:
    cloud.network.handler = lambda call: (404, "<html>404 Not Found</html>")
    assert fleet.floating.ids(JOB) == fleet.floating.all() == []
