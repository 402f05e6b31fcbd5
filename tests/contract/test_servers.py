"""Servers: created all or none, found by tag, gone for good."""

from __future__ import annotations

import time
import uuid

import pytest
from openstack import connection as sdk_connection
from openstack import exceptions as sdk

from cml_nova import exception
from cml_nova.compute import errors, rest
from cml_nova.compute.catalog import Catalog, Image
from cml_nova.compute.fleet import Fleet
from tests.contract.conftest import Job, Target
from tests.harness.waiting import until


def test_several_servers_are_one_request(job: Job, fleet: Fleet, image: Image, target: Target) -> None:
    before = time.time()
    job.create(2, pool=3)
    servers = job.active()
    assert sorted(server.name for server in servers) == [f"{job.name}-1", f"{job.name}-2"]
    assert len({server.address for server in servers}) == 2
    for server in servers:
        assert (server.job_id, server.pool, server.generation) == (job.id, 3, 7)
        assert (server.image_id, server.flavor_name, server.fault, server.deleting) == (image.id, target.flavor, None, False)
        assert server.created_at is not None and before - 60 < server.created_at < time.time() + 60
        assert server.host


def test_one_server_is_called_as_asked(job: Job) -> None:
    job.create(1)
    assert [server.name for server in job.servers()] == [job.name]
    job.active()


def test_servers_show_by_tag_at_once_and_under_no_other(job: Job, fleet: Fleet, connection: sdk_connection.Connection) -> None:
    job.create(2)
    assert len(job.servers()) == 2
    assert {server.id for server in job.servers()} <= {server.id for server in fleet.all_servers()}
    assert fleet.servers(str(uuid.uuid4())) == []
    for tags in ("cml:deployment:of-nobody", f"cml:deployment:of-nobody,cml:job:{job.id}"):
        assert list(rest.pages(connection, "compute", "/servers/detail", "servers", "list", {"tags": tags})) == []
    job.active()


def test_the_inventory_has_servers_and_groups(job: Job, fleet: Fleet) -> None:
    job.create(1)
    mine = [resource for resource in fleet.inventory() if resource.job_id == job.id]
    assert sorted(resource.kind for resource in mine) == ["group", "server"]
    assert all(resource.created_at is not None for resource in mine)
    job.active()


def test_a_list_in_pages_is_whole(job: Job, connection: sdk_connection.Connection) -> None:
    job.create(3)
    params = {"tags": f"cml:job:{job.id}", "limit": 1}
    found = [body["id"] for body in rest.pages(connection, "compute", "/servers/detail", "servers", "list", params)]
    assert sorted(found) == sorted(server.id for server in job.servers())
    assert len(set(found)) == 3
    job.active()


def test_too_many_servers_are_none(job: Job, catalog: Catalog, target: Target) -> None:
    job.create(target.scarce_count, flavor_id=catalog.get_flavor(target.scarce_flavor).id)
    servers = job.settled()
    assert len(servers) == target.scarce_count
    assert {server.status for server in servers} == {"ERROR"}
    for server in servers:
        assert isinstance(errors.of_fault(server.fault), exception.NoCapacity), server.fault


def test_what_errors_held_is_free_again(job: Job, catalog: Catalog, target: Target) -> None:
    flavor_id = catalog.get_flavor(target.scarce_flavor).id
    job.create(target.scarce_count, flavor_id=flavor_id)
    job.settled()
    job.gone()
    job.create(1, flavor_id=flavor_id)
    job.active()


def test_a_deleted_server_is_gone(job: Job, fleet: Fleet, connection: sdk_connection.Connection) -> None:
    job.create(2)
    first, second = job.active()
    fleet.delete([first.id])
    until(lambda: [server.id for server in job.servers()] == [second.id], 120, "one server left in the list by tag")
    until(lambda: not fleet.remaining([first.id]), 120, "the end of the server")
    with pytest.raises(sdk.NotFoundException, match=first.id):
        connection.compute.get_server(first.id)
    fleet.delete([first.id])  # once more does no harm
    assert fleet.remaining([first.id, second.id]) == {second.id}


def test_a_server_can_be_deleted_while_it_is_built(job: Job) -> None:
    job.create(1)
    job.gone()


@pytest.mark.parametrize("field", ["flavor_id", "image_id", "network_id", "group_id"])
def test_what_does_not_exist_is_refused_by_name(job: Job, fleet: Fleet, catalog: Catalog, image: Image, target: Target, field: str) -> None:
    wrong = str(uuid.uuid4())
    wanted = {"flavor_id": catalog.get_flavor(target.flavor).id, "image_id": image.id, "network_id": fleet.network_id(),
              "group_id": fleet.ensure_group(job.id)} | {field: wrong}
    with pytest.raises(exception.CloudRefused, match=wrong):
        fleet.create(job_id=job.id, generation=1, pool=0, name="x", count=1, user_data="", **wanted)
    assert job.servers() == []


@pytest.mark.parametrize("tag", ["a/b", "a,b", "x" * 61, ""])
def test_tags_have_limits(connection: sdk_connection.Connection, fleet: Fleet, catalog: Catalog, image: Image, target: Target,
                          tag: str) -> None:
    body = {"name": "x", "flavorRef": catalog.get_flavor(target.flavor).id, "imageRef": image.id, "tags": [tag],
            "networks": [{"uuid": fleet.network_id()}]}
    with pytest.raises(exception.CloudRefused, match="tags"):
        rest.post(connection, "compute", "/servers", "create", {"server": body})


def test_more_than_the_quota_is_refused_whole(job: Job, connection: sdk_connection.Connection, admin: sdk_connection.Connection) -> None:
    project = connection.current_project_id
    before = admin.compute.get_quota_set(project).instances
    admin.compute.update_quota_set(project, instances=2)
    try:
        with pytest.raises(exception.CloudQuota, match="Quota exceeded for instances"):
            job.create(3)
        assert job.servers() == []
    finally:
        admin.compute.update_quota_set(project, instances=before)


def test_an_unknown_parameter_is_refused(connection: sdk_connection.Connection) -> None:
    with pytest.raises(exception.CloudRefused, match="flavour"):
        rest.get(connection, "compute", "/servers/detail", "list", {"flavour": "x"})


def test_an_administrator_sees_all_projects(job: Job, admin: sdk_connection.Connection) -> None:
    job.create(1)
    (server,) = job.active()
    assert server.id in {found.id for found in admin.compute.servers(all_projects=True)}
    assert server.id not in {found.id for found in admin.compute.servers()}


def test_metadata_and_description_are_kept(job: Job, fleet: Fleet, catalog: Catalog, image: Image, target: Target,
                                           connection: sdk_connection.Connection) -> None:
    made = connection.compute.create_server(
        name=job.name, flavor_id=catalog.get_flavor(target.flavor).id, image_id=image.id, networks=[{"uuid": fleet.network_id()}],
        metadata={"purpose": "contract"})
    try:
        assert connection.compute.wait_for_server(made, wait=target.boot_timeout, interval=1).metadata == {"purpose": "contract"}
        assert connection.compute.find_server(job.name).id == made.id
    finally:
        connection.compute.delete_server(made)
        connection.compute.wait_for_delete(made, wait=120, interval=1)
