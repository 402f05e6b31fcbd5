"""Processes that hang: how it is noticed, what is done, and what is no hang."""

from __future__ import annotations

import re
import time

import pytest

from tests.harness.client import Client
from tests.harness.cloud import LocalCloud
from tests.harness.stack import Stack
from tests.harness.training import Gate, document
from tests.harness.waiting import until

#: hangs at the first attempt, in a function of that name
HANG_ONCE = "echo attempt $CML_ATTEMPT; [ $CML_ATTEMPT = 2 ] || exec python3 train.py"
STUCK = '''
import threading

def stuck_forever():
    threading.Event().wait()

stuck_forever()
'''


@pytest.mark.fault("hang")
def test_a_hang_is_ended_with_the_stacks_in_the_log_and_started_anew(client: Client) -> None:
    job_id = client.submit(document(command=HANG_ONCE, hang_timeout=8, max_restarts=1), {"train.py": STUCK})
    job = client.succeed(job_id)
    assert (job["attempt"], job["error_restarts"], job["infra_restarts"], job["hang_timeout"]) == (2, 1, 0, 8)
    [hang] = [event for event in client.events(job_id) if event["kind"] == "hang"]
    assert "hang_timeout is 8 s" in hang["message"] and "attempt 1" in hang["message"]
    for task in ("worker:0", "worker:1"):
        log = client.log(job_id, task, attempt=1)
        assert log.startswith("attempt 1\n")
        assert "cml: a hang" in log and "(python3): S (sleeping)" in log
        assert "Fatal Python error: Aborted" in log and "in stuck_forever" in log
        assert client.log(job_id, task, attempt=2) == "attempt 2\n"


@pytest.mark.fault("hang")
def test_a_hang_without_a_restart_left_fails_the_job_and_is_named(client: Client) -> None:
    """The program ignores the signal that asks it where it is, too."""
    command = "trap '' ABRT; echo epoch 7; sleep 600"
    job = client.finish(client.submit(document(workers=1, command=command, hang_timeout=3), {"train.py": ""}))
    assert (job["status"], job["cause"], job["failed_task"]) == ("FAILED", "TIMEOUT", "worker:0")
    assert "the last one was worker:0 (hang_timeout is 3 s)" in job["status_reason"]
    assert "Its last line:\nepoch 7" in job["status_reason"]


@pytest.mark.fault("hang-one")
def test_a_quiet_process_beside_one_that_speaks_is_no_hang_unless_its_heartbeat_stands_still(client: Client) -> None:
    """In sh, which starts in no time whatever else the machine does."""
    command = ('if [ $CML_ROLE_INDEX = 0 ]; then for i in $(seq 45); do echo line; sleep 0.2; done; '
               'else [ -z "$BEATS" ] || touch $CML_HEARTBEAT_FILE; sleep 9; fi')
    quiet = client.submit(document(command=command, hang_timeout=4), {"train.py": ""})
    beats = client.submit(document(command=command, hang_timeout=4, env={"BEATS": "1"}), {"train.py": ""})
    job = client.finish(beats)
    assert (job["status"], job["cause"], job["failed_task"]) == ("FAILED", "TIMEOUT", "worker:1")
    assert "Task worker:1 hangs" in job["status_reason"]
    client.succeed(quiet)


@pytest.mark.fault("hang-one")
def test_heartbeats_alone_are_enough(client: Client) -> None:
    command = "for i in $(seq 35); do touch $CML_HEARTBEAT_FILE; sleep 0.2; done"
    client.succeed(client.submit(document(workers=1, command=command, hang_timeout=4), {"train.py": ""}))


@pytest.mark.fault("hang-cut")
def test_while_a_node_does_not_answer_nothing_is_called_a_hang(client: Client, cloud: LocalCloud, gate: Gate) -> None:
    script = "import gate; print('quiet from now on', flush=True); gate.wait()"
    job_id = client.submit(document(env=gate.env, hang_timeout=5), gate.files(script))
    gate.expect(2)
    server = client.nodes(job_id)[1]["server_id"]
    cloud.fault("server", server=server, fault="cut")
    until(lambda: client.nodes(job_id)[1]["status"] == "UNREACHABLE", 30, "the node is called unreachable")
    time.sleep(7)  # longer than the hang takes to be one
    assert client.job(job_id)["status"] == "RUNNING"
    cloud.fault("server", server=server, fault="mend")
    job = client.finish(job_id)
    assert (job["status"], job["cause"]) == ("FAILED", "TIMEOUT")


@pytest.mark.fault("hang-taken-over")
def test_a_hang_is_noticed_by_who_takes_over(stack: Stack, client: Client) -> None:
    """The silence counts from the last sign of life, and not from the take-over."""
    job_id = client.submit(document(workers=1, command=HANG_ONCE, hang_timeout=8, max_restarts=1), {"train.py": STUCK})
    until(lambda: client.log_size(job_id) > 0, 60, "the first line")
    stack.service.kill()
    time.sleep(11)
    stack.service.start()
    assert client.succeed(job_id)["error_restarts"] == 1
    [hang] = [event["message"] for event in client.events(job_id) if event["kind"] == "hang"]
    silence = re.search(r"hangs: for (\d+) s", hang)
    assert silence and int(silence[1]) >= 11, hang
