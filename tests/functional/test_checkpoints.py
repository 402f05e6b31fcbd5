"""Checkpoints outlive the nodes that wrote them: saved while the training runs, given to all nodes before it starts again."""

from __future__ import annotations

import pytest

from tests.harness.client import Client
from tests.harness.cloud import LocalCloud
from tests.harness.stack import Stack
from tests.harness.training import Gate, document
from tests.harness.waiting import until

#: says what it finds in its directory of checkpoints, writes as its environment says for its task, waits at the gate; on TERM it writes
#: once more. ``WRITE`` is "task path content" separated by ";", ``ON_TERM`` alike
STEPS = '''
import itertools
import os
import shutil
import signal
import sys
import threading
import time
import gate

top = os.environ["CML_CHECKPOINT_DIR"]
me = os.environ["CML_ROLE"] + ":" + os.environ["CML_ROLE_INDEX"]

def put(plan):
    for line in filter(None, plan.split(";")):
        task, path, content = line.split(" ")
        if task == me and content == "delete":
            os.unlink(os.path.join(top, path))
        elif task == me:
            content, _, times = content.partition("*")
            content *= int(times or 1)
            path = os.path.join(top, path)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path + ".tmp", "w") as file:
                file.write(content)
            os.rename(path + ".tmp", path)

def spin():
    """Write a pair of files that belong together anew all the time, in one step."""
    for number in itertools.count():
        fresh, pair, last, old = (os.path.join(top, name) for name in (
            "fresh.tmp", "pair-{}".format(number), "pair-{}".format(number - 1), "old.tmp"))
        os.mkdir(fresh)
        for name in ("one", "two"):
            with open(os.path.join(fresh, name), "w") as file:
                file.write(str(number) * 1000)
        os.rename(fresh, pair)
        if number:
            os.rename(last, old)
        shutil.rmtree(old, ignore_errors=True)
        time.sleep(0.2)

def end(*_):
    put(os.environ.get("ON_TERM", ""))
    os._exit(0)

signal.signal(signal.SIGTERM, end)
for directory, _, files in sorted(os.walk(top)):
    for name in sorted(files):
        path = os.path.join(directory, name)
        print("found", os.path.relpath(path, top), open(path).read(), flush=True)
attempt = os.environ["CML_ATTEMPT"]
put(os.environ.get("WRITE_" + attempt, ""))
if os.environ.get("SPIN") == me and attempt == "1":
    threading.Thread(target=spin, daemon=True).start()
print("ready", flush=True)
word = gate.wait()
if word == "later":
    put(os.environ["LATER"])
    word = gate.wait()
sys.exit(int(word.split()[1]) if word.startswith("exit") else 0)
'''


def found(client: Client, job_id: str, attempt: int, task: str) -> dict[str, str]:
    """Give what a process has found in its directory of checkpoints."""
    lines = [line.split(" ") for line in client.log(job_id, task, attempt=attempt).splitlines() if line.startswith("found ")]
    return {path: content for _, path, content in lines}


def saved(client: Client, job_id: str, files: int = 1) -> None:
    """Wait until a checkpoint of so many files is saved."""
    until(lambda: (client.get(f"/v1/jobs/{job_id}/checkpoint")["checkpoint"] or {}).get("files") == files, 30, f"{files} saved files")


def lose(client: Client, cloud: LocalCloud, gate: Gate, job_id: str, *ranks: int) -> None:
    """Have nodes vanish, and wait for the processes of the next attempt."""
    before = len(gate.visitors)
    lost = [client.nodes(job_id)[rank]["server_id"] for rank in ranks]
    for server in lost:
        cloud.fault("server", server=server, fault="vanish")
    gate.expect(before + 2)


def begin(client: Client, gate: Gate, **env: str) -> str:
    job_id = client.submit(document(env={**gate.env, **env}, checkpoint_interval=1), gate.files(STEPS))
    gate.expect(2)
    return job_id


def stories(client: Client, job_id: str) -> list[str]:
    return [event["message"] for event in client.events(job_id) if event["kind"] == "checkpoint"]


@pytest.mark.fault("checkpoint-node-lost", "all-vms-deleted")
@pytest.mark.parametrize("lost", [(0,), (1,), (0, 1)])
def test_attempt_after_lost_nodes_goes_on_from_what_was_saved_on_every_node(client: Client, cloud: LocalCloud, gate: Gate,
                                                                             lost: tuple[int, ...]) -> None:
    job_id = begin(client, gate, WRITE_1="worker:0 step-5/weights five;worker:0 last step-5")
    saved(client, job_id, files=2)
    lose(client, cloud, gate, job_id, *lost)
    gate.open()
    assert client.succeed(job_id)["attempt"] == 2
    for task in ("worker:0", "worker:1"):
        assert found(client, job_id, 1, task) == {}
        assert found(client, job_id, 2, task) == {"step-5/weights": "five", "last": "step-5"}
    [told] = stories(client, job_id)
    assert "Attempt 2 goes on from the checkpoint: 2 files, 10 bytes" in told
    assert client.artifacts(job_id).keys() == {f"checkpoints/worker-{i}/{name}" for i in (0, 1) for name in ("last", "step-5/weights")}


@pytest.mark.fault("checkpoint-on-term")
def test_what_is_saved_on_term_counts(client: Client, cloud: LocalCloud, gate: Gate) -> None:
    job_id = begin(client, gate, WRITE_1="worker:0 step 5", ON_TERM="worker:0 step 6")
    saved(client, job_id)
    lose(client, cloud, gate, job_id, 1)
    gate.open()
    client.succeed(job_id)
    assert [found(client, job_id, 2, task) for task in ("worker:0", "worker:1")] == [{"step": "6"}] * 2


