"""The cloud fails in the ways that clouds fail: answers lost, servers broken, deletes refused, tokens dead."""

from __future__ import annotations

from pathlib import Path

import pytest
from keystoneauth1 import session as ks_session
from keystoneauth1.identity import v3

from tests.harness.client import Client
from tests.harness.cloud import LocalCloud
from tests.harness.stack import make_stack
from tests.harness.training import BIG_OUTPUT, TICK, WAIT, Gate, document
from tests.harness.waiting import until


@pytest.mark.fault("create-503-after")
@pytest.mark.parametrize("workers", [1, 3])
def test_create_whose_answer_is_lost_makes_no_second_set_of_servers(client: Client, cloud: LocalCloud, gate: Gate, workers: int) -> None:
    cloud.fault("http", service="compute", method="POST", path="^/servers$", status=503, when="after", count=1)
    job_id = client.submit(document(workers=workers, env=gate.env), gate.files(WAIT))
    gate.expect(workers)
    assert len(cloud.servers(job_id)) == workers
    gate.open()
    client.succeed(job_id)


@pytest.mark.fault("create-timeout")
def test_create_that_takes_effect_after_we_gave_up_on_it_makes_no_second_set_of_servers(tmp_path: Path) -> None:
    options = {"cloud": {"request_timeout": 2, "settle_time": 6}}
    with make_stack(tmp_path, options=options) as stack, stack.guarded(), Gate() as gate:
        stack.cloud.fault("http", service="compute", method="POST", path="^/servers$", delay=4, count=1)
        job_id = stack.demo.submit(document(workers=3, env=gate.env), gate.files(WAIT))
        gate.expect(3)
        assert len(stack.cloud.servers(job_id)) == 3
        assert stack.cloud.calls()["compute POST /servers"] == 1
        assert any("timed out" in event["message"] for event in stack.demo.events(job_id)), stack.demo.story(job_id)
        gate.open()
        stack.demo.succeed(job_id)


@pytest.mark.fault("cloud-slow")
def test_cloud_that_takes_long_for_each_answer_is_asked_for_nothing_twice(client: Client, cloud: LocalCloud, gate: Gate) -> None:
    for service in ("compute", "network", "image"):
        cloud.fault("http", service=service, delay=0.8, count=None)
    cloud.forget_calls()
    job_id = client.submit(document(env=gate.env), gate.files(WAIT))
    gate.expect(2)
    lost, kept = client.nodes(job_id)
    cloud.fault("server", server=lost["server_id"], fault="vanish")
    gate.expect(4)
    assert client.nodes(job_id)[1]["server_id"] == kept["server_id"]
    gate.open()
    assert client.succeed(job_id)["attempt"] == 2
    assert cloud.calls()["compute POST /servers"] == 2
    assert not [event for event in client.events(job_id) if event["kind"] == "retry"], client.story(job_id)


@pytest.mark.fault("create-503-before")
def test_create_that_is_refused_for_a_while_is_tried_again(client: Client, cloud: LocalCloud) -> None:
    cloud.fault("http", service="compute", method="POST", path="^/servers$", status=503, when="before", count=3)
    client.succeed(client.submit(document(), {"train.py": ""}))


def fail_thrice(cloud: LocalCloud, service: str, method: str, path: str) -> None:
    """Have the next three requests of a kind fail; the last of them takes effect."""
    for status, when, count in ((500, "before", 2), (503, "after", 1)):
        cloud.fault("http", service=service, method=method, path=path, status=status, when=when, count=count)


def all_failed(cloud: LocalCloud) -> bool:
    """Tell whether all requests have come that were to fail."""
    return not any(fault["kind"] == "http" for fault in cloud.faults())


