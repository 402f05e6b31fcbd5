"""Servers found by tag, created all or none, and the groups around them."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from oslo_config import cfg

from cml_nova import exception
from cml_nova.compute.fleet import Census, Fleet, parse_server
from tests.unit.compute.conftest import PROJECT, FakeConnection

JOB = "5e6d7d5c-9a3b-4f6e-8f0a-2f8f7f1f0001"
GROUP_NAME = f"cml-dep1-{JOB}"


def server(id_: str = "s1", job: str = JOB, **changes: Any) -> dict[str, Any]:
    body = {
        "id": id_, "name": f"job-{id_}", "status": "ACTIVE", "created": "2026-11-23T10:00:00Z", "OS-EXT-STS:task_state": None,
        "tags": ["cml-nova", "cml:deployment:dep1", f"cml:job:{job}", "cml:gen:3", "cml:pool:1"],
        "addresses": {"net": [{"addr": "10.0.0.7", "version": 4, "OS-EXT-IPS:type": "fixed"}]},
        "image": {"id": "img"}, "flavor": {"original_name": "gpu.small"}, "hostId": "h",
    }
    return body | changes


@pytest.fixture
def fleet(conf: cfg.ConfigOpts, cloud: FakeConnection) -> Fleet:
    return Fleet(conf, cloud)  # type: ignore[arg-type]


def create(fleet: Fleet, **changes: Any) -> None:
    wanted: dict[str, Any] = {
        "job_id": JOB, "generation": 3, "pool": 1, "name": "train", "count": 4, "flavor_id": "f", "image_id": "i", "network_id": "n",
        "group_id": "g", "user_data": "#cloud-config\n"}
    fleet.create(**wanted | changes)


def test_a_server_is_read() -> None:
    read = parse_server(server())
    assert (read.job_id, read.pool, read.generation, read.address, read.status) == (JOB, 1, 3, "10.0.0.7", "ACTIVE")
    assert read.created_at == 1795428000.0
    assert read.ready


@pytest.mark.parametrize("body", [
    {"id": "s", "status": "UNKNOWN", "tenant_id": "p", "created": "2026-11-23T10:00:00Z", "links": []},  # its cell is down
    {"id": "s"},
    {"id": "s", "status": None, "tags": None, "addresses": None, "fault": None, "image": "", "flavor": None, "created": "yesterday"},
])
def test_a_server_without_most_keys_is_read(body: dict[str, Any]) -> None:
    read = parse_server(body)
    assert (read.id, read.status, read.address, read.job_id, read.generation) == ("s", "UNKNOWN", None, "", 0)
    assert not read.ready


def test_a_fault_and_a_deletion_are_read() -> None:
    assert parse_server(server(status="ERROR", fault={"code": 500, "message": "No valid host"})).fault == "No valid host"
    assert parse_server(server(**{"OS-EXT-STS:task_state": "deleting"})).deleting
    assert not parse_server(server(**{"OS-EXT-STS:task_state": "deleting"})).ready


def test_the_address_is_a_fixed_one_and_ipv4_first() -> None:
    entries = [{"addr": "203.0.113.5", "version": 4, "OS-EXT-IPS:type": "floating"}, {"addr": "fd00::5", "version": 6},
               {"addr": "10.0.0.5", "version": 4, "OS-EXT-IPS:type": "fixed"}]
    assert parse_server(server(addresses={"net": entries})).address == "10.0.0.5"
    assert parse_server(server(addresses={"net": entries[:2]})).address == "fd00::5"


def test_servers_are_listed_by_both_tags(fleet: Fleet, cloud: FakeConnection) -> None:
    cloud.compute.answers = [(200, {"servers": [server("a"), server("b")]})]
    assert [found.id for found in fleet.servers(JOB)] == ["a", "b"]
    assert cloud.compute.calls[0]["path"] == "/servers/detail"
    assert cloud.compute.calls[0]["params"] == {"tags": f"cml:deployment:dep1,cml:job:{JOB}"}


def test_a_cloud_that_ignores_the_filter_gives_no_strangers(fleet: Fleet, cloud: FakeConnection) -> None:
    strangers = [server("x", tags=[]), server("y", tags=["cml-nova", "cml:deployment:other", f"cml:job:{JOB}"])]
    cloud.compute.answers = [(200, {"servers": [server("a"), *strangers]})] * 2
    assert [found.id for found in fleet.servers(JOB)] == ["a"]
    assert [found.id for found in fleet.all_servers()] == ["a"]


def test_servers_are_asked_for_all_or_none_in_one_request(fleet: Fleet, cloud: FakeConnection) -> None:
    cloud.compute.answers = [(202, {"server": {"id": "first"}})]
    create(fleet, availability_zone="az1")
    (call,) = cloud.compute.calls
    asked = call["json"]["server"]
    assert (call["method"], call["path"]) == ("POST", "/servers")
    assert (asked["min_count"], asked["max_count"], asked["name"]) == (4, 4, "train")
    assert set(asked["tags"]) == {"cml-nova", "cml:deployment:dep1", f"cml:job:{JOB}", "cml:gen:3", "cml:pool:1"}
    assert all(len(tag) <= 60 and not set(tag) & set("/,") for tag in asked["tags"])
    assert base64.b64decode(asked["user_data"]) == b"#cloud-config\n"
    assert asked["config_drive"] is True
    assert asked["security_groups"] == [{"name": "g"}]
    assert asked["networks"] == [{"uuid": "n"}]
    assert asked["availability_zone"] == "az1"


def test_a_creation_that_names_nothing_is_refused_for_good(fleet: Fleet, cloud: FakeConnection) -> None:
    cloud.compute.answers = [(404, {"itemNotFound": {"message": "Image i could not be found."}})]
    with pytest.raises(exception.CloudRefused, match="Image i could not be found"):
        create(fleet)


def test_deletion_tries_all_and_names_what_failed(fleet: Fleet, cloud: FakeConnection) -> None:
    cloud.compute.handler = lambda call: {"/servers/b": (409, {"conflictingRequest": {"message": "locked"}}),
                                          "/servers/c": (404, None)}.get(call["path"], (204, None))
    with pytest.raises(exception.CloudError) as caught:
        fleet.delete(["a", "b", "c", "d"])
    assert caught.value.detail["ids"] == ["b"]
    assert "locked" in caught.value.message
    assert sorted(call["path"] for call in cloud.compute.calls) == [f"/servers/{id_}" for id_ in "abcd"]


def test_a_console_is_read_to_its_end_alone(fleet: Fleet, cloud: FakeConnection) -> None:
    building = {"conflictingRequest": {"message": "building"}}
    cloud.compute.answers = [(200, {"output": "booting\nlogin:"}), (200, {"output": None}), (409, building)]
    assert fleet.console("s1", 40) == "booting\nlogin:"
    call = cloud.compute.calls[0]
    assert (call["method"], call["path"], call["json"]) == ("POST", "/servers/s1/action", {"os-getConsoleOutput": {"length": 40}})
    assert fleet.console("s1", 40) == ""
    with pytest.raises(exception.CloudError, match="building"):
        fleet.console("s1", 40)


def test_remaining_servers_are_sought_without_a_filter(fleet: Fleet, cloud: FakeConnection) -> None:
    partial = {"id": "b", "status": "UNKNOWN", "tenant_id": PROJECT, "links": []}
    cloud.compute.answers = [(200, {"servers": [partial, server("z")]})]
    assert fleet.remaining(["a", "b"]) == {"b"}
    assert cloud.compute.calls[0]["params"] == {}
    assert fleet.remaining([]) == set()
    assert len(cloud.compute.calls) == 1


HIDDEN = {"id": "b", "status": "UNKNOWN", "tenant_id": PROJECT, "links": []}


def test_a_census_tells_servers_of_a_cell_that_is_down_from_others_and_ours_from_strangers(fleet: Fleet, cloud: FakeConnection) -> None:
    strangers = [server("x", tags=[]), server("y", "other", tags=["cml-nova", "cml:deployment:other", "cml:job:other"])]
    cloud.compute.answers = [(200, {"servers": [HIDDEN, server("z"), *strangers]})]
    assert fleet.census() == Census(ids=frozenset("bzxy"), hidden=frozenset("b"), jobs=frozenset([JOB]), whole=True)
    assert cloud.compute.calls[0]["path"] == "/servers/detail"


def test_what_later_pages_do_not_tell_of_hidden_servers_is_asked_of_each(fleet: Fleet, cloud: FakeConnection) -> None:
    pages = [{"servers": [server("y")], "servers_links": [{"rel": "next", "href": "x"}]}, {"servers": [server("z")]}]
    one_by_one = {"/servers/a": (404, None), "/servers/b": (200, {"server": HIDDEN})}
    cloud.compute.handler = lambda call: one_by_one.get(call["path"]) or (200, pages["marker" in call["params"]])
    census = fleet.census()
    assert not census.whole and not census.hidden
    assert fleet.remaining(["a", "b", "y", "z"], census) == {"b", "y", "z"}
    assert sorted(call["path"] for call in cloud.compute.calls[2:]) == ["/servers/a", "/servers/b"]


class Neutron:
    """Security groups that behave as Neutron's do."""

    def __init__(self, cloud: FakeConnection) -> None:
        self.groups: list[dict[str, Any]] = []
        self.lose_rules = False
        cloud.network.handler = self.answer
        self.calls = cloud.network.calls

    def add(self, id_: str, name: str = GROUP_NAME, description: str = "Nodes of a cml_nova job; deployment=dep1") -> dict[str, Any]:
        group = {"id": id_, "name": name, "description": description, "security_group_rules": [], "created_at": "2026-11-23T10:00:00Z"}
        for version in ("IPv4", "IPv6"):
            group["security_group_rules"].append({"direction": "egress", "ethertype": version})  # type: ignore[attr-defined]
        self.groups.append(group)
        return group

    def answer(self, call: dict[str, Any]) -> Any:
        match call["method"], call["path"].split("/")[1:]:
            case "GET", ["security-groups"]:
                assert call["params"]["project_id"] == PROJECT
                name = call["params"].get("name")
                return 200, {"security_groups": [group for group in self.groups if name in (None, group["name"])]}
            case "GET", ["ports"]:
                assert call["params"]["project_id"] == PROJECT
                return 200, {"ports": [{"id": "p1", "security_groups": ["mine"]}, {"id": "p2", "security_groups": ["default"]}]}
            case "GET", ["floatingips"]:
                return 200, {"floatingips": []}
            case "POST", ["security-groups"]:
                wanted = call["json"]["security_group"]
                return 201, {"security_group": self.add(f"g{len(self.groups)}", wanted["name"], wanted["description"])}
            case "POST", ["security-group-rules"]:
                return self.add_rules(call["json"].get("security_group_rules") or [call["json"]["security_group_rule"]])
            case "DELETE", ["security-groups", id_]:
                self.groups = [group for group in self.groups if group["id"] != id_]
                return 204, None
        raise AssertionError(call)

    def add_rules(self, rules: list[dict[str, Any]]) -> Any:
        if self.lose_rules:
            return 503, None
        group = next(group for group in self.groups if group["id"] == rules[0]["security_group_id"])
        if any(rule in group["security_group_rules"] for rule in rules):
            return 409, {"NeutronError": {"type": "SecurityGroupRuleExists", "message": "Security group rule already exists."}}
        group["security_group_rules"].extend(rules)
        return 201, {"security_group_rules": rules}

    def ingress(self, id_: str) -> list[dict[str, Any]]:
        group = next(group for group in self.groups if group["id"] == id_)
        return [rule for rule in group["security_group_rules"] if rule["direction"] == "ingress"]


