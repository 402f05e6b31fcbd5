"""Follow the logs of a job through trouble, by the command and by the client library at once; then read them again."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from tests.harness.client import Client
from tests.harness.command import Openstack, Running
from tests.harness.stack import Stack
from tests.harness.training import Gate, document

SDK_FOLLOW = Path(__file__).parents[1] / "sdk_follow.py"
RANKS, LINES = 4, 2500
TASKS = [f"worker:{rank}" for rank in range(RANKS)]
#: of those that are looked at for how soon they come
_TIMED = 40
#: Prints numbered lines with the time, in bursts and one by one; then, until the word of the test, more at a walking pace. Each in one
#: write: a line printed in several may come at two times, and is then among what came since the second.
NUMBERED = f"""
import itertools, os, random, threading, time
import gate

opened = threading.Event()
threading.Thread(target=lambda: (gate.wait(), opened.set()), daemon=True).start()
for i in itertools.count():
    if i >= {LINES} and opened.wait(0.25):
        break
    os.write(1, f"{{i}} {{time.time()}}\\n".encode())
    time.sleep(random.choice([0, 0, 0.005]))
"""


def parsed(line: str) -> tuple[str, int, float]:
    """Give the task, the number and the time that a line tells."""
    task, _, text = line.partition(" | ")
    number, written = text.split()[-2:]
    return task, int(number), float(written)


def numbers(lines: list[str]) -> dict[str, list[int]]:
    """Give the numbers of each task's lines, in the order in which they came."""
    found: dict[str, list[int]] = {}
    for line in lines:
        task, number, _ = parsed(line)
        found.setdefault(task, []).append(number)
    return found


def _go_on(follower: Running, lines: list[str], since: float) -> list[float]:
    """Read on until the follower, and the worker that has the job now, are where the processes are; give the delays of what comes then.

    :param since: when the service was there again.
    """
    delays: list[float] = []
    behind, caught_up = set(TASKS), 0.0
    while len(delays) < _TIMED:
        came, line = follower.arrival()
        task, _, written = parsed(line)
        lines.append(line)
        if not behind and written > caught_up:
            delays.append(came - written)
        elif task in behind and written > since and came - written < 2:
            behind.remove(task)
            caught_up = came
    return delays


@pytest.fixture(scope="module")
def followed(openstack: Openstack, session_stack: Stack, client: Client) -> Iterator[str]:
    """Give the id of a job that was followed to its end while the service was killed, and tokens ended, twice."""
    cloud = session_stack.cloud
    with Gate() as gate:
        job = client.submit(document(name="followed", workers=RANKS, env=gate.env), gate.files(NUMBERED))
        client.wait_status(job, "RUNNING")
        with openstack.start("ml", "job", "log", "show", "--follow", job) as command, openstack.script(SDK_FOLLOW, job) as library:
            seen: dict[Running, list[str]] = {command: [command.line()], library: [library.line()]}
            cloud.fault("tokens", expire="all")
            for follower, lines in seen.items():
                lines += [follower.line() for _ in range(100)]
            session_stack.service.kill()
            for follower in seen:
                while "does not answer" not in follower.error_line():
                    pass
            session_stack.service.start()
            back = time.time()
            cloud.fault("tokens", expire="all")
            delays = {follower: _go_on(follower, lines, back) for follower, lines in seen.items()}
            gate.open()
            ends = {follower: follower.end() for follower in seen}
    seen[command] += ends[command].out.splitlines()
    *rest, status = ends[library].out.splitlines()
    seen[library] += rest
    for follower, lines in seen.items():
        assert numbers(lines) == {task: list(range(client.log(job, task).count("\n"))) for task in TASKS}
        assert len(lines) > RANKS * LINES
        assert "The service answers again." in ends[follower].err
        # The machine itself may have no time for anybody for a moment, so not each.
        assert sorted(delays[follower])[_TIMED * 9 // 10] < 2, f"so many seconds after they were written: {delays[follower]}"
    assert (ends[command].code, "followed: SUCCEEDED" in ends[command].err) == (0, True)
    assert (ends[library].code, status) == (0, "SUCCEEDED")
    yield job


def test_u09_u10_followers_get_each_line_once_and_soon_whatever_happens(followed: str) -> None:
    """What is asked of them is in the fixture: the job serves the next test, too."""
    assert followed


def test_u11_tasks_are_merged_by_times_that_are_true(openstack: Openstack, followed: str) -> None:
    lines = openstack("ml", "job", "log", "show", "--timestamps", followed).out.splitlines()
    counts = {task: len(found) for task, found in numbers(lines).items()}
    assert numbers(lines) == {task: list(range(counts[task])) for task in TASKS}
    assert min(counts.values()) > LINES
    stamps = [line.split()[2] for line in lines]
    assert stamps == sorted(stamps)
    off = [datetime.fromisoformat(stamp).timestamp() - parsed(line)[2] for stamp, line in zip(stamps, lines, strict=True)]
    assert -2 < min(off) <= max(off) < 2, "also of what was printed while the service was away"
    since = stamps[len(stamps) // 2]
    later = openstack("ml", "job", "log", "show", "--timestamps", "--since", since, "--task", "worker:1", "--task", "worker:3", followed)
    assert later.out.splitlines() == [line for line, stamp in zip(lines, stamps, strict=True)
                                      if stamp >= since and line.startswith(("worker:1", "worker:3"))]
    last = openstack("ml", "job", "log", "show", "--since", "1h", "--lines", "2", followed).out.splitlines()
    assert numbers(last) == {task: [counts[task] - 2, counts[task] - 1] for task in TASKS}