@pytest.mark.fault("cloud-5xx")
@pytest.mark.parametrize(("service", "method", "path"), [
    ("compute", "GET", "/servers"), ("compute", "POST", "/servers$"), ("compute", "DELETE", "/servers/"),
    ("network", "GET", "/security-groups"), ("network", "POST", "/security-groups$"), ("network", "POST", "/security-group-rules$"),
    ("network", "DELETE", "/security-groups/"),
])
def test_every_request_of_a_job_fails_now_and_then(client: Client, cloud: LocalCloud, service: str, method: str, path: str) -> None:
    fail_thrice(cloud, service, method, path)
    job = client.succeed(client.submit(document(), {"train.py": ""}))
    assert (job["attempt"], job["infra_restarts"]) == (1, 0)
    assert all_failed(cloud), cloud.faults()


@pytest.mark.fault("cloud-5xx")
def test_new_tokens_are_refused_now_and_then(client: Client, cloud: LocalCloud, gate: Gate) -> None:
    job_id = client.submit(document(env=gate.env), gate.files(WAIT))
    gate.expect(2)
    fail_thrice(cloud, "identity", "POST", "/auth/tokens$")
    cloud.fault("tokens", expire="all")
    until(lambda: all_failed(cloud), 30, "three requests for a token")
    gate.open()
    assert client.succeed(job_id)["attempt"] == 1


@pytest.mark.fault("cloud-5xx")
@pytest.mark.parametrize(("service", "path"), [("image", "/images"), ("identity", "/auth/tokens$")])
def test_what_the_api_asks_for_fails_now_and_then(client: Client, cloud: LocalCloud, service: str, path: str) -> None:
    """The user, who has just logged in, is told to ask again; a job is made when all answers are there."""
    body = document(source={"package": client.upload({"train.py": ""})}, client_token=f"while-{service}-fails")
    # by its id, for which no other test has asked a minute ago
    body["image"] = next(image["id"] for image in cloud.get("/image/v2/images")["images"] if image["name"] == "plain")
    newcomer = Client(ks_session.Session(v3.Password(**cloud.credentials("local"))), cloud.pace)
    fail_thrice(cloud, service, "GET", path)
    for _ in range(3):  # a request of the user may lead to several of ours
        answer = newcomer.request("POST", "/v1/jobs", json={"job": body})
        assert answer.status_code in (200, 202, 503), answer.text
    assert all_failed(cloud), cloud.faults()
    newcomer.succeed(newcomer.submit(body))


@pytest.mark.fault("boot-error-some")
def test_servers_that_fail_to_boot_are_replaced_and_they_alone(client: Client, cloud: LocalCloud, gate: Gate) -> None:
    cloud.fault("boot", result="error", count=1)
    cloud.fault("settings", delete_time=1)
    cloud.forget_calls()
    job_id = client.submit(document(workers=3, env=gate.env), gate.files(WAIT))
    [failed] = until(lambda: [server["id"] for server in cloud.servers(job_id) if server["status"] == "ERROR"], 30, "a server in ERROR")
    good = {server["id"] for server in cloud.servers(job_id)} - {failed}
    gate.expect(3)
    now = {server["id"] for server in cloud.servers(job_id)} - {failed}
    assert (len(good), len(now), now > good) == (2, 3, True), "a good one was given up, too"
    calls = cloud.calls()
    assert (calls["compute POST /servers"], calls["compute DELETE /servers/{id}"]) == (2, 1)
    told = [event["message"] for event in client.events(job_id) if event["kind"] == "node"]
    assert len(told) == 1 and "went ERROR" in told[0], client.story(job_id)
    gate.open()
    job = client.succeed(job_id)
    assert (job["attempt"], job["infra_restarts"]) == (1, 0)


@pytest.mark.fault("boot-error-all")
def test_servers_that_all_fail_to_boot_bring_the_job_back_to_the_queue_with_the_fault(client: Client, cloud: LocalCloud) -> None:
    cloud.fault("boot", result="error", count=2)
    job_id = client.submit(document(workers=2), {"train.py": ""})
    client.succeed(job_id)
    [told] = [event["message"] for event in client.events(job_id) if event["kind"] == "capacity"]
    assert "went ERROR" in told


