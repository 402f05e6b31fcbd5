"""Which ends lead to a new start, at whose cost, and when it comes."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path

import pytest

from tests.harness.client import Client
from tests.harness.cloud import LocalCloud
from tests.harness.stack import Stack, make_stack
from tests.harness.training import WAIT, Gate, document
from tests.harness.waiting import until

#: fails at the first attempts, as often as FAILURES says
FAIL_FIRST = "import os, sys; sys.exit(int(os.environ['CML_ATTEMPT']) <= int(os.environ['FAILURES']))"


@pytest.mark.fault("exit-code-recovered")
def test_signals_are_recovered_from_as_exit_codes(client: Client) -> None:
    """One that a shell made an exit code of, and one of the process itself."""
    script = "import os, signal; os.environ['CML_ATTEMPT'] == '1' and os.kill(os.getpid(), signal.SIGKILL)"
    for command in ("python3 train.py; exit $?", ["python3", "train.py"]):
        job_id = client.submit(document(workers=1, command=command, recover_on_exit_codes=[137]), {"train.py": script})
        job = client.succeed(job_id)
        assert (job["attempt"], job["error_restarts"], job["infra_restarts"]) == (2, 0, 1)


@pytest.mark.fault("restarts-pause")
def test_the_first_restart_comes_at_once_and_the_next_ones_after_a_pause_on_the_same_nodes(client: Client, cloud: LocalCloud) -> None:
    job_id = client.submit(document(workers=1, max_restarts=3, env={"FAILURES": "3"}), {"train.py": FAIL_FIRST})
    servers = {node["server_id"] for node in until(
        lambda: [node for node in client.nodes(job_id) if node["server_id"]], 60, "a server")}
    job = client.succeed(job_id)
    assert (job["attempt"], job["error_restarts"], job["status_reason"], job["cause"]) == (4, 3, None, None)
    told = [event["message"] for event in client.events(job_id) if event["kind"] == "restart" and event["message"].startswith("Attempt")]
    assert "begins at once: restart 1 after an error, of 3 at most" in told[0]
    assert "begins in" in told[1] and "begins in" in told[2]
    assert {node["server_id"] for node in client.nodes(job_id)} == servers, "the nodes were kept"


@pytest.mark.fault("cancel-pausing")
def test_a_cancel_ends_the_pause(tmp_path: Path) -> None:
    with make_stack(tmp_path, options={"conductor": {"restart_pause_min": 600, "restart_pause_max": 600}}) as stack, stack.guarded():
        job_id = stack.demo.submit(document(workers=1, max_restarts=5, env={"FAILURES": "9"}), {"train.py": FAIL_FIRST})
        job = stack.demo.wait(job_id, lambda job: job["error_restarts"] == 2)
        assert "exited with code 1" in job["status_reason"] and "Attempt 3 begins in" in job["status_reason"]
        assert len(stack.cloud.servers(job_id)) == 1
        stack.demo.cancel(job_id)
        assert stack.demo.finish(job_id, timeout=30)["status"] == "CANCELLED"
        assert stack.cloud.servers(job_id) == []


@pytest.mark.fault("peer-lost")
@pytest.mark.parametrize("first", ["worker:0", "worker:1"])
def test_the_process_that_was_missed_is_to_blame(client: Client, gate: Gate, first: str) -> None:
    """One fails of its own, the other because it missed that one; whichever is known first."""
    script = '''
import os
import sys
import gate

word = gate.wait()
if os.environ["CML_ROLE_INDEX"] == "1":
    print("ValueError: no such layer")
    sys.exit(3)
raise ConnectionResetError("Connection reset by peer")
'''
    job_id = client.submit(document(env=gate.env), gate.files(script))
    gate.expect(2)
    gate.open(task=first)
    until(lambda: [task for node in client.nodes(job_id) for task in node["tasks"] if task["name"] == first and task["state"] == "EXITED"],
          20, f"the end of {first}", 0.1)
    gate.open()
    job = client.finish(job_id)
    assert (job["status"], job["failed_task"], job["exit_code"], job["infra_restarts"]) == ("FAILED", "worker:1", 3, 0)


@pytest.mark.fault("peer-lost")
def test_a_connection_that_breaks_for_no_fault_of_the_program_costs_no_restart(client: Client) -> None:
    script = '''
import os
if os.environ["CML_ATTEMPT"] == "1":
    raise ConnectionResetError("Connection reset by peer")
'''
    job = client.succeed(client.submit(document(workers=1), {"train.py": script}))
    assert (job["attempt"], job["error_restarts"], job["infra_restarts"]) == (2, 0, 1)


@pytest.mark.fault("gpu-broken")
def test_a_broken_gpu_costs_the_machine_and_no_restart(client: Client, cloud: LocalCloud, gate: Gate) -> None:
    script = '''
import os
import sys
import gate

if os.environ["CML_ATTEMPT"] == "1" and os.environ["CML_ROLE_INDEX"] == "1":
    gate.wait()
    sys.exit("CUDA error: uncorrectable ECC error encountered")
gate.wait()
'''
    job_id = client.submit(document(env=gate.env), gate.files(script))
    gate.expect(2)
    before = [node["server_id"] for node in client.nodes(job_id)]
    gate.open(task="worker:1")
    gate.expect(4)
    after = [node["server_id"] for node in client.nodes(job_id)]
    assert after[0] == before[0] and after[1] != before[1]
    gate.open()
    job = client.succeed(job_id)
    assert (job["attempt"], job["error_restarts"], job["infra_restarts"]) == (2, 0, 1)
    assert "GPU" in client.story(job_id)


@pytest.mark.fault("ssh-cut")
def test_a_lost_path_is_shown_for_as_long_as_it_lasts(client: Client, cloud: LocalCloud, gate: Gate) -> None:
    job_id = client.submit(document(env=gate.env), gate.files(WAIT))
    gate.expect(2)
    server = client.nodes(job_id)[1]["server_id"]
    cloud.fault("server", server=server, fault="cut")
    until(lambda: client.nodes(job_id)[1]["status"] == "UNREACHABLE", 30, "the node is called unreachable")
    [first, second] = client.nodes(job_id)
    assert (first["status"], first["unreachable_since"]) == ("ACTIVE", None)
    since = second["unreachable_since"]
    assert since is not None
    job = client.wait(job_id, lambda job: bool(job["status_reason"]))
    assert job["status"] == "RUNNING"
    told = re.fullmatch(r"Node 1 \(worker:1\) has been UNREACHABLE since (.*Z); its processes go on\.", job["status_reason"])
    # the node's time is the database's, this one is the worker's: it may have been a moment until it was written
    assert told and abs((datetime.fromisoformat(told[1]) - datetime.fromisoformat(since)).total_seconds()) < 15
    cloud.fault("server", server=server, fault="mend")
    client.wait(job_id, lambda job: job["status_reason"] is None)
    assert [(node["status"], node["unreachable_since"]) for node in client.nodes(job_id)] == [("ACTIVE", None)] * 2
    gate.open()
    assert client.succeed(job_id)["attempt"] == 1


@pytest.mark.fault("ssh-cut")
def test_a_path_that_was_lost_while_nobody_watched_is_noticed_by_who_takes_over(
        stack: Stack, client: Client, cloud: LocalCloud, gate: Gate) -> None:
    job_id = client.submit(document(env=gate.env), gate.files(WAIT))
    gate.expect(2)
    server = client.nodes(job_id)[1]["server_id"]
    stack.service.kill()
    cloud.fault("server", server=server, fault="cut")
    stack.service.start()
    until(lambda: client.nodes(job_id)[1]["status"] == "UNREACHABLE", 90, "the node is called unreachable")
    cloud.fault("server", server=server, fault="mend")
    until(lambda: client.nodes(job_id)[1]["status"] == "ACTIVE", 60, "the node answers again")
    gate.open()
    assert client.succeed(job_id)["attempt"] == 1
