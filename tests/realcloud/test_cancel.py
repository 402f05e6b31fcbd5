"""A job that is cancelled while its machines are being built leaves nothing."""

from __future__ import annotations

import pytest

from tests.harness.client import Client
from tests.harness.realcloud import RealCloud
from tests.harness.waiting import until
from tests.realcloud.conftest import document


@pytest.mark.fault("cancel-building")
def test_while_building(client: Client, cloud: RealCloud) -> None:
    job_id = client.submit(document(cloud.settings, command="sleep 600"))
    servers = until(lambda: cloud.servers(job_id), 120, "servers of the job", 0.1)
    client.cancel(job_id)
    assert client.finish(job_id)["status"] == "CANCELLED"
    assert cloud.servers(job_id) == []
    assert {server["status"] for server in servers} == {"BUILD"}, "it was cancelled too late to tell anything"


@pytest.mark.fault("cancel-at-once")
def test_at_once_after_submit(client: Client, cloud: RealCloud) -> None:
    """The cancel races with the create; whoever wins, nothing is left."""
    jobs = [client.submit(document(cloud.settings, workers=1, command="sleep 600")) for _ in range(2)]
    for job_id in jobs:
        client.cancel(job_id)
    assert [client.finish(job_id)["status"] for job_id in jobs] == ["CANCELLED", "CANCELLED"]
    assert cloud.servers() == []
