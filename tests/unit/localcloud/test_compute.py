from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from .conftest import Client, FakeHypervisor, Site

NO_VALID_HOST = "No valid host was found. There are not enough hosts available."


def test_life_of_a_server(site: Site, demo: Client) -> None:
    user_data = base64.b64encode(b"#cloud-config\n").decode()
    server_id = demo.boot("one", tags=["b", "a"], user_data=user_data, metadata={"k": "v"})["server"]["id"]
    server = demo.get(f"compute/v2.1/servers/{server_id}")["server"]
    assert (server["status"], server["tags"], server["metadata"]) == ("BUILD", ["a", "b"], {"k": "v"})
    assert not site.hypervisor.guests
    site.after(0.3)
    server = demo.servers()[0]
    assert (server["status"], server["OS-EXT-STS:power_state"]) == ("ACTIVE", 1)
    address = server["addresses"]["local-net"][0]["addr"]
    guest = site.hypervisor.guests[server_id]
    assert guest == {"address": address, "image": "plain", "user_data": b"#cloud-config\n", "hostname": "one", "metadata": {"k": "v"}}
    assert demo.request("DELETE", f"compute/v2.1/servers/{server_id}").status_code == 204
    assert demo.servers("tags=a")[0]["OS-EXT-STS:task_state"] == "deleting"
    site.after(0.2)
    assert demo.request("GET", f"compute/v2.1/servers/{server_id}").json == {
        "itemNotFound": {"code": 404, "message": f"Instance {server_id} could not be found."}}
    assert not demo.servers() and not site.hypervisor.guests and not demo.get("network/v2.0/ports")["ports"]


def test_many_servers_of_one_request(site: Site, demo: Client) -> None:
    reservation = demo.boot("n", 3, return_reservation_id=True)["reservation_id"]
    site.after(0.3)
    servers = demo.servers(f"reservation_id={reservation}&sort_key=display_name&sort_dir=asc")
    assert [server["name"] for server in servers] == ["n-1", "n-2", "n-3"]
    assert len({server["addresses"]["local-net"][0]["addr"] for server in servers}) == 3
    assert {server["status"] for server in servers} == {"ACTIVE"}


def test_all_or_none_find_a_gpu(site: Site, demo: Client) -> None:
    demo.boot("fits", 1, "gpu.large")
    demo.boot("not", 5, "gpu.small")
    site.after(0.3)
    for server in demo.servers("name=not"):
        assert server["status"] == "ERROR"
        assert "fault" not in server  # which is known of one server, not in a list
        fault = demo.get(f"compute/v2.1/servers/{server['id']}")["server"]["fault"]
        assert (fault["code"], fault["message"]) == (500, NO_VALID_HOST)
        assert server["addresses"] == {}
    demo.boot("fits-too", 4, "gpu.small")  # those in ERROR hold nothing
    site.after(0.3)
    assert {server["status"] for server in demo.servers("name=fits")} == {"ACTIVE"}
    first = demo.servers("name=fits$")[0]
    demo.request("DELETE", f"compute/v2.1/servers/{first['id']}")
    site.after(0.2)
    demo.boot("later", 1, "gpu.large")
    site.after(0.3)
    assert demo.servers("name=later")[0]["status"] == "ACTIVE"


def test_a_cell_that_does_not_answer(site: Site, demo: Client) -> None:
    server_id = demo.boot("there", tags=["a"])["server"]["id"]
    site.after(0.3)
    site.cloud.settings.cell_down = True
    assert demo.servers("tags=a") == []
    assert [set(server) for server in demo.servers()] == [{"id", "status", "tenant_id", "created", "links"}]
    assert demo.get(f"compute/v2.1/servers/{server_id}")["server"]["status"] == "UNKNOWN"
    assert demo.request("DELETE", f"compute/v2.1/servers/{server_id}").status_code == 500
    demo.boot("late", tags=["a"])
    site.after(0.3)
    [late] = demo.servers("tags=a")  # found no host, so it is in no cell that is down
    assert (late["name"], late["status"]) == ("late", "ERROR")
    site.cloud.settings.cell_down = False
    assert {server["status"] for server in demo.servers("tags=a")} == {"ACTIVE", "ERROR"}


