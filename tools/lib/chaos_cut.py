"""Cuts the SSH path to every node of a training for as long as is asked for, in real time and with the time-outs as operators get them.

``tools/chaos cut`` starts a training on two nodes, cuts both off (connections are reset and refused; the machines live), looks all the
while whether the job goes on and is shown as it is, mends the paths, lets the training end, and holds its logs to every line once.
Exit status 1 if anything is not as it should be.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import bootstrap
import chaos_directory
from bench_scale import Stack, stack

from tests.harness import guests
from tests.harness.client import TERMINAL, summary
from tests.harness.training import TICK, Gate, Visitor, document, ticked
from tests.harness.waiting import until

TASKS = ("worker:0", "worker:1")
_LOOK = 5.0
_PATIENCE = 180.0
#: [conductor] unreachable_timeout: nodes that are cut off for longer are replaced
_LIMIT = 7200


def cut(running: Stack, seconds: float) -> list[str]:
    """Have a training cut off for so long; list what was wrong."""
    client = running.client
    with Gate() as gate:
        job_id = client.submit(document(env=gate.env), gate.files(TICK))
        visitors = gate.expect(len(TASKS), _PATIENCE)
        until(lambda: all(client.log_size(job_id, task) for task in TASKS), _PATIENCE, "the first lines")
        servers = [node["server_id"] for node in client.nodes(job_id)]
        began = _all(running, servers, "cut")
        until(lambda: all(node["unreachable_since"] for node in client.nodes(job_id)), _PATIENCE, "both nodes are shown as unreachable")
        bootstrap.say(f"cut off, and shown as unreachable after {time.monotonic() - began:.1f} s")
        wrong = _watch(running, job_id, visitors, began + seconds)
        mended = _all(running, servers, "mend")
        bootstrap.say(f"mended after {mended - began:.1f} s")
        until(lambda: not any(node["unreachable_since"] for node in client.nodes(job_id)), _PATIENCE, "both nodes answer again")
        bootstrap.say(f"both nodes are shown as answering {time.monotonic() - mended:.1f} s later")
        gate.open()
        return wrong + _judge(running, job_id, gate.visitors)


def _all(running: Stack, servers: Sequence[str], fault: str) -> float:
    """Do something to all servers; give the time (monotonic) at which that was done."""
    for server in servers:
        running.cloud.fault("server", server=server, fault=fault)
    return time.monotonic()


def _watch(running: Stack, job_id: str, visitors: Sequence[Visitor], end: float) -> list[str]:
    """Look until a time (monotonic) whether all is as it should be; list what is wrong, at once if anything is."""
    client, looks = running.client, 0
    since = [node["unreachable_since"] for node in client.nodes(job_id)]
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(_LOOK, left))
        job, now = client.job(job_id), [node["unreachable_since"] for node in client.nodes(job_id)]
        checks = {
            f"the job is not what it was: {summary(job)}": job["status"] == "RUNNING" and job["attempt"] == 1,
            f"its reason does not tell: {job['status_reason']}": (job["status_reason"] or "").count("UNREACHABLE since") == len(TASKS),
            f"nodes are shown as unreachable since {now}, and not {since}": now == since,
            "a process has ended": all(guests.alive(visitor.pid) for visitor in visitors),
        }
        if wrong := [text for text, good in checks.items() if not good]:
            return wrong
        looks += 1
    bootstrap.say(f"looked {looks} times: RUNNING in its first attempt, both nodes UNREACHABLE since the cut, both processes alive")
    return []


def _judge(running: Stack, job_id: str, visitors: Sequence[Visitor]) -> list[str]:
    """Wait for the end of the training, which may end now; list what is wrong."""
    client = running.client
    job = client.wait(job_id, lambda seen: seen["status"] in TERMINAL, _PATIENCE)
    wrong = [] if (job["status"], job["attempt"], job["infra_restarts"]) == ("SUCCEEDED", 1, 0) else [f"the job ended as {summary(job)}"]
    if len(visitors) != len(TASKS):
        wrong.append(f"processes were started {len(visitors)} times")
    for task in TASKS:
        lines = client.log(job_id, task).splitlines()
        if lines != ticked(len(lines)):
            wrong.append(f"the log of {task} has not each of its {len(lines)} lines once and in order")
        bootstrap.say(f"{task}: {len(lines)} lines")
    return wrong + [f"left in the cloud: {item}" for item in running.cloud.leftovers()]


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < _LIMIT:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and {_LIMIT}: nodes that do not answer for longer are replaced")
    return seconds


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the command's options."""
    command = commands.add_parser("cut", help="the path to all nodes of a training, cut for long", description=__doc__,
                                  formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("--seconds", type=_seconds, default=120, metavar="S", help="for how long; %(default)s by default")
    chaos_directory.add_argument(command)
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command; give the exit status."""
    began = time.monotonic()
    with chaos_directory.given_or_passing(options.directory) as directory, stack(Path(directory)) as running:
        wrong = cut(running, options.seconds)
    for text in wrong:
        bootstrap.say(f"WRONG: {text}")
    bootstrap.say(f"cut off for {options.seconds:g} s, {time.monotonic() - began:.0f} s in all: {len(wrong)} wrong")
    return 1 if wrong else 0
