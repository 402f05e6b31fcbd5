"""What jobs can't have too much of, at the limits that operators get: daemons (uWSGI, one conductor, one worker) over a RabbitMQ and a
MariaDB of their own, on the local cloud, whose guests run real processes here. Each case is one job of one node, with small jobs beside it.

log         a process writes 10 GB of numbered lines: what is kept is cut as documented, and every line before that is there once
flood       a process writes 1 000 numbered lines a second for a minute: every line is there once
files       a process makes a million files in CML_OUTPUT_DIR: the job fails and says why
checkpoint  a process makes a (sparse) checkpoint that is larger than may be saved: an event says so, and the job goes on

Prints one JSON object a line as tools/lib/bench.py does; fails where something is not as it should be, or an aim is missed: by how much the
daemons' memory may grow, and how long a small job beside may take. Needs some 3 GB of disk and a million inodes.

Runs inside the virtual environment that tools/bench has prepared.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bootstrap
from bench import Aims, result, say
from bench_scale import Stack, parse_cases, stack, status

from cml_nova.storage.base import log_key

#: bytes of a line, with its end
LINE = 100
LOG_BYTES = 10 * 10**9
FLOOD_LINES, FLOOD_SECONDS = 1000, 60
FILES = 10**6
CHECKPOINT_BYTES = 70 << 30
#: longest that a case may take, in seconds
LIMIT = 1800
#: aims: bytes by which the peaks of all daemons may grow in all, and seconds that a small job may take
GROWTH, BESIDE = 256 << 20, 30

Job = dict[str, Any]
Judge = Callable[[Stack, Job], list[str]]

LOG = f"""
import os