def test_quota(site: Site, demo: Client) -> None:
    admin = site.client("local-admin")
    path = f"compute/v2.1/os-quota-sets/{demo.project}"
    assert demo.request("PUT", path, {"quota_set": {"instances": 3}}).status_code == 403
    assert admin.request("PUT", path, {"quota_set": {"instances": 3, "cores": 3}}).json["quota_set"]["instances"] == 3
    demo.boot(count=2)
    assert demo.boot(count=2, status=403) == {"forbidden": {"code": 403, "message": (
        "Quota exceeded for instances, cores: Requested 2, 2, but already used 2, 2 of 3, 3 instances, cores")}}
    assert len(demo.servers()) == 2
    absolute = demo.get("compute/v2.1/limits")["limits"]["absolute"]
    assert (absolute["totalInstancesUsed"], absolute["maxTotalInstances"]) == (2, 3)
    site.client("local-other").boot(count=2)  # another project's quota


@pytest.mark.parametrize(("change", "text"), [
    ({"name": ""}, "name"), ({"flavorRef": "none"}, "Flavor none could not be found."),
    ({"imageRef": "none"}, "Can not find requested image"), ({"networks": [{"uuid": "none"}]}, "Network none could not be found."),
    ({"networks": [{"port": "x"}]}, "Port id x could not"), ({"security_groups": [{"name": "none"}]}, "Unable to find security_group"),
    ({"tags": ["a/b"]}, "a/b"), ({"tags": ["a,b"]}, "a,b"), ({"tags": ["y", "x" * 61]}, "attribute 1."),
    ({"tags": [str(n) for n in range(51)]}, "is too long"),
    ({"user_data": "not base64!"}, "base64"), ({"user_data": "QUFB" * 20000}, "user_data"),
    ({"min_count": 3, "max_count": 2}, "min_count"),
    ({"hostname": "hh", "max_count": 2}, "single hostname"), ({"metadata": {"k": 1}}, "attribute k."),
    ({"key_name": "none"}, "Invalid key_name"),
    ({"surprise": 1}, "Additional properties are not allowed ('surprise' was unexpected)"), ({"availability_zone": "moon"}, "zone"),
])
def test_refused_creates_make_nothing(demo: Client, change: dict[str, Any], text: str) -> None:
    error = demo.boot(**{"count": 1, "name": "s", "status": 400, **change})["badRequest"]
    assert error["code"] == 400
    assert text in error["message"]
    assert demo.servers() == []


def test_filters(site: Site, demo: Client) -> None:
    demo.boot("a", tags=["x", "y"])
    demo.boot("b", tags=["x"], flavor="gpu.small")
    demo.boot("c")
    gpu = demo.id_of("compute/v2.1/flavors", "gpu.small")
    for query, names in (("tags=x", "ab"), ("tags=x,y", "a"), ("tags-any=y,z", "a"), ("not-tags=x", "c"), ("not-tags-any=y", "bc"),
                         ("name=^[ab]$", "ab"), ("status=BUILD", "abc"), ("status=ACTIVE", ""), ("status=active&status=build", "abc"),
                         (f"flavor={gpu}", "b"), ("vm_state=building", "abc"), ("ip=^127.64", "abc"), ("ip=^10", "")):
        assert "".join(sorted(server["name"] for server in demo.servers(query))) == names, query


def test_unknown_query_parameters_are_refused(demo: Client) -> None:
    answer = demo.request("GET", "compute/v2.1/servers/detail?tag=x")
    assert answer.status_code == 400
    assert "Additional properties are not allowed ('tag' was unexpected)" in answer.json["badRequest"]["message"]
    assert demo.request("GET", "compute/v2.1/servers?name=(").status_code == 400
    assert demo.request("GET", "compute/v2.1/servers?changes-since=yesterday").status_code == 400


def test_paging(demo: Client) -> None:
    demo.boot("n", 5)
    first = demo.get("compute/v2.1/servers?limit=2&name=n")
    second = demo.get(first["servers_links"][0]["href"].removeprefix("http://127.0.0.1:9510/"))
    last = demo.get(second["servers_links"][0]["href"].removeprefix("http://127.0.0.1:9510/"))
    assert [len(part["servers"]) for part in (first, second, last)] == [2, 2, 1]
    assert "servers_links" not in last
    assert len({server["id"] for part in (first, second, last) for server in part["servers"]}) == 5
    assert demo.request("GET", "compute/v2.1/servers?marker=gone").status_code == 400


