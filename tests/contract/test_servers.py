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
from tests.contract.conftest import Job, Target, make_conf
from tests.harness.waiting import until


def test_several_servers_are_one_request(pair: Job, image: Image, target: Target) -> None:
    servers = pair.servers()
    assert sorted(server.name for server in servers) == [f"{pair.name}-1", f"{pair.name}-2"]
    assert len({server.address for server in servers}) == 2
    for server in servers:
        assert (server.job_id, server.pool, server.generation) == (pair.id, 3, 7)
        assert (server.image_id, server.flavor_name, server.fault, server.deleting) == (image.id, target.flavor, None, False)
        assert server.created_at is not None and time.time() - 3600 < server.created_at < time.time() + 60
        assert server.host


def test_servers_show_by_tag_and_under_no_other(pair: Job, fleet: Fleet, connection: sdk_connection.Connection) -> None:
    assert {server.id for server in pair.servers()} <= {server.id for server in fleet.all_servers()}
    assert fleet.servers(str(uuid.uuid4())) == []
    for tags in ("cml:deployment:of-nobody", f"cml:deployment:of-nobody,cml:job:{pair.id}"):
        assert list(rest.pages(connection, "compute", "/servers/detail", "servers", "list", {"tags": tags})) == []


def test_the_inventory_has_servers_their_ports_and_groups(pair: Job, fleet: Fleet) -> None:
    mine = [resource for resource in fleet.inventory() if resource.job_id == pair.id]
    assert sorted(resource.kind for resource in mine) == ["group", "port", "port", "server", "server"]
    assert all(resource.created_at is not None for resource in mine)


def test_a_list_in_pages_is_whole(pair: Job, connection: sdk_connection.Connection) -> None:
    params = {"tags": f"cml:job:{pair.id}", "limit": 1}
    found = [body["id"] for body in rest.pages(connection, "compute", "/servers/detail", "servers", "list", params)]
    assert sorted(found) == sorted(server.id for server in pair.servers())
    assert len(set(found)) == 2


def test_too_many_servers_are_none(job: Job, fleet: Fleet, catalog: Catalog, target: Target) -> None:
    job.create(target.scarce_count, flavor_id=catalog.get_flavor(target.scarce_flavor).id)
    servers = job.settled()
    assert len(servers) == target.scarce_count
    assert {server.status for server in servers} == {"ERROR"}
    for server in servers:  # lists need not tell why
        fault = until(lambda server=server: fleet.fault(server.id), 30, "the reason", interval=0.2)  # type: ignore[misc]
        assert isinstance(errors.of_fault(fault), exception.NoCapacity), fault


    assert catalog.get_flavor(target.scarce_flavor).accelerator_count > 0


def test_what_errors_held_is_free_again(job: Job, catalog: Catalog, target: Target) -> None:
    flavor_id = catalog.get_flavor(target.scarce_flavor).id
    job.create(target.scarce_count, flavor_id=flavor_id)
    job.settled()
    job.gone()
    job.create(1, flavor_id=flavor_id)
    assert [server.name for server in job.active()] == [job.name], "one server is called as asked"


def test_a_deleted_server_is_gone(job: Job, fleet: Fleet, connection: sdk_connection.Connection) -> None:
    begun = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 60))
    job.create(2)
    assert len(job.servers()) == 2, "they show by tag at once"
    first, second = job.active()
    fleet.delete([first.id])
    until(lambda: [server.id for server in job.servers()] == [second.id], 120, "one server left in the list by tag", interval=0.2)
    until(lambda: not fleet.remaining([first.id]), 120, "the end of the server", interval=0.2)
    with pytest.raises(sdk.NotFoundException, match=first.id):
        connection.compute.get_server(first.id)
    fleet.delete([first.id])  # once more does no harm
    assert fleet.remaining([first.id, second.id]) == {second.id}
    since = {"changes-since": begun}
    changed = {body["id"]: body for body in rest.pages(connection, "compute", "/servers/detail", "servers", "list", since)}
    assert (changed[first.id]["status"], changed[first.id]["tags"]) == ("DELETED", []), "what is deleted has lost its tags"
    tagged = {**since, "tags": f"cml:job:{job.id}"}
    assert [body["id"] for body in rest.pages(connection, "compute", "/servers/detail", "servers", "list", tagged)] == [second.id]


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


def test_more_than_the_quota_is_refused_whole(other: sdk_connection.Connection, admin: sdk_connection.Connection, image: Image,
                                              catalog: Catalog, target: Target) -> None:
    fleet = Fleet(make_conf(cloud=target.other_cloud, network=target.network), other)
    project, job_id = other.current_project_id, str(uuid.uuid4())
    before, cores = (getattr(admin.compute.get_quota_set(project), name) for name in ("instances", "cores"))
    wanted = {"job_id": job_id, "generation": 1, "pool": 0, "name": "cml-contract", "count": 3, "image_id": image.id, "user_data": "",
              "flavor_id": catalog.get_flavor(target.flavor).id, "network_id": fleet.network_id(), "group_id": "default"}
    try:
        for limits, says in (({"instances": 2}, "instances"), ({"instances": 1000, "cores": 2}, "cores")):
            admin.compute.update_quota_set(project, **limits)
            with pytest.raises(exception.CloudQuota, match=rf"Quota exceeded for {says}: Requested 3, but already used \d+ of 2 {says}"):
                fleet.create(**wanted)
        assert fleet.servers(job_id) == []
    finally:
        admin.compute.update_quota_set(project, instances=before, cores=cores)


def test_an_unknown_parameter_is_refused(connection: sdk_connection.Connection) -> None:
    with pytest.raises(exception.CloudRefused, match="flavour"):
        rest.get(connection, "compute", "/servers/detail", "list", {"flavour": "x"})


def test_an_administrator_sees_all_projects(pair: Job, admin: sdk_connection.Connection) -> None:
    (server, _) = pair.servers()
    assert server.id in {found.id for found in admin.compute.servers(all_projects=True)}
    assert server.id not in {found.id for found in admin.compute.servers()}