@pytest.fixture
def neutron(cloud: FakeConnection) -> Neutron:
    return Neutron(cloud)


def test_a_group_is_made_with_its_rules_in_three_requests_and_found_in_one(fleet: Fleet, neutron: Neutron) -> None:
    id_ = fleet.ensure_group(JOB, ssh_port=2200)
    assert [(call["method"], call["path"]) for call in neutron.calls] == [
        ("GET", "/security-groups"), ("POST", "/security-groups"), ("POST", "/security-group-rules")]
    rules = neutron.ingress(id_)
    assert {rule["ethertype"] for rule in rules if rule["remote_group_id"] == id_} == {"IPv4", "IPv6"}
    (ssh,) = [rule for rule in rules if not rule["remote_group_id"]]
    assert (ssh["protocol"], ssh["port_range_min"], ssh["port_range_max"], ssh["remote_ip_prefix"]) == ("tcp", 2200, 2200, "0.0.0.0/0")
    assert fleet.ensure_group(JOB, ssh_port=2200) == id_
    assert len(neutron.calls) == 4


def test_rules_that_a_crash_left_out_are_added(fleet: Fleet, neutron: Neutron) -> None:
    neutron.lose_rules = True
    with pytest.raises(exception.CloudError):
        fleet.ensure_group(JOB)
    neutron.lose_rules = False
    id_ = fleet.ensure_group(JOB)
    assert len(neutron.groups) == 1
    assert len(neutron.ingress(id_)) == 3