@pytest.mark.fault("checkpoint-writer-changes")
def test_program_that_fails_goes_on_on_whichever_node_the_writer_is(client: Client, gate: Gate) -> None:
    """Of a path that several nodes write, the lowest rank's counts; then that of whoever writes it anew."""
    job_id = client.submit(document(max_restarts=2, env={
        **gate.env, "WRITE_1": "worker:0 a 1;worker:0 both zero;worker:1 both one;worker:1 b 1", "WRITE_2": "worker:1 a 2"},
        checkpoint_interval=3600), gate.files(STEPS))
    gate.expect(2)
    gate.open("exit 3", "worker:0")
    gate.expect(4)
    gate.open("exit 3", "worker:1")
    gate.expect(6)
    gate.open()
    assert client.succeed(job_id)["attempt"] == 3
    for task in ("worker:0", "worker:1"):
        assert found(client, job_id, 2, task) == {"a": "1", "both": "zero", "b": "1"}
        assert found(client, job_id, 3, task) == {"a": "2", "both": "zero", "b": "1"}


def test_file_that_is_deleted_stays_deleted_whoever_else_has_a_copy(client: Client, gate: Gate) -> None:
    job_id = client.submit(document(max_restarts=2, checkpoint_interval=3600, env={
        **gate.env, "WRITE_1": "worker:0 step-1 1;worker:0 step-2 2", "WRITE_2": "worker:1 step-1 delete;worker:1 step-3 3"}),
        gate.files(STEPS))
    gate.expect(2)
    gate.open("exit 3", "worker:0")
    gate.expect(4)
    gate.open("exit 3", "worker:1")
    gate.expect(6)
    gate.open()
    client.succeed(job_id)
    for task in ("worker:0", "worker:1"):
        assert found(client, job_id, 2, task) == {"step-1": "1", "step-2": "2"}
        assert found(client, job_id, 3, task) == {"step-2": "2", "step-3": "3"}


@pytest.mark.fault("checkpoint-too-large")
def test_checkpoint_that_is_too_large_is_not_saved_and_the_last_one_stays(client: Client, cloud: LocalCloud, gate: Gate) -> None:
    """The limit for tests is 1 MB (tests/harness/cloud.py)."""
    job_id = begin(client, gate, WRITE_1="worker:0 step 5", LATER="worker:0 big x*2000000;worker:0 step 6")
    saved(client, job_id)
    gate.open("later", "worker:0")
    until(lambda: any("2000001 bytes" in told for told in stories(client, job_id)), 30, "word of the limit")
    lose(client, cloud, gate, job_id, 1)
    assert len([told for told in stories(client, job_id) if "max_checkpoint_bytes" in told]) == 1, "the user is told once"
    assert "The last good one stays: 1 file, 1 bytes" in next(told for told in stories(client, job_id) if "max_checkpoint_bytes" in told)
    gate.open()
    client.succeed(job_id)
    assert [found(client, job_id, 2, task) for task in ("worker:0", "worker:1")] == [{"step": "5"}] * 2


@pytest.mark.fault("checkpoint-interrupted")
def test_service_that_is_killed_again_and_again_leaves_a_whole_checkpoint(stack: Stack, client: Client, cloud: LocalCloud,
                                                                           gate: Gate) -> None:
    """A pair of files is written anew all the time, each version under one rename of their directory; saves are torn by the kills."""
    job_id = begin(client, gate, WRITE_1="worker:0 first 1", SPIN="worker:0")
    saved(client, job_id, files=3)  # with one pair; there may be two, too
    for _ in range(3):
        stack.service.kill()
        stack.service.start()
        client.wait_status(job_id, "RUNNING")
    lose(client, cloud, gate, job_id, 0)
    gate.open()
    client.succeed(job_id)
    for task in ("worker:0", "worker:1"):
        now = found(client, job_id, 2, task)
        assert now.pop("first") == "1"
        pairs = {path.partition("/")[0] for path in now}
        assert pairs
        assert now.keys() == {f"{pair}/{name}" for pair in pairs for name in ("one", "two")}, "half a pair"
        assert all(now[f"{pair}/one"] == now[f"{pair}/two"] for pair in pairs), "parts of two saves"


def test_restart_of_a_cancelled_job_goes_on_from_what_was_saved_of_it(client: Client, gate: Gate) -> None:
    """Also what its processes save when the cancel stops them, and when it is deleted once the new one has begun."""
    old = begin(client, gate, WRITE_1="worker:0 step-5/weights five;worker:1 last step-5", ON_TERM="worker:1 last step-6")
    saved(client, old, files=2)
    assert client.request("POST", f"/v1/jobs/{old}/restart").status_code == 409
    client.cancel(old)
    client.wait_status(old, "CANCELLED")
    answer = client.request("POST", f"/v1/jobs/{old}/restart")
    assert answer.status_code == 202, answer.text
    new = answer.json()["job"]["id"]
    gate.expect(4)
    assert client.delete(old).status_code == 204
    gate.open("exit 3", "worker:0")
    client.finish(new)
    again = client.request("POST", f"/v1/jobs/{new}/restart").json()["job"]["id"]
    gate.expect(6)
    gate.open()
    assert client.succeed(again)["restart_of"] == new
    for job_id in (new, again):
        for task in ("worker:0", "worker:1"):
            kept = {"step-5/weights": "five", "last": "step-6"}
            assert found(client, job_id, 1, task) == kept
        [told] = stories(client, job_id)
        assert "Attempt 1 goes on from the checkpoint: 2 files, 10 bytes" in told
    assert client.get(f"/v1/jobs/{again}/document")["document"]["checkpoint_interval"] == 1