@pytest.mark.fault("delete-503-before")
def test_delete_that_fails_is_retried_until_the_servers_are_gone(client: Client, cloud: LocalCloud) -> None:
    cloud.fault("http", service="compute", method="DELETE", path="^/servers/", status=503, when="before", count=6)
    job_id = client.submit(document(workers=2), {"train.py": ""})
    job = client.succeed(job_id)
    assert job["outcome"] == "SUCCEEDED"
    assert cloud.servers(job_id) == []


@pytest.mark.fault("delete-503-after")
def test_delete_whose_answer_is_lost(client: Client, cloud: LocalCloud) -> None:
    cloud.fault("http", service="compute", method="DELETE", path="^/servers/", status=503, when="after", count=2)
    client.succeed(client.submit(document(workers=2), {"train.py": ""}))


@pytest.mark.fault("nova-down-in-teardown")
def test_nova_is_away_while_servers_are_to_be_deleted(client: Client, cloud: LocalCloud, gate: Gate) -> None:
    job_id = client.submit(document(env=gate.env), gate.files(WAIT))
    gate.expect(2)
    cloud.fault("http", service="compute", path=".", status=503, when="before", count=None)
    gate.open()
    client.wait_status(job_id, "CLEANING")
    cloud.forget_calls()
    until(lambda: sum(count for kind, count in cloud.calls().items() if kind.startswith("compute")) >= 3, 30, "requests that fail")
    assert client.job(job_id)["status"] == "CLEANING"
    cloud.heal()
    assert client.succeed(job_id)["attempt"] == 1


@pytest.mark.fault("group-undeletable")
def test_group_that_can_not_be_deleted_for_a_while_keeps_the_job_from_being_done(client: Client, cloud: LocalCloud) -> None:
    cloud.fault("http", service="network", method="DELETE", path="/security-groups/", status=503, when="before", count=None)
    job_id = client.submit(document(workers=1), {"train.py": ""})
    client.wait(job_id, lambda job: job["status"] == "CLEANING" and not cloud.servers(job_id))
    assert any(item.startswith("groups ") for item in cloud.leftovers())
    assert client.job(job_id)["status"] == "CLEANING"
    cloud.heal()
    client.succeed(job_id)


@pytest.mark.fault("token-expired")
def test_expired_tokens_are_no_trouble(client: Client, cloud: LocalCloud, gate: Gate) -> None:
    job_id = client.submit(document(env=gate.env), gate.files(TICK))
    gate.expect(2)
    cloud.fault("tokens", expire="all")
    client.wait_status(job_id, "RUNNING")
    gate.open()
    client.succeed(job_id)


@pytest.mark.fault("worker-vm-deleted")
def test_server_deleted_behind_our_back_is_replaced_and_the_training_starts_anew(client: Client, cloud: LocalCloud, gate: Gate) -> None:
    job_id = client.submit(document(env=gate.env), gate.files(WAIT))
    gate.expect(2)
    kept, lost = client.nodes(job_id)
    cloud.fault("server", server=lost["server_id"], fault="vanish")
    again = [visitor for visitor in gate.expect(4) if visitor.attempt == 2]
    assert {visitor.task for visitor in again} == {"worker:0", "worker:1"}
    nodes = client.nodes(job_id)
    assert nodes[0]["server_id"] == kept["server_id"], "the machine that was well is kept"
    assert nodes[1]["server_id"] != lost["server_id"]
    gate.open()
    job = client.succeed(job_id)
    assert job["attempt"] == 2
    assert any("INFRA_LOST" in str(event) for event in client.events(job_id)), client.story(job_id)


@pytest.mark.fault("vm-crashed")
def test_crashed_server_is_replaced(client: Client, cloud: LocalCloud, gate: Gate) -> None:
    job_id = client.submit(document(env=gate.env), gate.files(WAIT))
    gate.expect(2)
    lost = client.nodes(job_id)[0]["server_id"]
    cloud.fault("server", server=lost, fault="crash")
    gate.expect(4)
    assert client.nodes(job_id)[0]["server_id"] != lost
    gate.open()
    client.succeed(job_id)
    assert cloud.servers(job_id) == []


