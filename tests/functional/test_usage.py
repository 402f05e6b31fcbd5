"""What a job costs and what its project had, from the servers that were there."""

from __future__ import annotations

import pytest

from tests.harness.client import Client
from tests.harness.cloud import LocalCloud
from tests.harness.stack import Stack
from tests.harness.training import WAIT, Gate, document
from tests.harness.waiting import until


def had(client: Client) -> tuple[float, float, float]:
    """Sum up what the project had: seconds of nodes, seconds of accelerators, cost."""
    days = client.get("/v1/usage")["usage"]
    return sum(day["node_seconds"] for day in days), sum(day["accelerator_seconds"] for day in days), sum(day["cost"] or 0 for day in days)


def test_a_job_costs_what_its_servers_were_there_for(stack: Stack, cloud: LocalCloud, gate: Gate) -> None:
    """Also the one that was lost and replaced; and the record outlives the job."""
    client = stack.other
    before = had(client)
    job_id = client.submit(document(flavor="gpu.small", workers=2, env=gate.env), gate.files(WAIT))
    assert client.job(job_id)["cost"]["per_hour"] == 7200
    gate.expect(2)
    running = client.job(job_id)["cost"]["amount"]
    assert running > 0
    until(lambda: client.job(job_id)["cost"]["amount"] > running, 10, "a cost that grows")
    assert client.job(job_id)["queue_position"] is None

    lost = client.nodes(job_id)[1]["server_id"]
    cloud.request("DELETE", f"/compute/v2.1/servers/{lost}")
    gate.expect(4)
    gate.open()
    cost = client.succeed(job_id)["cost"]
    assert cost == client.job(job_id)["cost"], "the clock runs on after the end"
    assert cost["currency"] == "CHF"
    nodes, accelerators, money = (after - earlier for after, earlier in zip(had(client), before, strict=True))
    assert (money, nodes, accelerators) == pytest.approx((cost["amount"],) * 3, abs=0.01)

    assert client.delete(job_id).status_code == 204
    assert had(client) == pytest.approx([earlier + cost["amount"] for earlier in before], abs=0.01)
    assert stack.demo.request("GET", "/v1/usage", params={"all_projects": "true"}).status_code == 403
    everything = stack.admin.get("/v1/usage", all_projects="true")["usage"]
    assert {day["project_id"] for day in everything} >= {client.get("/v1/quota")["quota"]["project_id"]}
