"""Nodes that do not answer while they are made ready, and while outputs are collected: borne, or replaced, as in a running training."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest

from tests.harness import guests
from tests.harness.client import Client
from tests.harness.cloud import LocalCloud
from tests.harness.stack import Stack, make_stack
from tests.harness.training import BIG_OUTPUT, WAIT, Gate, document
from tests.harness.waiting import until

#: seconds; a path is cut for longer than these
COLLECT_TIMEOUT, BOOTSTRAP_TIMEOUT, CUT = 10, 15, 20
BIG = {"output/worker-0/big": 300 << 20}


@pytest.fixture(scope="module")
def hasty_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack that waits for nobody who answers; those who do not answer have all the time that operators give them."""
    options = {"conductor": {"collect_timeout": COLLECT_TIMEOUT, "bootstrap_timeout": BOOTSTRAP_TIMEOUT}}
    with make_stack(tmp_path_factory.mktemp("hasty"), options=options) as stack:
        yield stack


@pytest.fixture
def stack(hasty_stack: Stack) -> Iterator[Stack]:
    with hasty_stack.guarded():
        yield hasty_stack


def collecting(client: Client, **changes: object) -> tuple[str, str]:
    """Have a job whose output is on its way; give its id, and the id of its server."""
    job_id = client.submit(document(workers=1, **changes), {"train.py": BIG_OUTPUT})
    client.wait_status(job_id, "COLLECTING")
    return job_id, client.nodes(job_id)[0]["server_id"]


def node_status(client: Client, job_id: str, rank: int = 0) -> str:
    return str(client.nodes(job_id)[rank]["status"])


@pytest.mark.fault("ssh-cut-collecting")
def test_outputs_behind_a_path_that_is_cut_are_waited_for(client: Client, cloud: LocalCloud) -> None:
    job_id, server = collecting(client)
    cloud.fault("server", server=server, fault="cut")
    until(lambda: node_status(client, job_id) == "UNREACHABLE", 30, "the node is called unreachable")
    job = client.wait(job_id, lambda job: bool(job["status_reason"]))
    assert "UNREACHABLE since" in job["status_reason"] and "its outputs are waited for" in job["status_reason"]
    time.sleep(CUT)
    assert client.job(job_id)["status"] == "COLLECTING"
    cloud.fault("server", server=server, fault="mend")
    job = client.succeed(job_id)
    assert (job["attempt"], job["infra_restarts"], job["status_reason"]) == (1, 0, None)
    assert client.artifacts(job_id) == BIG
    assert any("answers again" in event["message"] for event in client.events(job_id)), client.story(job_id)


@pytest.mark.fault("host-down")
def test_outputs_on_a_host_that_is_down_cost_an_attempt(client: Client, cloud: LocalCloud) -> None:
    job_id, server = collecting(client)
    cloud.fault("server", server=server, fault="host-down")
    until(lambda: node_status(client, job_id) == "UNREACHABLE", 30, "the node is called unreachable")
    assert client.job(job_id)["status"] == "COLLECTING"
    cloud.fault("settings", host_status=1)
    job = client.succeed(job_id)
    assert (job["attempt"], job["infra_restarts"]) == (2, 1)
    assert any("host of its server is down" in event["message"] for event in client.events(job_id)), client.story(job_id)
    assert client.artifacts(job_id) == BIG


@pytest.mark.fault("stalled-collecting")
def test_a_node_that_answers_and_sends_nothing_of_its_outputs_is_replaced(client: Client, cloud: LocalCloud) -> None:
    job_id, server = collecting(client)
    big = cloud.home(server) / ".cml" / "output" / "big"
    for pid in until(lambda: guests.users(big), 20, "what sends the output", interval=0.01):
        os.kill(pid, signal.SIGSTOP)
    job = client.succeed(job_id)
    assert (job["attempt"], job["infra_restarts"]) == (2, 1)
    assert any(f"sent nothing of its outputs for {COLLECT_TIMEOUT} s" in event["message"] for event in client.events(job_id))
    assert client.artifacts(job_id) == BIG


@pytest.mark.fault("ssh-cut-collecting")
def test_a_job_that_has_failed_does_not_wait_for_outputs_of_a_silent_node(client: Client, cloud: LocalCloud, gate: Gate) -> None:
    job_id = client.submit(document(env=gate.env), gate.files(WAIT))
    gate.expect(2)
    cloud.fault("server", server=client.nodes(job_id)[1]["server_id"], fault="cut")
    until(lambda: node_status(client, job_id, 1) == "UNREACHABLE", 30, "the node is called unreachable")
    gate.open("exit 3", task="worker:0")
    job = client.finish(job_id)
    assert (job["status"], job["exit_code"], job["failed_task"]) == ("FAILED", 3, "worker:0")
    assert any("Outputs are missing: node 1" in event["message"] for event in client.events(job_id)), client.story(job_id)


