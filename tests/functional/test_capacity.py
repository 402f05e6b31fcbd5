"""When the cloud has no room: jobs wait with the reason, run when there is room, and never hold half of what they need."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.harness.client import Client
from tests.harness.cloud import LocalCloud
from tests.harness.training import WAIT, Gate, document


@pytest.mark.fault("no-capacity")
def test_second_job_waits_with_the_reason_and_runs_when_the_first_ends(client: Client, cloud: LocalCloud, gate: Gate) -> None:
    cloud.fault("settings", gpus=2)
    first = client.submit(document(flavor="gpu.small", env=gate.env), gate.files(WAIT))
    gate.expect(2)
    second = client.submit(document(flavor="gpu.small"), {"train.py": "print('my turn')"})
    waiting = client.wait(second, lambda job: job["status"] == "QUEUED" and job["cause"] == "NO_CAPACITY")
    assert "No valid host" in waiting["status_reason"]
    assert waiting["outcome"] is None
    assert client.job(first)["status"] == "RUNNING"
    gate.open()
    client.succeed(first)
    done = client.succeed(second)
    assert done["started_at"] >= client.job(first)["finished_at"]
    assert client.log(second, "worker:1") == "my turn\n"


@pytest.mark.fault("no-capacity")
def test_servers_of_a_refused_create_are_cleaned_up_while_the_job_waits(client: Client, cloud: LocalCloud) -> None:
    cloud.fault("settings", gpus=1)
    job_id = client.submit(document(flavor="gpu.small", workers=2), {"train.py": ""})
    client.wait(job_id, lambda job: job["status"] == "QUEUED" and job["cause"] == "NO_CAPACITY")
    client.wait(job_id, lambda job: job["status"] == "QUEUED" and not cloud.servers(job_id))
    client.cancel(job_id)
    client.finish(job_id)


@pytest.mark.fault("no-capacity", "cloud-slow")
def test_job_waits_in_the_queue_though_the_cloud_takes_long_to_answer(client: Client, cloud: LocalCloud) -> None:
    """The service leaves such a cloud alone between its looks; that a job has not been seen for a while must not have it built again."""
    cloud.fault("settings", gpus=1)
    cloud.fault("http", service="compute", method="GET", path="^/servers/detail", delay=1.5, count=None)
    job_id = client.submit(document(flavor="gpu.small", workers=2), {"train.py": ""})
    waiting = client.wait(job_id, lambda job: job["status"] == "QUEUED" and job["cause"] == "NO_CAPACITY")
    assert "No valid host" in waiting["status_reason"]
    assert not [event for event in client.events(job_id) if event["kind"] == "retry"]
    client.cancel(job_id)
    client.finish(job_id)


@pytest.mark.fault("capacity-shared")
def test_two_jobs_that_each_need_more_than_half_never_deadlock(client: Client, cloud: LocalCloud) -> None:
    cloud.fault("settings", gpus=5)
    jobs = [client.submit(document(name=f"big-{i}", flavor="gpu.small", workers=3), {"train.py": "import time; time.sleep(0.5)"})
            for i in range(4)]
    for job_id in jobs:
        client.succeed(job_id, timeout=120)


@pytest.mark.fault("capacity-shared")
def test_two_jobs_with_two_flavors_each_never_deadlock(client: Client, cloud: LocalCloud) -> None:
    """Two flavors take two requests to the cloud, so each job could get one half and wait for the other for ever."""
    cloud.fault("settings", gpus=8)
    roles = {"worker": {"count": 1, "flavor": "gpu.large"}, "ps": {"count": 2, "flavor": "gpu.small", "command": "true"}}
    body = {key: value for key, value in document(roles=roles).items() if key not in ("workers", "flavor")}
    jobs = [client.submit({**body, "name": f"mixed-{i}"}, {"train.py": "import time; time.sleep(0.5)"}) for i in range(4)]
    for job_id in jobs:
        client.succeed(job_id, timeout=120)


@pytest.mark.fault("no-capacity-ever")
def test_job_larger_than_the_cloud_waits_until_max_wait_time(client: Client, cloud: LocalCloud) -> None:
    cloud.fault("settings", gpus=1)
    job_id = client.submit(document(flavor="gpu.small", workers=2, max_wait_time=3), {"train.py": ""})
    client.wait(job_id, lambda job: job["cause"] == "NO_CAPACITY")
    job = client.finish(job_id, timeout=30)
    assert (job["status"], job["cause"]) == ("TIMED_OUT", "NO_CAPACITY")
    assert "max_wait_time" in job["status_reason"] and "No valid host" in job["status_reason"]


@contextmanager
def instances_quota(cloud: LocalCloud, limit: int) -> Iterator[None]:
    before = cloud.quota_now("service")["instances"]
    cloud.quota("service", instances=limit)
    try:
        yield
    finally:
        cloud.quota("service", instances=before)


@pytest.mark.fault("quota-exceeded")
def test_quota_of_the_project_makes_jobs_wait_with_the_reason(client: Client, cloud: LocalCloud, gate: Gate) -> None:
    with instances_quota(cloud, 3):
        first = client.submit(document(env=gate.env), gate.files(WAIT))
        gate.expect(2)
        second = client.submit(document(), {"train.py": ""})
        waiting = client.wait(second, lambda job: job["status"] == "QUEUED" and job["cause"] == "QUOTA")
        assert "instances" in waiting["status_reason"]
        assert cloud.servers(second) == []
        gate.open()
        client.succeed(first)
        client.succeed(second)


@pytest.mark.fault("quota-race")
def test_two_jobs_that_start_at_once_and_a_quota_for_one(client: Client, cloud: LocalCloud) -> None:
    with instances_quota(cloud, 3):
        jobs = [client.submit(document(name=f"race-{i}"), {"train.py": "import time; time.sleep(1)"}) for i in range(2)]
        ended = [client.succeed(job_id) for job_id in jobs]
    waited = [job_id for job_id in jobs if any(event["detail"].get("cause") == "QUOTA" for event in client.events(job_id))]
    assert waited, "they ran at the same time"
    assert max(job["started_at"] for job in ended) >= min(job["finished_at"] for job in ended)
