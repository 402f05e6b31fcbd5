"""Security groups and ports: found by exact name and description, kept while in use."""

from __future__ import annotations

import uuid

import pytest
from openstack import connection as sdk_connection

from cml_nova import exception
from cml_nova.compute import rest
from cml_nova.compute.catalog import Catalog, Image
from cml_nova.compute.fleet import Fleet
from tests.contract.conftest import Job, Target, make_conf


def ingress(connection: sdk_connection.Connection, group_id: str) -> list[tuple[object, ...]]:
    rules = connection.network.get_security_group(group_id).security_group_rules
    return sorted((rule["ethertype"], rule["protocol"] or "", rule["port_range_min"] or 0, rule["remote_group_id"] or "",
                   rule["remote_ip_prefix"] or "") for rule in rules if rule["direction"] == "ingress")


def test_a_group_has_its_rules_and_is_made_once(job: Job, fleet: Fleet, connection: sdk_connection.Connection) -> None:
    group_id = fleet.ensure_group(job.id, 2200)
    assert ingress(connection, group_id) == [
        ("IPv4", "", 0, group_id, ""), ("IPv4", "tcp", 2200, "", "0.0.0.0/0"), ("IPv6", "", 0, group_id, "")]
    assert fleet.ensure_group(job.id, 2200) == group_id
    assert len(ingress(connection, group_id)) == 3
    assert fleet.groups(job.id) == [group_id]
    rules = connection.network.get_security_group(group_id).security_group_rules
    egress = [(rule["ethertype"], rule["protocol"], rule["remote_ip_prefix"]) for rule in rules if rule["direction"] == "egress"]
    assert sorted(egress) == [("IPv4", None, None), ("IPv6", None, None)], "everything may go out"


def test_missing_rules_are_added(job: Job, fleet: Fleet, connection: sdk_connection.Connection) -> None:
    group_id = fleet.ensure_group(job.id, 2200)
    rules = [rule for rule in connection.network.get_security_group(group_id).security_group_rules if rule["direction"] == "ingress"]
    connection.network.delete_security_group_rule(rules[0]["id"])
    connection.network.delete_security_group_rule(rules[1]["id"])
    fleet.ensure_group(job.id, 2200)
    assert len(ingress(connection, group_id)) == 3


def test_a_rule_twice_is_a_conflict_and_nothing_of_the_bulk_is_made(job: Job, fleet: Fleet, connection: sdk_connection.Connection) -> None:
    group_id = fleet.ensure_group(job.id, 2200)
    rules = [{"security_group_id": group_id, "direction": "ingress", "ethertype": "IPv4", "protocol": "tcp", "port_range_min": port,
              "port_range_max": port, "remote_ip_prefix": "0.0.0.0/0"} for port in (2201, 2200)]
    with pytest.raises(exception.CloudError) as caught:
        rest.post(connection, "network", "/security-group-rules", "add rules", {"security_group_rules": rules})
    assert caught.value.detail["status"] == 409
    assert len(ingress(connection, group_id)) == 3


def test_of_groups_made_twice_one_is_used_and_all_are_deleted(job: Job, fleet: Fleet, connection: sdk_connection.Connection) -> None:
    first = fleet.ensure_group(job.id)
    body = connection.network.get_security_group(first)
    second = connection.network.create_security_group(name=body.name, description=body.description).id
    assert fleet.groups(job.id) == sorted([first, second])
    assert fleet.ensure_group(job.id) == min(first, second)
    fleet.delete_groups(job.id)
    assert fleet.groups(job.id) == []


def test_groups_are_filtered_by_name_description_and_project(connection: sdk_connection.Connection) -> None:
    name, description = f"contract-{uuid.uuid4()}", f"of contract {uuid.uuid4()}"
    made = connection.network.create_security_group(name=name, description=description)
    try:
        project = connection.current_project_id
        for filters, count in (({"name": name}, 1), ({"description": description}, 1), ({"name": name, "description": "x"}, 0),
                               ({"description": description, "project_id": project}, 1), ({"name": name, "project_id": "0" * 32}, 0),
                               ({"name": name[:-1]}, 0)):
            found = list(rest.pages(connection, "network", "/security-groups", "security_groups", "list", filters))
            assert len(found) == count, filters
    finally:
        connection.network.delete_security_group(made)