@pytest.mark.fault("ssh-cut-collecting", "cancel-collecting")
def test_a_cancel_does_not_wait_for_outputs_of_a_silent_node(client: Client, cloud: LocalCloud) -> None:
    job_id, server = collecting(client)
    cloud.fault("server", server=server, fault="cut")
    until(lambda: node_status(client, job_id) == "UNREACHABLE", 30, "the node is called unreachable")
    client.cancel(job_id)
    assert client.finish(job_id, timeout=20)["status"] == "CANCELLED"
    assert cloud.servers(job_id) == []


@pytest.mark.fault("silent-preparing")
def test_a_machine_that_never_answers_is_replaced_before_the_first_attempt(client: Client, cloud: LocalCloud) -> None:
    cloud.fault("boot", result="silent", count=1)
    job_id = client.submit(document(), {"train.py": "print('ran')"})
    job = client.succeed(job_id)
    assert (job["attempt"], job["infra_restarts"]) == (1, 1)
    told = [event["message"] for event in client.events(job_id) if event["kind"] == "node"]
    assert len(told) == 1 and f"it did not answer by SSH within {BOOTSTRAP_TIMEOUT} s; the last line of its console is: " in told[0], told


@pytest.mark.fault("silent-preparing")
def test_machines_that_never_answer_one_after_the_other_fail_the_job(client: Client, cloud: LocalCloud) -> None:
    cloud.fault("boot", result="silent", count=2)
    job = client.finish(client.submit(document(workers=1), {"train.py": ""}))
    assert (job["status"], job["cause"], job["attempt"], job["infra_restarts"]) == ("FAILED", "INFRA_LOST", 0, 1)
    assert f"did not answer by SSH within {BOOTSTRAP_TIMEOUT} s; the last line of its console is: " in job["status_reason"]
    assert ". The machine before it was no better. See whether its image" in job["status_reason"]


@pytest.mark.fault("ssh-cut-preparing")
def test_a_setup_goes_on_behind_a_path_that_is_cut(client: Client, cloud: LocalCloud, gate: Gate) -> None:
    job_id = client.submit(document(env=gate.env, setup="python3 train.py"), gate.files(WAIT))
    gate.expect(2)
    server = client.nodes(job_id)[1]["server_id"]
    cloud.fault("server", server=server, fault="cut")
    gate.open()
    until(lambda: node_status(client, job_id, 1) == "UNREACHABLE", 30, "the node is called unreachable")
    time.sleep(CUT)
    assert client.job(job_id)["status"] == "PREPARING"
    cloud.fault("server", server=server, fault="mend")
    job = client.succeed(job_id)
    assert (job["attempt"], job["infra_restarts"], job["status_reason"]) == (1, 0, None)
    assert sorted(visitor.attempt for visitor in gate.visitors) == [0, 0, 1, 1], "each node was set up once"
    assert client.log(job_id, "worker:1", attempt=0) == "started\ngate said go\n"


@pytest.mark.fault("host-down")
def test_a_node_whose_host_goes_down_in_its_setup_is_replaced_at_once(client: Client, cloud: LocalCloud, gate: Gate) -> None:
    """While the other one's setup runs on."""
    job_id = client.submit(document(env=gate.env, setup="sleep 1; python3 train.py"), gate.files(WAIT))
    gate.expect(2)
    kept, lost = client.nodes(job_id)
    cloud.fault("settings", host_status=1)
    cloud.fault("server", server=lost["server_id"], fault="host-down")
    client.wait(job_id, lambda job: job["infra_restarts"] == 1)
    gate.open()
    job = client.succeed(job_id)
    assert (job["attempt"], job["infra_restarts"]) == (1, 1)
    assert client.nodes(job_id)[0]["server_id"] == kept["server_id"]
    assert sorted(visitor.attempt for visitor in gate.visitors) == [0, 0, 0, 1, 1]
    assert client.log(job_id, "worker:0", attempt=0) == "started\ngate said go\n"


@pytest.mark.fault("setup-too-long")
def test_a_setup_that_runs_for_too_long_fails_the_job(client: Client, gate: Gate) -> None:
    job = client.finish(client.submit(document(env=gate.env, setup="python3 train.py"), gate.files(WAIT)))
    assert (job["status"], job["cause"], job["attempt"]) == ("FAILED", "SETUP_ERROR", 0)
    assert f"The setup command did not end within {BOOTSTRAP_TIMEOUT} s on worker:" in job["status_reason"]
