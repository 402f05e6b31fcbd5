"""When the cloud has no room: jobs wait with Nova's reason, hold nothing meanwhile, and run when there is room."""

from __future__ import annotations

from typing import Any

import pytest

from tests.harness.client import Client, Job
from tests.harness.nodes import WAIT, Nodes
from tests.harness.realcloud import RealCloud, Settings
from tests.harness.waiting import until
from tests.realcloud.conftest import document, need


def waits(cause: str) -> Any:
    def predicate(job: Job) -> bool:
        return job["status"] == "QUEUED" and job["cause"] == cause
    return predicate


def mixed(settings: Settings, **changes: Any) -> dict[str, Any]:
    """A job that takes 3 of the 4 GPUs, in two requests to Nova: first one with 1, then one with 2."""
    roles = {"worker": {"count": 1, "flavor": settings.scarce_flavor}, "ps": {"count": 1, "flavor": settings.scarce_large_flavor}}
    body = document(settings, roles=roles, **changes)
    return {name: value for name, value in body.items() if name not in ("workers", "flavor")}


@pytest.mark.fault("no-capacity")
def test_jobs_wait_for_gpus_all_or_nothing(client: Client, cloud: RealCloud, nodes: Nodes) -> None:
    """The second job's first role would find room beside the first job; it must not keep it while its second role finds none."""
    small, _ = need(cloud.settings, "scarce_flavor", "scarce_large_flavor")
    first = client.submit(mixed(cloud.settings, name="first", command=WAIT, **nodes.keys))
    nodes.await_all(first)
    second = client.submit(mixed(cloud.settings, name="second", command="echo my turn"))
    large = client.submit(document(cloud.settings, name="large", flavor=small, workers=5, command="true"))
    for job_id in (second, large):
        waiting = client.wait(job_id, waits("NO_CAPACITY"))
        assert "No valid host" in waiting["status_reason"]
        assert waiting["outcome"] is None
    client.cancel(large)
    assert client.finish(large)["status"] == "CANCELLED"
    until(lambda: client.job(second)["status"] == "QUEUED" and not cloud.servers(second), 120, "the waiting job holds nothing", 0.5)
    assert client.job(first)["status"] == "RUNNING"
    nodes.open(first)
    client.succeed(first)
    client.succeed(second)
    assert client.log(second, "ps:0") == "my turn\n"


@pytest.mark.fault("quota-exceeded")
def test_job_waits_for_quota(client: Client, cloud: RealCloud) -> None:
    with cloud.quota(instances=1):
        job_id = client.submit(document(cloud.settings, command="echo my turn"))
        waiting = client.wait(job_id, waits("QUOTA"))
        assert "instances" in waiting["status_reason"]
        assert cloud.servers(job_id) == []
    client.succeed(job_id)