def test_a_page_begins_where_a_server_was_that_is_deleted_meanwhile(site: Site, demo: Client) -> None:
    demo.boot("n", 5)
    ids = [server["id"] for server in demo.servers()]
    demo.request("DELETE", f"compute/v2.1/servers/{ids[2]}")
    site.after(0.5)
    assert [server["id"] for server in demo.servers(f"marker={ids[2]}")] == ids[3:]
    assert [server["id"] for server in demo.servers()] == ids[:2] + ids[3:]


def test_changes_since_shows_the_deleted_without_tags(site: Site, demo: Client) -> None:
    server_id = demo.boot(tags=["x"])["server"]["id"]
    site.after(1)
    demo.request("DELETE", f"compute/v2.1/servers/{server_id}")
    site.after(1)
    assert [(server["status"], server["tags"]) for server in demo.servers("changes-since=2020-01-01T00:00:00Z")] == [("DELETED", [])]
    assert demo.servers("changes-since=2020-01-01T00:00:00Z&tags=x") == []
    assert demo.servers("changes-since=2100-01-01T00:00:00Z") == []


def test_projects_are_separate(site: Site, demo: Client) -> None:
    server_id = demo.boot()["server"]["id"]
    other, admin = site.client("local-other"), site.client("local-admin")
    assert other.servers() == []
    for method, path in (("GET", ""), ("DELETE", ""), ("PUT", "/tags"), ("GET", "/os-interface")):
        assert other.request(method, f"compute/v2.1/servers/{server_id}{path}", {"tags": []}).status_code == 404
    assert other.request("GET", "compute/v2.1/servers?all_tenants=1").status_code == 403
    assert admin.servers() == []
    assert [server["id"] for server in admin.servers("all_tenants=1")] == [server_id]
    assert [server["id"] for server in admin.servers(f"project_id={demo.project}")] == [server_id]


def test_roles(site: Site, demo: Client) -> None:
    server_id = demo.boot()["server"]["id"]
    reader, norole = site.client("local-reader"), site.client("local-norole")
    assert len(reader.servers()) == 1
    assert reader.request("DELETE", f"compute/v2.1/servers/{server_id}").json == {
        "forbidden": {"code": 403, "message": "Policy doesn't allow os_compute_api:servers:delete to be performed."}}
    assert reader.boot(status=403)["forbidden"]["code"] == 403
    for path in ("compute/v2.1/servers", "compute/v2.1/flavors", "image/v2/images", "network/v2.0/networks"):
        assert norole.request("GET", path).status_code == 403, path
    assert demo.request("GET", "compute/v2.1/os-hypervisors").status_code == 403


def test_tags(demo: Client) -> None:
    path = f"compute/v2.1/servers/{demo.boot(tags=['a'])['server']['id']}/tags"
    assert demo.request("PUT", f"{path}/b").status_code == 201
    assert demo.request("PUT", f"{path}/b").status_code == 204
    assert demo.get(path) == {"tags": ["a", "b"]}
    assert demo.request("DELETE", f"{path}/a").status_code == 204
    assert demo.request("GET", f"{path}/a").status_code == 404
    assert demo.request("PUT", path, {"tags": ["z", "y"]}).json == {"tags": ["y", "z"]}
    assert demo.request("PUT", path, {"tags": ["a/b"]}).status_code == 400


def test_power(site: Site, demo: Client) -> None:
    server_id = demo.boot()["server"]["id"]
    path = f"compute/v2.1/servers/{server_id}/action"
    assert demo.request("POST", path, {"os-start": None}).status_code == 409
    site.after(1)
    assert demo.request("POST", path, {"os-stop": None}).status_code == 202
    assert (demo.servers()[0]["status"], site.hypervisor.guests) == ("SHUTOFF", {})
    assert demo.request("POST", path, {"os-start": None}).status_code == 202
    site.after(1)
    assert demo.servers()[0]["status"] == "ACTIVE"
    assert server_id in site.hypervisor.guests
    assert demo.request("POST", path, {"os-fly": None}).status_code == 400
    assert "output" in demo.post(path, {"os-getConsoleOutput": {}}, 200)