def test_rules_that_another_adds_meanwhile_do_no_harm(fleet: Fleet, neutron: Neutron, cloud: FakeConnection) -> None:
    fleet.ensure_group(JOB)
    group = neutron.groups[0]
    stale = {**group, "security_group_rules": group["security_group_rules"][:-1]}
    plain, listed = neutron.answer, []

    def answer(call: dict[str, Any]) -> Any:
        if call["method"] == "GET" and not listed:
            listed.append(call)
            return 200, {"security_groups": [stale]}
        return plain(call)

    cloud.network.handler = answer
    assert fleet.ensure_group(JOB) == group["id"]
    assert len(neutron.ingress(group["id"])) == 3


def test_of_two_groups_the_lowest_id_is_taken_and_both_are_deleted(fleet: Fleet, neutron: Neutron) -> None:
    neutron.add("gb")
    neutron.add("ga")
    assert fleet.ensure_group(JOB) == "ga"
    assert fleet.groups(JOB) == ["ga", "gb"]
    fleet.delete_groups(JOB)
    assert neutron.groups == []


def test_groups_of_others_are_not_ours(fleet: Fleet, neutron: Neutron, cloud: FakeConnection) -> None:
    neutron.add("other", description="Nodes of a cml_nova job; deployment=dep2")
    neutron.add("hand-made", description="")
    assert fleet.groups(JOB) == []
    cloud.compute.answers = [(200, {"servers": [server("a")]})]
    neutron.add("mine")
    assert [(found.kind, found.id, found.job_id) for found in fleet.inventory()] == [
        ("server", "a", JOB), ("group", "mine", JOB), ("port", "p1", JOB)]