def test_a_group_in_use_stays(pair: Job, fleet: Fleet) -> None:
    with pytest.raises(exception.CloudError, match="in use"):
        fleet.delete_groups(pair.id)
    assert len(fleet.groups(pair.id)) == 1


def test_ports_of_servers_have_the_jobs_group_alone(pair: Job, fleet: Fleet, connection: sdk_connection.Connection) -> None:
    servers = pair.servers()
    found = {port.device_id: port for server in servers for port in connection.network.ports(device_id=server.id)}
    assert set(found) == {server.id for server in servers}
    for server in servers:
        assert [ip["ip_address"] for ip in found[server.id].fixed_ips] == [server.address]
        assert found[server.id].security_group_ids == fleet.groups(pair.id), "and not the project's default group"
    assert sorted(fleet.leftover_ports(pair.id)) == sorted(port.id for port in found.values())


def test_ports_and_their_groups_use_go_with_the_servers(job: Job, fleet: Fleet) -> None:
    job.create(1)
    job.active()
    assert len(fleet.leftover_ports(job.id)) == 1
    job.gone()
    assert fleet.leftover_ports(job.id) == []
    fleet.delete_groups(job.id)
    assert fleet.groups(job.id) == []
    fleet.delete_groups(job.id)


def test_a_port_that_was_left_behind_is_found_and_deleted(job: Job, fleet: Fleet, connection: sdk_connection.Connection) -> None:
    group_id = fleet.ensure_group(job.id)
    port = connection.network.create_port(network_id=fleet.network_id(), security_group_ids=[group_id])
    with pytest.raises(exception.CloudError, match="in use"):
        fleet.delete_groups(job.id)
    assert fleet.leftover_ports(job.id) == [port.id]
    fleet.delete_ports([port.id])
    fleet.delete_ports([port.id])
    fleet.delete_groups(job.id)
    assert fleet.groups(job.id) == []


@pytest.mark.parametrize(("quota", "resource"), [("security_groups", "security_group"), ("security_group_rules", "security_group_rule")])
def test_more_than_the_quota_is_refused(other: sdk_connection.Connection, admin: sdk_connection.Connection, target: Target, quota: str,
                                        resource: str) -> None:
    fleet, project, job_id = Fleet(make_conf(cloud=target.other_cloud), other), other.current_project_id, str(uuid.uuid4())
    before = getattr(admin.network.get_quota(project), quota)
    admin.network.update_quota(project, **{quota: 0})
    try:
        with pytest.raises(exception.CloudQuota, match=f"Quota exceeded for resources: .'{resource}'.."):
            fleet.ensure_group(job_id)
    finally:
        admin.network.update_quota(project, **{quota: before})
        fleet.delete_groups(job_id)


def test_no_ports_by_quota_is_no_servers(other: sdk_connection.Connection, admin: sdk_connection.Connection, target: Target, image: Image,
                                         catalog: Catalog) -> None:
    fleet = Fleet(make_conf(cloud=target.other_cloud, network=target.network), other)
    project, job_id = other.current_project_id, str(uuid.uuid4())
    before = admin.network.get_quota(project).ports
    admin.network.update_quota(project, ports=0)
    try:
        says = r"Maximum number of ports exceeded|The number of defined ports: \d+ is over the limit: 0"
        with pytest.raises(exception.CloudQuota, match=says):
            fleet.create(job_id=job_id, generation=1, pool=0, name="cml-contract", count=1, image_id=image.id, user_data="",
                         flavor_id=catalog.get_flavor(target.flavor).id, network_id=fleet.network_id(), group_id="default")
        assert fleet.servers(job_id) == []
    finally:
        admin.network.update_quota(project, ports=before)
