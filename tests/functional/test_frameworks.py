"""The example trainings when a machine fails under them. How they end well: test_quickstart.py."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest

from tests.harness.client import Client
from tests.harness.cloud import LocalCloud
from tests.harness.waiting import until

EXAMPLES = Path(__file__).parents[2] / "examples"
MULTI_WORKER = ("tensorflow-digits", "job.json")
MXNET = ("mxnet-digits", "job.json")


def submit(client: Client, example: tuple[str, str], **env: str) -> str:
    directory = EXAMPLES / example[0]
    body = json.loads((directory / example[1]).read_text())
    body["env"] = {**body.get("env", {}), **env}
    return client.submit(body, {path.name: path.read_text() for path in directory.glob("*.py")})


def digest(client: Client, job_id: str, task: str) -> str:
    """Give the fingerprint of the weights that a worker ended with."""
    [found] = re.findall(r"^weights sha256 ([0-9a-f]{64})$", client.log(job_id, task), re.MULTILINE)
    return str(found)


def begin(client: Client, example: tuple[str, str]) -> str:
    """Start a training that would go on for long, and wait for its first epochs."""
    job_id = submit(client, example, EPOCHS="100000")
    client.wait(job_id, lambda job: epochs(client, job_id) >= 2, timeout=120)
    return job_id


def epochs(client: Client, job_id: str) -> int:
    found = client.metrics(job_id, name="test_accuracy")
    return len(found[0]["data"]) if found else 0


def test_tensorflow_can_not_go_on_without_its_peer(client: Client, cloud: LocalCloud) -> None:
    """TensorFlow itself notices a peer that is silent, and gives up; the next attempt begins when the peer is back."""
    job_id = begin(client, MULTI_WORKER)
    server = client.nodes(job_id)[1]["server_id"]
    cloud.fault("server", server=server, fault="hang")
    job = client.wait(job_id, lambda job: job["status"] != "RUNNING", timeout=120)
    assert job["outcome"] is None, "a peer that is lost is no failure of the program"
    cloud.fault("server", server=server, fault="resume")
    client.wait(job_id, lambda job: job["status"] == "RUNNING" and job["attempt"] == 2, timeout=120)
    client.cancel(job_id)
    assert client.finish(job_id)["status"] == "CANCELLED"


def test_mxnet_can_not_go_on_without_its_peer(client: Client, cloud: LocalCloud) -> None:
    """MXNet waits in silence for a peer that hangs, and goes on with it when it is back."""
    job_id = begin(client, MXNET)
    server = client.nodes(job_id)[1]["server_id"]
    cloud.fault("server", server=server, fault="hang")

    def stands_still() -> bool:
        before = epochs(client, job_id)
        time.sleep(3)
        return epochs(client, job_id) == before

    until(stands_still, 30, "the training stands still")
    assert client.job(job_id)["status"] == "RUNNING"
    before = epochs(client, job_id)
    cloud.fault("server", server=server, fault="resume")
    until(lambda: epochs(client, job_id) > before, 60, "the training goes on")
    assert client.job(job_id)["attempt"] == 1
    client.cancel(job_id)
    assert client.finish(job_id)["status"] == "CANCELLED"


@pytest.mark.fault("worker-vm-deleted")
@pytest.mark.parametrize("example", [MULTI_WORKER, MXNET], ids=["tensorflow", "mxnet"])
def test_attempt_after_a_lost_machine_ends_well(client: Client, cloud: LocalCloud, example: tuple[str, str]) -> None:
    """All processes are started anew, on fresh ports, and end with the same weights as if nothing had been."""
    job_id = submit(client, example)
    client.wait(job_id, lambda job: epochs(client, job_id) >= 1, timeout=120)
    cloud.fault("server", server=client.nodes(job_id)[1]["server_id"], fault="crash")
    job = client.succeed(job_id, timeout=240)
    assert job["attempt"] >= 2
    assert job["progress"] == 100
    assert digest(client, job_id, "worker:0") == digest(client, job_id, "worker:1")
    assert len({node["address"] for node in client.nodes(job_id)}) == 2
