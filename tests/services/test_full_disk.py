"""The disk of a node is full: the job fails clearly or goes on, and whatever the service asks of the node works or says why not.

The homes of all nodes are on a small file system of their own, which takes root to mount.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.harness import guests
from tests.harness.stack import Stack, make_stack
from tests.harness.training import Gate, document

#: fills the disk with one file, to the last byte
FILL = '''
import os

def fill(path):
    with open(path, "wb", 0) as file:
        for size in (1 << 20, 1 << 12, 1):
            while True:
                try:
                    file.write(bytes(size))
                except OSError:
                    break
'''


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    directory = tmp_path_factory.mktemp("small")
    homes = directory / "cloud" / "guests"
    homes.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(homes)], check=True)
    try:
        with make_stack(directory, shape="standalone") as stack:
            yield stack
    finally:
        subprocess.run(["umount", str(homes)], check=True)


@pytest.fixture
def full(small: Stack) -> Iterator[Stack]:
    with small.guarded():
        yield small


@pytest.mark.fault("disk-full")
def test_a_process_that_fails_of_a_full_disk_says_so_to_the_end(full: Stack) -> None:
    script = '''
import os

file = open(os.path.join(os.environ["CML_OUTPUT_DIR"], "model"), "wb", 0)
while True:
    print("writing", flush=True)
    if file.write(bytes(1 << 20)) < 1 << 20:
        file.write(bytes(1))
'''
    job_id = full.demo.submit(document(workers=1), {"train.py": script})
    job = full.demo.finish(job_id)
    assert (job["status"], job["cause"], job["exit_code"], job["failed_task"]) == ("FAILED", "USER_ERROR", 1, "worker:0")
    assert "Task worker:0 found the disk of its node full and exited with code 1" in job["status_reason"]
    assert "a flavor with a larger disk" in job["status_reason"]
    assert full.demo.log(job_id).endswith("OSError: [Errno 28] No space left on device\n")
    assert full.demo.artifacts(job_id)["output/worker-0/model"] > 10 << 20, "what it wrote is brought back all the same"


@pytest.mark.fault("disk-full-borne")
def test_a_process_that_bears_it_goes_on_and_the_log_says_what_is_missing(full: Stack) -> None:
    """Another worker takes over while the disk is full, too."""
    script = FILL + '''
import gate

print("before", flush=True)
fill("filler")
for number in range(1000):
    print("not kept", number, flush=True)
gate.wait()
os.unlink("filler")
print("after", flush=True)
'''
    with Gate() as gate:
        job_id = full.demo.submit(document(workers=1, env=gate.env), gate.files(script))
        gate.expect(1)
        full.service.kill()
        full.service.start()
        time.sleep(3)
        assert full.demo.job(job_id)["status"] == "RUNNING"
        gate.open()
        assert full.demo.succeed(job_id)["attempt"] == 1
    log = full.demo.log(job_id)
    assert log.startswith("before\n") and log.endswith("\nafter\n")
    assert "bytes of output are missing here: [Errno 28] No space left on device\n" in log


@pytest.mark.fault("disk-full-stop")
def test_processes_on_a_full_disk_can_be_stopped_and_what_they_wrote_comes_back(full: Stack) -> None:
    script = FILL + '''
import sys
import gate

if os.environ["CML_ROLE_INDEX"] == "1":
    gate.wait()
    sys.exit(3)
fill(os.path.join(os.environ["CML_OUTPUT_DIR"], "filler"))
gate.wait()
'''
    with Gate() as gate:
        job_id = full.demo.submit(document(env=gate.env), gate.files(script))
        visitors = gate.expect(2)
        gate.open(task="worker:1")
        job = full.demo.finish(job_id)
        assert (job["status"], job["failed_task"], job["exit_code"]) == ("FAILED", "worker:1", 3)
        assert not [visitor for visitor in visitors if guests.alive(visitor.pid)]
    states = {task["name"]: task["state"] for node in full.demo.nodes(job_id) for task in node["tasks"]}
    assert states == {"worker:0": "STOPPED", "worker:1": "EXITED"}
    assert full.demo.artifacts(job_id)["output/worker-0/filler"] > 10 << 20


@pytest.mark.fault("disk-full")
def test_a_job_that_can_not_be_started_anew_on_a_full_disk_fails_and_says_why(full: Stack) -> None:
    script = FILL + '''
fill("filler")
raise SystemExit(1)
'''
    job_id = full.demo.submit(document(workers=1, max_restarts=1), {"train.py": script})
    job = full.demo.finish(job_id)
    assert job["status"] == "FAILED"
    assert "No space left on device" in job["status_reason"]
