"""Wait for jobs and follow their logs."""

from __future__ import annotations

import os
import pty
import time
from pathlib import Path

import pytest

from tests.harness.client import Client
from tests.harness.command import Openstack
from tests.harness.training import WAIT, Gate, document
from tests.harness.waiting import until

#: prints a line at each word of the test, with the time at which it did
SAY = '''
import time
import gate

print("ready", flush=True)
gate.wait()
print("%.3f" % time.time(), flush=True)
time.sleep(1.5)
'''


def test_u06_progress_on_stderr_one_line_per_change(openstack: Openstack, client: Client, gate: Gate) -> None:
    script = WAIT.replace('print("started", flush=True)', 'print(\'CML_METRIC {"name": "progress", "value": 37}\', flush=True)')
    job = client.submit(document(name="watched", workers=1, env=gate.env), gate.files(script))
    gate.expect(1)
    with openstack.start("ml", "job", "wait", job) as running:
        assert running.error_line() in ("watched: running", "watched: running: 37 %")
        gate.open()
        done = running.end()
    assert done.code == 0
    assert done.out == ""
    lines = done.err.splitlines()
    assert lines[-1] == "watched: SUCCEEDED"
    assert len(set(lines)) == len(lines), "a line for each change"
    assert "\x1b" not in done.err


def test_u06_a_terminal_has_one_line(openstack: Openstack, done: str) -> None:
    leader, follower = pty.openpty()
    with os.fdopen(leader, "rb", buffering=0) as terminal, os.fdopen(follower, "wb", buffering=0) as stderr:
        with openstack.start("ml", "job", "wait", done, stderr=stderr) as running:
            assert running.end().code == 0
        assert terminal.read(4096) == b"\r\x1b[Kdone: SUCCEEDED\r\n"


def test_u07_exit_codes(openstack: Openstack, client: Client, done: str, failed: str, running: str) -> None:
    assert openstack.run("ml", "job", "wait", done).code == 0
    ended = openstack.run("ml", "job", "wait", failed)
    assert ended.code == 1
    assert "failed: FAILED: " in ended.err
    assert "7" in ended.err
    assert openstack.run("ml", "job", "wait", "--timeout", "soon", done).code == 2
    ended = openstack.run("ml", "job", "wait", "--timeout", "1s", "running")
    assert ended.code == 3
    assert f"openstack ml job wait {running}" in ended.err
    client.cancel(running)
    assert openstack.run("ml", "job", "wait", running).code == 4


def test_u07_create_and_wait(openstack: Openstack, code: Path) -> None:
    (code / "train.py").write_text("import sys; sys.exit(3)")
    done = openstack.run("ml", "job", "create", "short", "--image", "plain", "--flavor", "cpu.small", "--source", str(code),
                         "--command", "python3 train.py", "--wait", "-f", "json")
    assert done.code == 1
    assert (done.json["status"], done.json["exit_code"]) == ("FAILED", 3)


@pytest.mark.parametrize("command", ["wait", "log show --follow"])
def test_u08_ctrl_c_leaves_the_job_alone(openstack: Openstack, client: Client, running: str, command: str) -> None:
    with openstack.start("ml", "job", *command.split(), running) as process:
        first = process.error_line() if command == "wait" else process.line()
        assert first in ("running: running", "started")
        process.interrupt()
        done = process.end()
    assert done.code == 130
    assert f"openstack ml job {command} {running}" in done.err
    assert "Traceback" not in done.err
    job = client.job(running)
    assert (job["status"], job["target"]) == ("RUNNING", "RUN")


def test_u09_follow_is_prompt_and_ends_with_the_job(openstack: Openstack, client: Client, gate: Gate) -> None:
    job = client.submit(document(name="said", workers=1, env=gate.env), gate.files(SAY))
    gate.expect(1)
    with openstack.start("ml", "job", "log", "show", "--follow", job) as following:
        assert following.line() == "ready"
        gate.open()
        written = float(following.line())
        assert time.time() - written < 2
        done = following.end()
    assert (done.code, done.out) == (0, "")
    assert "said: SUCCEEDED" in done.err


def test_u09_u11_follow_has_the_result_of_the_job(openstack: Openstack, failed: str) -> None:
    done = openstack.run("ml", "job", "log", "show", "-f", "--lines", "1", failed)
    assert (done.code, done.out) == (1, "about to fail\n")


def test_u11_tasks_of_a_job(openstack: Openstack, done: str) -> None:
    lines = openstack("ml", "job", "log", "show", done).out.splitlines()
    for rank in range(2):
        own = [line.removeprefix(f"worker:{rank} | ") for line in lines if line.startswith(f"worker:{rank} | ")]
        assert [line for line in own if line.startswith("rank")] == [f"rank {rank} line {i}" for i in range(5)]
    assert openstack("ml", "job", "log", "show", "--task", "worker:1", "--lines", "2", "done").out.splitlines()[0] == "rank 1 line 4"


def test_u12_u13_logs_of_setup_and_of_what_is_gone(openstack: Openstack, client: Client, done: str) -> None:
    assert {node["status"] for node in client.nodes(done)} == {"DELETED"}
    assert openstack("ml", "job", "log", "show", "--phase", "setup", "--task", "worker:0", done).out == "set up\n"


#: counts on from its checkpoint, which it writes at every hundredth step and when it is told to end
COUNT = '''
import os, signal, sys, threading, time
import gate

path = os.path.join(os.environ["CML_CHECKPOINT_DIR"], "step")
step = int(open(path).read()) if os.path.exists(path) else 0
print("from", step, flush=True)
opened, told = threading.Event(), threading.Event()
signal.signal(signal.SIGTERM, lambda *_: told.set())
threading.Thread(target=lambda: (gate.wait(), opened.set()), daemon=True).start()
while not opened.is_set() and not told.wait(0.01):
    step += 1
    if step % 100 == 0:
        with open(path + ".tmp", "w") as file:
            file.write(str(step))
        os.rename(path + ".tmp", path)
    print("step", step, flush=True)
if told.is_set():
    time.sleep(0.3)
    with open(path + ".tmp", "w") as file:
        file.write(str(step))
    os.rename(path + ".tmp", path)
    sys.exit(1)
'''


def test_u21_cancel_saves_a_last_checkpoint_and_restart_goes_on_at_its_step(openstack: Openstack, client: Client, gate: Gate) -> None:
    first = client.submit(document(name="counting", workers=1, checkpoint_interval=3600, env=gate.env), gate.files(COUNT))
    gate.expect(1)
    until(lambda: b"step 101" in client.log_piece(first, "worker:0")[0], 30, "the first checkpoint is written")
    assert client.get(f"/v1/jobs/{first}/checkpoint")["checkpoint"] is None, "nothing was saved yet"
    openstack("ml", "job", "cancel", first)
    assert client.finish(first)["status"] == "CANCELLED"
    second = openstack.json("ml", "job", "restart", first)
    assert second["id"] != first
    assert (second["name"], second["restart_of"]) == ("counting", first)
    gate.expect(2)
    gate.open()
    client.succeed(second["id"])
    *_, last = [int(line.split()[1]) for line in client.log(first).splitlines() if line.startswith("step")]
    assert last > 100
    assert client.log(second["id"]).splitlines()[0] == f"from {last}"
