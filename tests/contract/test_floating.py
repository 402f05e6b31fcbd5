"""Floating addresses: they reach servers on a network of their own, are found by description, and stay until they are deleted."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest
from openstack import connection as sdk_connection

from cml_nova import exception
from cml_nova.compute import rest
from cml_nova.compute.catalog import Catalog, Image
from cml_nova.compute.fleet import Fleet
from tests.contract.conftest import Job, Target, make_conf, run

pytestmark = pytest.mark.floating


@pytest.fixture(scope="module")
def floating_fleet(target: Target, connection: sdk_connection.Connection) -> Iterator[Fleet]:
    """The fleet of a deployment whose nodes are on the inner network; at the end it has nothing left."""
    made = Fleet(make_conf(cloud=target.cloud, deployment=f"contract-{secrets.token_hex(4)}", network=target.inner_network,
                           floating_network=target.floating_network), connection)
    yield made
    assert made.inventory() == []


@pytest.fixture
def floating_job(floating_fleet: Fleet, target: Target, image: Image, catalog: Catalog) -> Iterator[Job]:
    made = Job(floating_fleet, target, image, catalog.get_flavor(target.flavor).id)
    yield made
    made.clean()
    floating_fleet.floating.delete(made.id)


def test_a_job_is_reached_by_floating_addresses(floating_job: Job, floating_fleet: Fleet) -> None:
    job, floating = floating_job, floating_fleet.floating
    job.create(2)
    servers = job.active()
    fixed = {server.id: server.address for server in servers if server.address}
    group_id = floating_fleet.ensure_group(job.id, job.ssh_port)
    found = floating.ensure(job.id, group_id, fixed)
    assert set(found) == set(fixed)
    assert not set(found.values()) & set(fixed.values())
    assert floating.ensure(job.id, group_id, fixed) == found
    assert {server.id: server.address for server in job.servers()} == fixed, "the fixed address stays the node's own"
    mine = [resource for resource in floating_fleet.inventory() if resource.kind == "floating"]
    assert sorted(resource.id for resource in mine) == floating.ids(job.id)
    assert all(resource.job_id == job.id and resource.created_at for resource in mine)
    for server in servers:
        transport = job.connect(found[server.id])
        try:
            assert run(transport, "hostname")[0] == 0
        finally:
            transport.close()
    job.gone()
    assert len(floating.ids(job.id)) == 2, "they stay when their ports go"
    floating.delete(job.id)
    assert floating.ids(job.id) == []


@pytest.mark.real_network
def test_a_network_without_a_router_is_refused_for_good(floating_job: Job, floating_fleet: Fleet, target: Target,
                                                        connection: sdk_connection.Connection) -> None:
    group_id = floating_fleet.ensure_group(floating_job.id)
    port = connection.network.create_port(network_id=floating_fleet.network_id(target.network), security_group_ids=[group_id],
                                          device_id="contract", name="cml-contract")
    try:
        with pytest.raises(exception.CloudRefused, match="not reachable"):
            floating_fleet.floating.ensure(floating_job.id, group_id, {"contract": port.fixed_ips[0]["ip_address"]})
    finally:
        connection.network.delete_port(port)


def test_more_than_the_quota_are_refused(floating_fleet: Fleet, other: sdk_connection.Connection, admin: sdk_connection.Connection,
                                         catalog: Catalog, target: Target) -> None:
    project = other.current_project_id
    before = admin.network.get_quota(project).floating_ips
    body = {"floatingip": {"floating_network_id": catalog.get_network(target.floating_network)}}
    admin.network.update_quota(project, floating_ips=0)
    try:
        with pytest.raises(exception.CloudQuota, match="floatingip"):
            rest.post(other, "network", "/floatingips", "create", body)
    finally:
        admin.network.update_quota(project, floating_ips=before)
