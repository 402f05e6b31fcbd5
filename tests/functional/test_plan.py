"""What a plan says of a cloud in which there is no room left."""

from __future__ import annotations

from tests.harness.client import Client
from tests.harness.cloud import LocalCloud
from tests.harness.training import WAIT, Gate, document


def test_a_plan_tells_what_is_busy_and_what_would_do_instead(client: Client, cloud: LocalCloud, gate: Gate) -> None:
    cloud.fault("settings", gpus=2)
    wanted = document(flavor="gpu.small", workers=2)
    free = client.request("POST", "/v1/jobs/plan", json={"job": wanted}).json()["plan"]
    assert (free["feasible"], free["starts"], free["cost_per_hour"]) == (True, "now", 7200)
    assert {"flavor": "gpu.large", "available": True, "reason": None, "cost_per_hour": 14400} in free["offers"]

    running = client.submit(document(flavor="gpu.small", workers=2, env=gate.env), gate.files(WAIT))
    gate.expect(2)
    waiting = client.submit(wanted, {"train.py": ""})
    client.wait(waiting, lambda job: job["cause"] == "NO_CAPACITY" and job["queue_position"] == 1)
    busy = client.request("POST", "/v1/jobs/plan", json={"job": wanted}).json()["plan"]
    assert (busy["feasible"], busy["starts"], busy["queue_position"]) == (True, "queued", 2)
    assert busy["reasons"] == ["busy: jobs wait for gpu.small (1), which nodes have (2)", "queue: jobs that come before it: 1"]
    gate.open()
    for job_id in (running, waiting):
        client.succeed(job_id)
