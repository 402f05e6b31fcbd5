"""Jobs whose own code fails: whose fault it is, which task, which exit code, and nothing left."""

from __future__ import annotations

import time

import pytest

from tests.harness import guests
from tests.harness.client import Client
from tests.harness.cloud import LocalCloud
from tests.harness.training import WAIT, Gate, document
from tests.harness.waiting import until

ONE_FAILS = '''
import os
import sys
import gate

if os.environ["CML_ROLE_INDEX"] == "1":
    print("about to fail")
    print("ValueError: no such layer: conv9", file=sys.stderr)
    sys.exit(3)
gate.wait()
'''


@pytest.mark.fault("exit-code")
def test_exit_code_of_one_rank_fails_the_job_and_stops_the_others(client: Client, gate: Gate) -> None:
    job_id = client.submit(document(workers=3, env=gate.env), gate.files(ONE_FAILS))
    job = client.finish(job_id)
    assert (job["status"], job["cause"], job["exit_code"], job["failed_task"]) == ("FAILED", "USER_ERROR", 3, "worker:1")
    assert "worker:1" in job["status_reason"] and "3" in job["status_reason"]
    told = job["status_reason"] + client.story(job_id)
    assert "ValueError: no such layer: conv9" in told
    assert client.log(job_id, "worker:1").splitlines() == ["about to fail", "ValueError: no such layer: conv9"]
    states = {task["name"]: (task["state"], task["exit_code"]) for node in client.nodes(job_id) for task in node["tasks"]}
    assert states["worker:1"] == ("EXITED", 3)
    assert {states["worker:0"][0], states["worker:2"][0]} == {"STOPPED"}
    assert not [visitor for visitor in gate.visitors if guests.alive(visitor.pid)]


@pytest.mark.fault("segfault")
def test_signal_is_told_apart_from_an_exit_code(client: Client) -> None:
    """The command is a list here: a shell in between would make an exit code of it, 128 more than the signal."""
    files = {"train.py": "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"}
    job_id = client.submit(document(workers=1, command=["python3", "train.py"]), files)
    job = client.finish(job_id)
    assert (job["status"], job["cause"], job["failed_task"]) == ("FAILED", "USER_ERROR", "worker:0")
    [task] = client.nodes(job_id)[0]["tasks"]
    assert (task["state"], task["signal"]) == ("EXITED", 11)


@pytest.mark.fault("oom-137-nccl")
@pytest.mark.parametrize(("line", "code", "cause", "told"), [
    ("nothing of note", 137, "USER_ERROR", "exited with code 137, which is what a shell makes of signal 9 (SIGKILL)"),
    ("torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB", 1, "USER_ERROR", "ran out of memory of the GPU"),
    ("RuntimeError: CUDA error: an illegal memory access was encountered", 134, "USER_ERROR", "made an error on the GPU"),
    ("[Rank 1] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=7)", 1, "TIMEOUT", "waited too long for the others"),
])
def test_what_a_process_said_at_its_end_is_in_the_reason(client: Client, line: str, code: int, cause: str, told: str) -> None:
    script = f"import os, sys; os.environ['CML_ROLE_INDEX'] == '1' and (print({line!r}), sys.stdout.flush(), os._exit({code}))"
    job = client.finish(client.submit(document(), {"train.py": script + "\nimport time; time.sleep(60)"}))
    assert (job["status"], job["cause"], job["exit_code"], job["failed_task"]) == ("FAILED", cause, code, "worker:1")
    assert told in job["status_reason"]
    assert (job["attempt"], job["infra_restarts"]) == (1, 0)


@pytest.mark.fault("oom-137-nccl")
def test_a_process_that_only_misses_another_one_costs_no_restart(client: Client) -> None:
    """NCCL's words for a peer that is gone: whoever says so is not to blame."""
    script = """
import os, sys
if os.environ["CML_ATTEMPT"] == "1":
    sys.exit("RuntimeError: NCCL error: remote process exited or there was a network error")
"""
    job = client.succeed(client.submit(document(workers=1), {"train.py": script}))
    assert (job["attempt"], job["infra_restarts"], job["error_restarts"]) == (2, 1, 0)