def test_an_address_in_use_is_changed_for_another(demo: Client, site: Site) -> None:
    site.hypervisor.taken = [None, None]
    server_id = demo.boot()["server"]["id"]
    before = demo.servers()[0]["addresses"]["local-net"][0]["addr"]
    site.after(1)
    server = demo.servers()[0]
    after = server["addresses"]["local-net"][0]["addr"]
    assert (server["status"], site.hypervisor.guests[server_id]["address"]) == ("ACTIVE", after)
    assert after != before


def test_a_guest_that_does_not_start(demo: Client, site: Site) -> None:
    site.hypervisor.broken = True
    demo.boot()
    site.after(1)
    assert "fault" not in demo.servers()[0]  # the status comes first
    site.after(1)
    assert "no such environment" in demo.servers()[0]["fault"]["message"]


def test_deleted_while_it_boots(demo: Client, site: Site) -> None:
    server_id = demo.boot()["server"]["id"]
    demo.request("DELETE", f"compute/v2.1/servers/{server_id}")
    site.after(1)
    assert not site.hypervisor.guests and not demo.servers()


def test_restart(tmp_path: Path) -> None:
    site = Site(tmp_path / "state")
    demo = site.client()
    for name in ("on", "doomed", "building"):
        demo.boot(name)
        site.after(1) if name != "building" else None
    doomed = demo.servers("name=doomed")[0]["id"]
    demo.request("DELETE", f"compute/v2.1/servers/{doomed}")

    site = Site(tmp_path / "state", FakeHypervisor())
    site.after(1)
    demo = site.client()
    assert {server["name"]: server["status"] for server in demo.servers()} == {"on": "SHUTOFF", "building": "ERROR"}


def test_microversions(demo: Client) -> None:
    answer = demo.request("GET", "compute/v2.1/servers", headers={"OpenStack-API-Version": "compute 2.53, identity 3.1"})
    assert answer.headers["OpenStack-API-Version"] == "compute 2.53"
    assert answer.headers["X-OpenStack-Request-Id"].startswith("req-")
    answer = demo.request("GET", "compute/v2.1/servers", headers={"OpenStack-API-Version": "compute 2.999"})
    assert answer.status_code == 406
    assert "maximum is 2.96" in answer.json["computeFault"]["message"]


def test_flavors(site: Site, demo: Client) -> None:
    admin = site.client("local-admin")
    made = admin.post("compute/v2.1/flavors", {"flavor": {"name": "gpu.huge", "vcpus": 64, "ram": 1024, "disk": 1}}, 200)["flavor"]
    path = f"compute/v2.1/flavors/{made['id']}"
    admin.post(f"{path}/os-extra_specs", {"extra_specs": {"resources:CUSTOM_GPU": "9"}}, 200)
    assert demo.get(path)["flavor"]["extra_specs"] == {"resources:CUSTOM_GPU": "9"}
    demo.boot(flavor="gpu.huge")
    site.after(1)
    server_id = demo.servers()[0]["id"]
    assert demo.get(f"compute/v2.1/servers/{server_id}")["server"]["fault"]["message"] == NO_VALID_HOST
    assert demo.request("DELETE", path).status_code == 403
    assert admin.request("DELETE", path).status_code == 202
    assert demo.request("GET", path).status_code == 404


def test_images(demo: Client) -> None:
    names = [image["name"] for image in demo.get("image/v2/images?cml_framework=tensorflow")["images"]]
    assert names == ["tensorflow"]
    assert [image["name"] for image in demo.get("image/v2/images?limit=1")["images"]] == ["tensorflow"]
    assert demo.get("image/v2/images?limit=1")["next"].startswith("/v2/images?limit=1&marker=")
    assert demo.get("image/v2/images?os_hidden=True")["images"] == []
    assert demo.get("image/v2/images?name=in:plain,other")["images"][0]["cml_ssh_port"] == "2200"
    assert demo.request("GET", "image/v2/images/none").status_code == 404