step = 10_000
with os.fdopen(1, "wb", closefd=False) as out:
    for first in range(0, {LOG_BYTES // LINE}, step):
        out.write(b"".join(b"%0{LINE - 1}d\\n" % number for number in range(first, first + step)))
"""
FLOOD = f"""
import time

began = time.monotonic()
for number in range({FLOOD_LINES * FLOOD_SECONDS}):
    print(f"{{number:0{LINE - 1}}}", flush=True)
    time.sleep(max(0, began + number / {FLOOD_LINES} - time.monotonic()))
"""
FILES_SCRIPT = f"""
import os

for number in range({FILES}):
    if number % 1000 == 0:
        directory = os.path.join(os.environ["CML_OUTPUT_DIR"], str(number))
        os.mkdir(directory)
    open(os.path.join(directory, str(number)), "w").close()
"""
CHECKPOINT = f"""
import os
import time

path = os.path.join(os.environ["CML_CHECKPOINT_DIR"], "model")
with open(path, "wb") as file:
    file.truncate({CHECKPOINT_BYTES})
time.sleep(30)
os.unlink(path)
"""


def log_of(running: Stack, job: Job) -> Path:
    return running.service.directory / "storage" / "objects" / log_key(job["id"], 1, "worker:0")


def numbered(path: Path, least: int) -> list[str]:
    """See that a log begins with so many numbered lines, in order."""
    with path.open("rb") as lines:
        for number in range(least):
            if lines.readline() != b"%0*d\n" % (LINE - 1, number):
                return [f"line {number} of the log is another one"]
    return []


def succeeded(job: Job) -> list[str]:
    return [] if job["status"] == "SUCCEEDED" else [f"the job is {job['status']}: {job['status_reason']}"]


def judge_log(running: Stack, job: Job) -> list[str]:
    kept, path = 1 << 30, log_of(running, job)  # [remote] max_log_bytes
    marker = f"\ncml: the log has reached its limit of {kept} bytes; the rest is not kept\n".encode()
    with path.open("rb") as log:
        log.seek(kept)
        rest = log.read()
    end = [] if rest == marker else [f"after {kept} bytes of the log comes {rest[:200]!r}"]
    return [*succeeded(job), *numbered(path, kept // LINE), *end]


def judge_flood(running: Stack, job: Job) -> list[str]:
    path = log_of(running, job)
    size = FLOOD_LINES * FLOOD_SECONDS * LINE
    more = [] if path.stat().st_size == size else [f"the log has {path.stat().st_size} bytes, not {size}"]
    return [*succeeded(job), *numbered(path, FLOOD_LINES * FLOOD_SECONDS), *more]


def judge_files(running: Stack, job: Job) -> list[str]:
    told = job["status_reason"] or ""
    if (job["status"], job["cause"]) != ("FAILED", "USER_ERROR") or "more than 100000 files" not in told:
        return [f"the job is {job['status']} ({job['cause']}): {told}"]
    return [] if running.client.artifacts(job["id"]) == {} else ["some files were brought back"]


def judge_checkpoint(running: Stack, job: Job) -> list[str]:
    told = [event["message"] for event in running.client.events(job["id"]) if event["kind"] == "checkpoint"]
    fits = any(str(CHECKPOINT_BYTES) in text and "max_checkpoint_bytes" in text for text in told)
    return [*succeeded(job), *([] if fits else [f"no event tells of the limit, but: {told}"])]


CASES: dict[str, tuple[str, Judge]] = {
    "log": (LOG, judge_log), "flood": (FLOOD, judge_flood), "files": (FILES_SCRIPT, judge_files),
    "checkpoint": (CHECKPOINT, judge_checkpoint),
}


def document(command: str, **fields: Any) -> Job:
    return {"name": "bench", "image": "plain", "flavor": "cpu.small", "workers": 1, "command": command, **fields}


def peaks(running: Stack) -> dict[str, int]:
    """Give the most memory that each daemon has had, in bytes, of all of its processes."""
    return {name: sum(status(pid, "VmHWM") for pid in pids) for name, pids in running.processes().items()}


def measure(running: Stack, case: str, aims: Aims) -> list[str]:
    """Run the job of a case, and small ones beside it until it has ended; say what is wrong."""
    script, judge = CASES[case]
    client = running.client
    before, began = peaks(running), time.monotonic()
    job_id = client.submit(document("python3 train.py", checkpoint_interval=5), {"train.py": script})
    beside: list[float] = []
    while not client.job(job_id)["finished_at"]:
        if time.monotonic() - began > LIMIT:
            raise SystemExit(f"bench: the job of {case} has not ended within {LIMIT} s: {client.job(job_id)}")
        submitted = time.monotonic()
        client.succeed(client.submit(document("true")), timeout=LIMIT)
        beside.append(time.monotonic() - submitted)
        time.sleep(2)
    took = time.monotonic() - began
    result("limits", case, "took", took, "s", [took])
    for name, most in peaks(running).items():
        result("limits", case, f"growth {name}", most - before[name], "bytes", [before[name], most])
    result("limits", case, "beside", max(beside), "s", beside)
    aims.at_most(f"{case}: growth of the daemons' memory", (sum(peaks(running).values()) - sum(before.values())) / (1 << 20), GROWTH >> 20,
                 "MiB")
    aims.at_most(f"{case}: the slowest of {len(beside)} small jobs beside it", max(beside), BESIDE, "s")
    return [f"{case}: {wrong}" for wrong in judge(running, client.job(job_id))]


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="tools/bench limits", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options = parse_cases(parser, CASES, argv)
    aims, wrong = Aims(), list[str]()
    with tempfile.TemporaryDirectory(prefix="cml-bench-") as scratch, stack(options.keep or Path(scratch)) as running:
        running.client.succeed(running.client.submit(document("true")))  # tokens, discovery, the network
        for case in options.cases or CASES:
            wrong += measure(running, case, aims)
        wrong += running.cloud.leftovers()
    for line in wrong:
        say(f"  {line}")
    aims.conclude()
    if wrong:
        raise SystemExit(f"bench: {len(wrong)} things are not as they should be")


if __name__ == "__main__":
    bootstrap.run_tool("bench", main, sys.argv[1:])