@pytest.mark.fault("ignores-term")
def test_processes_that_ignore_term_and_detach_are_killed(client: Client, gate: Gate) -> None:
    stubborn = '''
import os
import signal
import sys
import gate

signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.environ["CML_ROLE_INDEX"] == "0":
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            gate.wait()
            os._exit(0)
        os._exit(0)
gate.wait()
sys.exit(3)
'''
    job_id = client.submit(document(env=gate.env), gate.files(stubborn))
    visitors = gate.expect(3)
    gate.open("go", task="worker:1")
    job = client.finish(job_id)
    assert (job["status"], job["failed_task"]) == ("FAILED", "worker:1")
    assert not [visitor for visitor in visitors if guests.alive(visitor.pid)]


@pytest.mark.fault("setup-fails")
def test_setup_failure_is_told_apart_from_the_training(client: Client) -> None:
    job_id = client.submit(document(setup="echo getting ready; exit 7"), {"train.py": "print('must not run')"})
    job = client.finish(job_id)
    assert (job["status"], job["cause"], job["exit_code"]) == ("FAILED", "SETUP_ERROR", 7)
    assert "setup" in job["status_reason"].lower()
    assert client.log(job_id, "worker:0", attempt=0) == "getting ready\n"
    assert not [task for node in client.nodes(job_id) for task in node["tasks"] if task["attempt"] > 0 and task["state"] == "EXITED"]


def test_setup_runs_once_on_each_node_before_the_training(client: Client) -> None:
    job_id = client.submit(document(setup="echo ready >> prepared; echo set up"), {"train.py": "print(open('prepared').read().split())"})
    client.succeed(job_id)
    for task in ("worker:0", "worker:1"):
        assert client.log(job_id, task, attempt=0) == "set up\n"
        assert client.log(job_id, task) == "['ready']\n"


@pytest.mark.fault("no-such-command")
def test_command_that_does_not_exist(client: Client) -> None:
    job_id = client.submit(document(workers=1, command=["no-such-program"]), {"train.py": ""})
    job = client.finish(job_id)
    assert (job["status"], job["cause"], job["exit_code"]) == ("FAILED", "USER_ERROR", 127)


@pytest.mark.fault("restarts-used-up")
def test_user_errors_are_retried_as_often_as_asked(client: Client) -> None:
    job_id = client.submit(document(workers=2, max_restarts=2), {
        "train.py": "import os, sys; print('try', os.environ['CML_ATTEMPT']); sys.exit(int(os.environ['CML_ATTEMPT']) < 3)"})
    job = client.succeed(job_id)
    assert job["attempt"] == 3
    assert [client.log(job_id, "worker:1", attempt=n) for n in (1, 2, 3)] == ["try 1\n", "try 2\n", "try 3\n"]


@pytest.mark.fault("restarts-used-up")
def test_retries_end(client: Client) -> None:
    job_id = client.submit(document(workers=1, max_restarts=1), {"train.py": "import sys; sys.exit(9)"})
    job = client.finish(job_id)
    assert (job["status"], job["attempt"], job["exit_code"], job["cause"]) == ("FAILED", 2, 9, "USER_ERROR")


@pytest.mark.fault("exit-code-recovered")
def test_exit_codes_to_recover_from_cost_no_restart(client: Client) -> None:
    job_id = client.submit(document(workers=1, recover_on_exit_codes=[42]), {
        "train.py": "import os, sys; sys.exit(42 if os.environ['CML_ATTEMPT'] == '1' else 0)"})
    assert client.succeed(job_id)["attempt"] == 2


@pytest.mark.fault("ran-too-long")
def test_max_run_time_ends_a_job(client: Client, gate: Gate) -> None:
    job_id = client.submit(document(env=gate.env, max_run_time=3), gate.files(WAIT))
    visitors = gate.expect(2)
    began = time.monotonic()
    job = client.finish(job_id)
    assert time.monotonic() - began < 30
    assert (job["status"], job["outcome"], job["cause"]) == ("TIMED_OUT", "TIMED_OUT", "TIMEOUT")
    assert "max_run_time" in job["status_reason"]
    assert client.log(job_id, "worker:0") == "started\n"
    assert not [visitor for visitor in visitors if guests.alive(visitor.pid)]


def test_no_server_outlives_the_end_by_much(client: Client, cloud: LocalCloud) -> None:
    """The outcome is visible at once; the status follows when the cloud is empty."""
    cloud.fault("settings", delete_time=3)
    job_id = client.submit(document(workers=1), {"train.py": "import sys; sys.exit(1)"})
    job = client.wait_status(job_id, "CLEANING")
    assert job["outcome"] == "FAILED"
    assert len(cloud.servers(job_id)) == 1
    until(lambda: client.job(job_id)["status"] == "FAILED", 20, "the end of the job")
    assert cloud.servers(job_id) == []