def test_a_group_in_use_is_an_error_and_leftover_ports_are_found(fleet: Fleet, neutron: Neutron, cloud: FakeConnection) -> None:
    neutron.add("ga")
    plain = neutron.answer
    ports = [{"id": "p1", "security_groups": ["ga"]}, {"id": "p2", "security_groups": ["default"]}]

    def answer(call: dict[str, Any]) -> Any:
        if call["path"] == "/ports":
            assert call["params"]["security_groups"] == "ga"
            return 200, {"ports": ports}
        if call["method"] == "DELETE" and call["path"] == "/security-groups/ga":
            return 409, {"NeutronError": {"type": "SecurityGroupInUse", "message": "Security Group ga in use."}}
        return plain(call)

    cloud.network.handler = answer
    with pytest.raises(exception.CloudError, match="in use"):
        fleet.delete_groups(JOB)
    assert fleet.leftover_ports(JOB) == ["p1"]


def test_the_network_is_asked_for_once(fleet: Fleet, cloud: FakeConnection) -> None:
    cloud.network.answers = [(200, {"networks": [{"id": "n1", "name": "net"}]})]
    assert fleet.network_id() == "n1"
    assert fleet.network_id() == "n1"
    assert len(cloud.network.calls) == 1


def test_an_unclear_network_is_refused_with_the_names(fleet: Fleet, cloud: FakeConnection) -> None:
    cloud.network.answers = [(200, {"networks": [{"id": "1", "name": "a"}, {"id": "2", "name": "b"}]})]
    with pytest.raises(exception.CloudRefused, match="a, b"):
        fleet.network_id()