@pytest.mark.fault("host-down")
def test_node_whose_host_is_down_is_replaced_as_soon_as_the_cloud_says_so(client: Client, cloud: LocalCloud, gate: Gate) -> None:
    """Its server is called ACTIVE all the time. Silence alone would be borne: the path may be cut, and the training go on."""
    job_id = client.submit(document(env=gate.env), gate.files(WAIT))
    gate.expect(2)
    kept, lost = client.nodes(job_id)
    cloud.fault("server", server=lost["server_id"], fault="host-down")
    until(lambda: any("does not answer" in event["message"] for event in client.events(job_id)), 30, "an event about the silent node")
    assert client.job(job_id)["attempt"] == 1, "the node was given up although nothing is known of its host"
    cloud.fault("settings", host_status=1)
    gate.expect(4)
    now = client.nodes(job_id)
    assert now[0]["server_id"] == kept["server_id"]
    assert now[1]["server_id"] != lost["server_id"]
    assert any("host of its server is down" in event["message"] for event in client.events(job_id))
    gate.open()
    assert client.succeed(job_id)["attempt"] == 2


@pytest.mark.fault("worker-vm-deleted")
def test_servers_that_vanish_before_all_are_up_are_replaced(client: Client, cloud: LocalCloud, gate: Gate) -> None:
    cloud.fault("boot", result="never", count=1)
    job_id = client.submit(document(env=gate.env), gate.files(WAIT))
    until(lambda: sorted(node["status"] for node in client.nodes(job_id)) == ["ACTIVE", "BUILD"], 30, "one node that is up")
    for server in cloud.servers(job_id):
        cloud.fault("server", server=server["id"], fault="vanish")
    gate.expect(2)
    gate.open()
    job = client.succeed(job_id)
    assert (job["attempt"], job["infra_restarts"]) == (1, 0)


@pytest.mark.fault("vm-crashed")
def test_node_lost_while_nodes_are_made_ready_is_replaced(client: Client, cloud: LocalCloud, gate: Gate) -> None:
    job_id = client.submit(document(env=gate.env, setup="python3 train.py"), gate.files(WAIT))
    gate.expect(2)
    kept, lost = client.nodes(job_id)
    cloud.fault("server", server=lost["server_id"], fault="crash")
    gate.open()
    job = client.succeed(job_id)
    assert (job["attempt"], job["infra_restarts"]) == (1, 1)
    assert sorted(visitor.attempt for visitor in gate.visitors) == [0, 0, 0, 1, 1], "setups: one of the node that was kept"
    assert client.nodes(job_id)[0]["server_id"] == kept["server_id"]


@pytest.mark.fault("worker-vm-deleted")
def test_node_lost_with_outputs_that_were_not_collected_yet_costs_an_attempt_and_not_the_job(client: Client, cloud: LocalCloud) -> None:
    job_id = client.submit(document(workers=1), {"train.py": BIG_OUTPUT})
    client.wait_status(job_id, "COLLECTING")
    cloud.fault("server", server=client.nodes(job_id)[0]["server_id"], fault="vanish")
    job = client.succeed(job_id)
    assert (job["attempt"], job["infra_restarts"]) == (2, 1)
    assert client.artifacts(job_id)["output/worker-0/big"] == 300 << 20


@pytest.mark.fault("boot-stuck")
def test_servers_that_never_boot_are_given_up_on_cancel(client: Client, cloud: LocalCloud) -> None:
    cloud.fault("boot", result="never", count=2)
    job_id = client.submit(document(workers=2), {"train.py": ""})
    until(lambda: len(cloud.servers(job_id)) == 2, 20, "two servers that hang in BUILD")
    client.cancel(job_id)
    assert client.finish(job_id)["status"] == "CANCELLED"
    assert cloud.servers(job_id) == []


