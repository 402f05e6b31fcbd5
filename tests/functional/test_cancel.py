"""Cancel in every phase: the job ends, and nothing is left."""

from __future__ import annotations

import pytest

from tests.harness import guests
from tests.harness.client import Client
from tests.harness.cloud import LocalCloud
from tests.harness.training import WAIT, Gate, document
from tests.harness.waiting import until

BIG_OUTPUT = '''
import os
with open(os.path.join(os.environ["CML_OUTPUT_DIR"], "big"), "wb") as file:
    for _ in range(400):
        file.write(os.urandom(1 << 20))
'''


def assert_cancelled(client: Client, cloud: LocalCloud, job_id: str) -> None:
    job = client.finish(job_id)
    assert (job["status"], job["outcome"]) == ("CANCELLED", "CANCELLED"), job
    assert cloud.servers(job_id) == []
    assert cloud.leftovers() == []


@pytest.mark.fault("cancel-queued")
def test_while_queued(client: Client, cloud: LocalCloud, gate: Gate) -> None:
    cloud.fault("settings", gpus=2)
    first = client.submit(document(flavor="gpu.small", env=gate.env), gate.files(WAIT))
    gate.expect(2)
    second = client.submit(document(flavor="gpu.small"), {"train.py": ""})
    client.wait(second, lambda job: job["status"] == "QUEUED" and job["cause"] == "NO_CAPACITY")
    client.cancel(second)
    job = client.finish(second)
    assert job["status"] == "CANCELLED"
    assert cloud.servers(second) == []
    assert len(cloud.servers(first)) == 2
    gate.open()
    client.succeed(first)


@pytest.mark.fault("cancel-building")
def test_while_building(client: Client, cloud: LocalCloud) -> None:
    cloud.fault("settings", boot_time=600)
    job_id = client.submit(document(workers=3), {"train.py": ""})
    client.wait(job_id, lambda job: job["status"] == "BUILDING" and len(cloud.servers(job_id)) == 3)
    client.cancel(job_id)
    assert_cancelled(client, cloud, job_id)


@pytest.mark.fault("cancel-at-once")
def test_at_once_after_submit(client: Client, cloud: LocalCloud) -> None:
    """The cancel races with the create; whoever wins, nothing is left."""
    for _ in range(5):
        job_id = client.submit(document(workers=2), {"train.py": "import time; time.sleep(60)"})
        client.cancel(job_id)
        assert_cancelled(client, cloud, job_id)


@pytest.mark.fault("cancel-building")
def test_while_a_create_is_on_its_way(client: Client, cloud: LocalCloud) -> None:
    cloud.fault("http", service="compute", method="POST", path="^/servers$", when="before", delay=3, count=1)
    job_id = client.submit(document(workers=2), {"train.py": "import time; time.sleep(60)"})
    client.wait_status(job_id, "BUILDING")
    client.cancel(job_id)
    assert_cancelled(client, cloud, job_id)


@pytest.mark.fault("cancel-preparing")
def test_while_preparing(client: Client, cloud: LocalCloud, gate: Gate) -> None:
    job_id = client.submit(document(env=gate.env, setup="python3 train.py"), gate.files(WAIT))
    visitors = gate.expect(2)
    assert client.job(job_id)["status"] == "PREPARING"
    client.cancel(job_id)
    assert_cancelled(client, cloud, job_id)
    assert not [visitor for visitor in visitors if guests.alive(visitor.pid)]


@pytest.mark.fault("cancel-running")
def test_while_running(client: Client, cloud: LocalCloud, gate: Gate) -> None:
    job_id = client.submit(document(env=gate.env), gate.files(WAIT))
    visitors = gate.expect(2)
    client.wait_status(job_id, "RUNNING")
    client.cancel(job_id)
    assert_cancelled(client, cloud, job_id)
    assert client.log(job_id, "worker:0") == "started\n"
    assert not [visitor for visitor in visitors if guests.alive(visitor.pid)]


@pytest.mark.fault("cancel-collecting")
def test_while_collecting(client: Client, cloud: LocalCloud) -> None:
    """Success is known when the outputs are here, so a cancel before that is one."""
    job_id = client.submit(document(workers=1), {"train.py": BIG_OUTPUT})
    client.wait_status(job_id, "COLLECTING")
    client.cancel(job_id)
    assert_cancelled(client, cloud, job_id)
    assert client.artifacts(job_id) == {}, "the transfer was waited for"


@pytest.mark.fault("cancel-cleaning")
def test_while_cleaning_keeps_the_outcome(client: Client, cloud: LocalCloud) -> None:
    cloud.fault("settings", delete_time=3)
    job_id = client.submit(document(workers=2), {"train.py": ""})
    client.wait_status(job_id, "CLEANING")
    client.cancel(job_id)
    job = client.finish(job_id)
    assert job["status"] == "SUCCEEDED"
    assert cloud.servers(job_id) == []


@pytest.mark.fault("delete-live")
@pytest.mark.parametrize("status", ["BUILDING", "RUNNING"])
def test_delete_of_a_live_job_cancels_and_forgets_it(client: Client, cloud: LocalCloud, gate: Gate, status: str) -> None:
    if status == "BUILDING":
        cloud.fault("settings", boot_time=600)
    job_id = client.submit(document(env=gate.env), gate.files(WAIT))
    client.wait_status(job_id, status)
    assert client.delete(job_id).status_code in (202, 204)
    assert_forgotten(client, job_id)
    assert cloud.servers(job_id) == []


def assert_forgotten(client: Client, job_id: str) -> None:
    until(lambda: client.request("GET", f"/v1/jobs/{job_id}").status_code == 404, 30, "the deleted job is gone")


def test_cancel_twice_and_of_a_job_that_is_over(client: Client, cloud: LocalCloud, gate: Gate) -> None:
    job_id = client.submit(document(workers=1, env=gate.env), gate.files(WAIT))
    gate.expect(1)
    client.cancel(job_id)
    client.cancel(job_id)
    assert_cancelled(client, cloud, job_id)
    answer = client.request("POST", f"/v1/jobs/{job_id}/cancel")
    assert answer.status_code == 409
    assert client.job(job_id)["status"] == "CANCELLED"
