"""Follow the logs of a job through trouble, by the command and by the client library at once; then read them again."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from tests.harness.client import Client
from tests.harness.command import Openstack, Running
from tests.harness.stack import Stack
from tests.harness.training import Gate, document

SDK_FOLLOW = Path(__file__).parents[1] / "sdk_follow.py"
RANKS, LINES, WORDS = 4, 2500, 3
TASKS = [f"worker:{rank}" for rank in range(RANKS)]
#: prints numbered lines with the time, in bursts and one by one; at the word of the test some more, at a walking pace
NUMBERED = f"""
import random, time
import gate

for i in range({LINES}):
    print(i, time.time(), flush=True)
    time.sleep(random.choice([0, 0, 0.005]))
gate.wait()
for i in range({LINES}, {LINES + WORDS}):
    print(i, time.time(), flush=True)
    time.sleep(0.4)
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
            cloud.fault("tokens", expire="all")
            for follower, lines in seen.items():
                lines += [follower.line() for _ in range(RANKS * LINES - len(lines))]
            gate.expect(RANKS)
            gate.open()
            for follower, lines in seen.items():
                for _ in range(RANKS * WORDS):
                    came, line = follower.arrival()
                    assert came - parsed(line)[2] < 2, "a line is there two seconds after it was written"
                    lines.append(line)
            ends = {follower: follower.end() for follower in seen}
    for follower, lines in seen.items():
        assert numbers(lines) == {task: list(range(LINES + WORDS)) for task in TASKS}
        assert "The service answers again." in ends[follower].err
    assert (ends[command].code, ends[command].out) == (0, "")
    assert "followed: SUCCEEDED" in ends[command].err
    assert (ends[library].code, ends[library].out) == (0, "SUCCEEDED\n")
    yield job


def test_u09_u10_followers_get_each_line_once_and_soon_whatever_happens(followed: str) -> None:
    """What is asked of them is in the fixture: the job serves the next test, too."""
    assert followed


def test_u11_tasks_are_merged_by_times_that_are_true(openstack: Openstack, followed: str) -> None:
    lines = openstack("ml", "job", "log", "show", "--timestamps", followed).out.splitlines()
    assert numbers(lines) == {task: list(range(LINES + WORDS)) for task in TASKS}
    stamps = [line.split()[2] for line in lines]
    assert stamps == sorted(stamps)
    off = [datetime.fromisoformat(stamp).timestamp() - parsed(line)[2] for stamp, line in zip(stamps, lines, strict=True)]
    assert -2 < min(off) <= max(off) < 2, "also of what was printed while the service was away"
    since = stamps[len(stamps) // 2]
    later = openstack("ml", "job", "log", "show", "--timestamps", "--since", since, "--task", "worker:1", "--task", "worker:3", followed)
    assert later.out.splitlines() == [line for line, stamp in zip(lines, stamps, strict=True)
                                      if stamp >= since and line.startswith(("worker:1", "worker:3"))]
    last = openstack("ml", "job", "log", "show", "--since", "1h", "--lines", "2", followed).out.splitlines()
    assert numbers(last) == {task: [LINES + WORDS - 2, LINES + WORDS - 1] for task in TASKS}