@pytest.mark.fault("boot-stuck")
def test_servers_that_never_boot_bring_the_job_back_to_the_queue(tmp_path: Path) -> None:
    with make_stack(tmp_path, options={"conductor": {"provisioning_timeout": 3}}) as stack, stack.guarded():
        stack.cloud.fault("boot", result="never", count=1)
        job_id = stack.demo.submit(document(workers=2), {"train.py": ""})
        first = until(lambda: {server["id"] for server in stack.cloud.servers(job_id)}, 20, "servers")
        job = stack.demo.wait(job_id, lambda job: job["status"] == "QUEUED" and job["cause"] is not None)
        assert (job["cause"], "were not active after 3 s" in job["status_reason"]) == ("NO_CAPACITY", True), job["status_reason"]
        job = stack.demo.succeed(job_id)
        assert (job["attempt"], job["infra_restarts"]) == (1, 0)
        assert not first & {node["server_id"] for node in stack.demo.nodes(job_id)}, "a server of the first try was used again"


def test_nothing_untagged_is_touched(client: Client, cloud: LocalCloud) -> None:
    """Somebody else's server in the service's own project survives jobs beside it."""
    images = {image["name"]: image["id"] for image in cloud.get("/image/v2/images")["images"]}
    flavors = {flavor["name"]: flavor["id"] for flavor in cloud.get("/compute/v2.1/flavors")["flavors"]}
    networks = {network["name"]: network["id"] for network in cloud.get("/network/v2.0/networks")["networks"]}
    server = {"name": "not-ours", "imageRef": images["plain"], "flavorRef": flavors["cpu.small"],
              "networks": [{"uuid": networks["local-net"]}]}
    created = cloud.request("POST", "/compute/v2.1/servers", {"server": server}, cloud="local-service").json()["server"]["id"]
    try:
        client.succeed(client.submit(document(), {"train.py": ""}))
        assert [found["id"] for found in cloud.servers() if found["name"] == "not-ours"] == [created]
    finally:
        cloud.request("DELETE", f"/compute/v2.1/servers/{created}", cloud="local-service")
        until(lambda: not cloud.servers(), 20, "the end of our own server")


@pytest.mark.fault("keystone-down")
def test_keystone_away_and_all_tokens_ended(client: Client, cloud: LocalCloud, gate: Gate) -> None:
    job_id = client.submit(document(env=gate.env), gate.files(TICK))
    gate.expect(2)
    client.request("GET", "/v1/jobs")  # whose token the API has checked
    cloud.fault("http", service="identity", method="POST", path="/auth/tokens", status=503, count=None)
    before = client.log_size(job_id)
    until(lambda: client.log_size(job_id) > before + 300, 20, "more of the log")
    cloud.heal()
    cloud.fault("tokens", expire="all")
    cloud.fault("http", service="identity", method="POST", path="/auth/tokens", status=503, count=20)
    gate.open()
    until(lambda: not any(fault["kind"] == "http" for fault in cloud.faults()), 60, "the end of Keystone's trouble")
    client.succeed(job_id)
    assert len(gate.visitors) == 2


@pytest.mark.fault("rate-limited")
@pytest.mark.parametrize(("method", "path", "kind"), [
    ("GET", "^/servers/detail", "compute GET /servers/detail"),
    ("POST", "^/servers$", "compute POST /servers"),
    ("DELETE", "^/servers/", "compute DELETE /servers/{id}"),
])
def test_requests_too_many_are_sent_again_as_late_as_the_cloud_asks_for(client: Client, cloud: LocalCloud, method: str, path: str,
                                                                        kind: str) -> None:
    cloud.fault("http", service="compute", method=method, path=path, status=429, retry_after=2, count=2)
    cloud.forget_calls()
    job_id = client.submit(document(workers=1), {"train.py": ""})
    client.succeed(job_id)
    first, second, third, *_ = cloud.times(kind)
    assert second - first >= 2 <= third - second, "two were refused, and the next ones came too early"


