"""Machines go in the ways that machines go: what is lost is replaced, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.harness.client import Client
from tests.harness.cloud import LocalCloud
from tests.harness.guests import alive
from tests.harness.stack import Stack, make_stack
from tests.harness.training import WAIT, Gate, document
from tests.harness.waiting import until

MASTER = 'import os\nprint("master", os.environ["CML_MASTER_ADDR"], flush=True)\n' + WAIT
SHUTDOWN = '''
import os
import subprocess

if (os.environ["CML_ROLE_INDEX"], os.environ["CML_ATTEMPT"]) == ("1", "1"):
    subprocess.run(["poweroff"])
''' + WAIT


def finish(client: Client, gate: Gate, job_id: str) -> None:
    gate.open()
    assert client.succeed(job_id)["attempt"] == 2


@pytest.mark.fault("chief-vm-deleted")
def test_first_node_is_lost_and_the_others_meet_at_its_new_address(client: Client, cloud: LocalCloud, gate: Gate) -> None:
    job_id = client.submit(document(env=gate.env), gate.files(MASTER))
    gate.expect(2)
    until(lambda: all(client.log_size(job_id, task) for task in ("worker:0", "worker:1")), 30, "the first lines of both")
    lost, kept = client.nodes(job_id)
    cloud.fault("server", server=lost["server_id"], fault="vanish")
    gate.expect(4)
    now = client.nodes(job_id)
    assert now[1]["server_id"] == kept["server_id"]
    finish(client, gate, job_id)
    for task in ("worker:0", "worker:1"):
        assert client.log(job_id, task, attempt=1).splitlines()[0] == f"master {lost['address']}"
        assert client.log(job_id, task, attempt=2).splitlines()[0] == f"master {now[0]['address']}"


@pytest.mark.fault("many-nodes")
def test_a_hundred_nodes_at_once(client: Client) -> None:
    command = "simulate --seconds 1 --lines-per-minute 60"
    job_id = client.submit(document(image="simulated", workers=100, command=command))
    assert client.succeed(job_id)["attempt"] == 1
    nodes = client.nodes(job_id)
    assert [task["exit_code"] for node in nodes for task in node["tasks"]] == [0] * 100
    assert all(client.log(job_id, f"worker:{rank}").startswith("simulated line 00000000000\n") for rank in (0, 99))


@pytest.mark.fault("guest-shutdown")
def test_a_guest_that_shuts_itself_down_is_replaced(client: Client, gate: Gate) -> None:
    job_id = client.submit(document(env=gate.env), gate.files(SHUTDOWN))
    until(lambda: [visitor for visitor in gate.visitors if visitor.attempt == 2 and visitor.task == "worker:1"], 60, "the second attempt")
    assert any("SHUTOFF" in event["message"] for event in client.events(job_id) if event["kind"] == "node"), client.story(job_id)
    finish(client, gate, job_id)


@pytest.mark.fault("losses-used-up")
def test_a_node_that_is_lost_again_and_again_fails_the_job(tmp_path: Path) -> None:
    with make_stack(tmp_path, options={"conductor": {"max_infra_restarts": 2}}) as stack, stack.guarded(), Gate() as gate:
        client, cloud = stack.demo, stack.cloud
        job_id = client.submit(document(env=gate.env), gate.files(WAIT))
        for attempt in (1, 2, 3):
            gate.expect(2 * attempt)
            cloud.fault("server", server=client.nodes(job_id)[1]["server_id"], fault="vanish")
        job = client.finish(job_id)
        assert (job["status"], job["cause"]) == ("FAILED", "INFRA_LOST")
        assert (job["attempt"], job["infra_restarts"], job["error_restarts"]) == (3, 2, 0)
        assert "node 1" in job["status_reason"].lower()
        assert cloud.leftovers() == []
        assert not [visitor for visitor in gate.visitors if alive(visitor.pid)]


@pytest.mark.fault("vm-error")
def test_a_server_that_goes_to_error_while_it_runs_is_replaced(client: Client, cloud: LocalCloud, gate: Gate) -> None:
    job_id = client.submit(document(env=gate.env), gate.files(WAIT))
    gate.expect(2)
    kept, lost = client.nodes(job_id)
    cloud.fault("server", server=lost["server_id"], fault="error")
    gate.expect(4)
    now = client.nodes(job_id)
    assert (now[0]["server_id"] == kept["server_id"], now[1]["server_id"] == lost["server_id"]) == (True, False)
    finish(client, gate, job_id)


@pytest.mark.fault("vm-error")
def test_no_process_of_a_lost_node_lives_on_beside_the_next_attempt(client: Client, cloud: LocalCloud, gate: Gate) -> None:
    """A server in ERROR may be alive, and its deletion takes its time."""
    job_id = client.submit(document(env=gate.env, workers=1), gate.files(WAIT))
    [first] = gate.expect(1)
    [lost] = client.nodes(job_id)
    cloud.fault("settings", delete_time=8)
    cloud.fault("server", server=lost["server_id"], fault="error")
    gate.expect(2)
    assert not alive(first.pid)
    cloud.fault("settings", delete_time=0)  # of the others
    finish(client, gate, job_id)


@pytest.mark.fault("vm-error")
def test_no_process_of_a_node_lost_while_the_service_is_dead_lives_on(stack: Stack, client: Client, cloud: LocalCloud, gate: Gate) -> None:
    """Who takes over learns of the loss while it connects to the node."""
    job_id = client.submit(document(env=gate.env, workers=1), gate.files(WAIT))
    [first] = gate.expect(1)
    [lost] = client.nodes(job_id)
    stack.service.kill()
    cloud.fault("settings", delete_time=8)
    cloud.fault("server", server=lost["server_id"], fault="error")
    stack.service.start()
    gate.expect(2)
    assert not alive(first.pid)
    cloud.fault("settings", delete_time=0)  # of the others
    finish(client, gate, job_id)
