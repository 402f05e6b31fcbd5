"""What is in the cloud and belongs to no living job: found, told of, deleted; and the operator's last resort for a job that is stuck."""

from __future__ import annotations

import configparser
import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.harness.cloud import LocalCloud
from tests.harness.process import free_port
from tests.harness.stack import Stack, make_stack
from tests.harness.training import WAIT, Gate, document
from tests.harness.waiting import until

METRICS_PORT = free_port()


@pytest.fixture(scope="module")
def watchful(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack whose conductor looks for orphans every second."""
    options = {"conductor": {"orphan_interval": 1, "orphan_grace": 1, "metrics_port": METRICS_PORT}}
    environ = {"CML_TEST_STACK": "standalone"}
    with make_stack(tmp_path_factory.mktemp("watchful"), environ=environ, options=options) as stack:
        yield stack


class Leaker:
    """Makes in the cloud what a job would, as the service's account."""

    def __init__(self, cloud: LocalCloud, config_file: Path) -> None:
        self._cloud = cloud
        config = configparser.ConfigParser()
        config.read(config_file)
        self._deployment = config["cloud"]["deployment"]

    def post(self, path: str, **body: object) -> str:
        answer = self._cloud.request("POST", path, body, "local-service")
        assert answer.ok, answer.text
        return str(answer.json()[next(iter(body))]["id"])

    def leak(self, job_id: str) -> dict[str, str]:
        """Leave a server, its security group, a port with that group, and a floating address; give their ids by kind."""
        deployment = self._deployment
        group = self.post("/network/v2.0/security-groups", security_group={
            "name": f"cml-{deployment}-{job_id}", "description": f"Nodes of a cml_nova job; deployment={deployment}"})
        networks = {n["name"]: n["id"] for n in self._cloud.get("/network/v2.0/networks", "local-service")["networks"]}
        network = networks["local-net"]
        floating = self.post("/network/v2.0/floatingips", floatingip={
            "floating_network_id": networks["local-external"],
            "description": f"Node of a cml_nova job; deployment={deployment}; job={job_id}"})
        port = self.post("/network/v2.0/ports", port={"network_id": network, "security_groups": [group]})
        image = self._cloud.get("/image/v2/images", "local-service")["images"][0]["id"]
        flavor = self._cloud.get("/compute/v2.1/flavors", "local-service")["flavors"][0]["id"]
        server = self.post("/compute/v2.1/servers", server={
            "name": "leaked", "flavorRef": flavor, "imageRef": image, "networks": [{"uuid": network}], "security_groups": [{"name": group}],
            "tags": ["cml-nova", f"cml:deployment:{deployment}", f"cml:job:{job_id}", "cml:gen:1", "cml:pool:0"]})
        return {"server": server, "group": group, "port": port, "floating": floating}


def metric(name: str) -> float:
    text = requests.get(f"http://127.0.0.1:{METRICS_PORT}/metrics", timeout=10).text
    return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name))


def _port_lists(cloud: LocalCloud) -> int:
    """Count the requests for ports: a job that runs makes none, each look for orphans makes one."""
    return sum(count for kind, count in cloud.calls().items() if "GET" in kind and "ports" in kind)


@pytest.mark.fault("orphans")
def test_the_conductor_deletes_what_a_done_job_and_one_unknown_have_left(watchful: Stack) -> None:
    cloud, client = watchful.cloud, watchful.demo
    with watchful.guarded():
        job_id = client.submit(document(), {"train.py": ""})
        client.succeed(job_id)
        leaker = Leaker(cloud, watchful.service.config_file)
        left = [*leaker.leak(job_id).values(), *leaker.leak(str(uuid.uuid4())).values()]
        assert len(left) == 8
        until(lambda: not cloud.leftovers(), 60, "the end of all orphans")
        told = {event["detail"]["kind"] for event in client.events(job_id) if event["kind"] == "orphan"}
        assert told >= {"server", "group", "floating"}
        until(lambda: metric("cml_nova_orphans_deleted_total") >= 6, 30, "the count of the deleted")
        assert metric("cml_nova_orphans_found_total") >= metric("cml_nova_orphans_deleted_total")
        assert metric("cml_nova_workers_alive") == 1
        assert metric("cml_nova_jobs{") == 0


def test_what_a_running_job_has_is_no_orphan(watchful: Stack) -> None:
    with watchful.guarded(), Gate() as gate:
        job_id = watchful.demo.submit(document(env=gate.env), gate.files(WAIT))
        gate.expect(2)
        watchful.cloud.forget_calls()
        until(lambda: _port_lists(watchful.cloud) >= 4, 30, "some looks for orphans")
        gate.open()
        assert watchful.demo.succeed(job_id)["attempt"] == 1
        assert not [event for event in watchful.demo.events(job_id) if event["kind"] == "orphan"]


@pytest.mark.fault("orphans")
def test_an_operator_lists_and_reaps_orphans(stack: Stack) -> None:
    service = stack.service
    assert json.loads(service.manage("orphans", "list", "-f", "json")) == []
    first, second = str(uuid.uuid4()), str(uuid.uuid4())
    leaker = Leaker(stack.cloud, service.config_file)
    made = leaker.leak(first)
    leaker.leak(second)
    until(lambda: stack.cloud.servers(first) and stack.cloud.servers(first)[0]["status"] == "ACTIVE", 30, "the server")
    listed = service.run("cml-nova-manage", "orphans", "list", "-f", "json")
    assert listed.returncode == 1, listed.stderr
    mine = {(r["kind"], r["id"]) for r in json.loads(listed.stdout) if r["job_id"] == first}
    assert mine >= set(made.items())
    service.manage("orphans", "reap", "--job", first)
    assert stack.cloud.servers(first) == []
    assert len(stack.cloud.servers(second)) == 1
    service.manage("orphans", "reap")
    assert stack.cloud.leftovers() == []
    assert json.loads(service.manage("orphans", "list", "-f", "json")) == []


@pytest.mark.fault("stuck")
def test_a_job_that_is_reset_is_cleaned_up_whatever_its_worker_thinks(stack: Stack, gate: Gate) -> None:
    client = stack.demo
    job_id = client.submit(document(env=gate.env), gate.files(WAIT))
    gate.expect(2)
    refused = stack.service.run("cml-nova-manage", "orphans", "reap", "--job", job_id)
    assert (refused.returncode, "job reset" in refused.stderr) == (1, True)
    stack.service.manage("job", "reset", job_id)
    job = client.finish(job_id)
    assert (job["status"], job["cause"]) == ("FAILED", "PLATFORM")
    assert f"cml-nova-manage job reset {job_id}" in job["status_reason"]
    assert stack.cloud.servers(job_id) == []
    again = stack.service.run("cml-nova-manage", "job", "reset", job_id)
    assert (again.returncode, "has ended with FAILED" in again.stderr) == (1, True)