@pytest.mark.fault("cell-down")
def test_cell_that_does_not_answer_is_no_loss(client: Client, cloud: LocalCloud, gate: Gate) -> None:
    job_id = client.submit(document(env=gate.env), gate.files(WAIT))
    gate.expect(2)
    before = [node["server_id"] for node in client.nodes(job_id)]
    cloud.fault("settings", cell_down=1)
    cloud.forget_calls()
    # Lists by tag lack the servers now; each is followed by the list without a filter, which tells that they are there.
    until(lambda: cloud.calls().get("compute GET /servers/detail", 0) >= 6, 30, "looks at servers that seem to be gone")
    assert client.job(job_id)["status"] == "RUNNING"
    cloud.fault("settings", cell_down=0)
    gate.open()
    assert client.succeed(job_id)["attempt"] == 1
    assert [node["server_id"] for node in client.nodes(job_id)] == before


@pytest.mark.fault("cell-down")
def test_job_whose_cell_does_not_answer_is_cancelled_and_not_done_before_it_does(client: Client, cloud: LocalCloud) -> None:
    cloud.fault("settings", boot_time=60)
    job_id = client.submit(document(), {"train.py": ""})
    until(lambda: len(cloud.servers(job_id)) == 2, 20, "two servers that boot")
    cloud.fault("settings", cell_down=1)
    client.cancel(job_id)
    until(lambda: any(event["kind"] == "leak-suspect" for event in client.events(job_id)), 30, "word that something may be left")
    assert client.job(job_id)["status"] == "CLEANING"
    cloud.fault("settings", cell_down=0)
    assert client.finish(job_id)["status"] == "CANCELLED"
    assert not cloud.servers(job_id)


@pytest.mark.fault("image-gone")
def test_image_that_vanished_before_servers_are_asked_for_fails_the_job_in_the_clouds_words(client: Client, cloud: LocalCloud) -> None:
    cloud.fault("settings", gpus=0)
    job_id = client.submit(document(flavor="gpu.small"), {"train.py": ""})
    client.wait(job_id, lambda job: (job["status"], job["cause"]) == ("QUEUED", "NO_CAPACITY"))
    cloud.fault("image", image="plain")
    job = client.finish(job_id)
    assert (job["status"], job["cause"]) == ("FAILED", "CONFIG")
    assert "Can not find requested image" in job["status_reason"]


@pytest.mark.fault("image-gone")
def test_image_that_vanishes_while_servers_boot_from_it_fails_the_job_in_the_clouds_words(client: Client, cloud: LocalCloud) -> None:
    cloud.fault("settings", boot_time=2)
    job_id = client.submit(document(), {"train.py": ""})
    until(lambda: len(cloud.servers(job_id)) == 2, 20, "two servers that boot")
    cloud.fault("image", image="plain")
    job = client.finish(job_id)
    assert (job["status"], job["cause"]) == ("FAILED", "CONFIG")
    assert "Can not find requested image" in job["status_reason"]
    assert any(event["kind"] == "capacity" and "could not be found" in event["message"] for event in client.events(job_id))


@pytest.mark.fault("stuck-deleting")
def test_server_that_stays_although_its_deletion_was_accepted_is_told(client: Client, cloud: LocalCloud) -> None:
    cloud.fault("settings", delete_time=8)
    job_id = client.submit(document(workers=1), {"train.py": ""})
    until(lambda: any(event["kind"] == "leak-suspect" for event in client.events(job_id)), 30, "word of a suspected leak")
    assert client.job(job_id)["status"] == "CLEANING"
    client.succeed(job_id)
    assert cloud.servers(job_id) == []


@pytest.mark.fault("ports-left")
def test_port_that_a_server_which_failed_has_left_behind_goes_with_the_job(client: Client, cloud: LocalCloud, gate: Gate) -> None:
    cloud.fault("settings", leave_ports=1)
    cloud.fault("boot", result="error", count=1)
    job_id = client.submit(document(env=gate.env), gate.files(WAIT))
    gate.expect(2)
    living = {server["id"] for server in cloud.servers(job_id)}
    [left] = [port for port in cloud.get("/network/v2.0/ports")["ports"] if port["device_id"] not in living]
    gate.open()
    client.succeed(job_id)
    assert left["id"] not in cloud.inventory().ports
