"""Measures how long recovery takes, with the intervals as operators get them: daemons (uWSGI, one conductor, two workers) over a RabbitMQ
and a MariaDB of their own, on the local cloud, with jobs of simulated guests (see cml_nova/localcloud/simulated.py).

worker   a worker is killed: from then until the logs of its jobs go on, in the hands of the other one
node     a server is shown as dead by the cloud: from then until the job's event calls the node lost, which it does when what runs on the
         others has been stopped, and until every process of the new attempt has logged its first line; servers boot in a tenth of a
         second here. A job's first loss: after later ones, restarts pause
cancel   a job is cancelled: from the request until the last delete of a server has come to the cloud

Prints one JSON object a line as tools/lib/bench.py does; fails where an aim is missed.

Runs inside the virtual environment that tools/bench has prepared.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import bootstrap
from bench import AS_SHIPPED, Aims, result, say
from bench_scale import DELETE, Stack, parse_cases, stack

from cml_nova.storage.base import log_key
from tests.harness.process import Daemon
from tests.harness.waiting import until

#: lines a minute of each process: how exactly it is seen that somebody watches
PACE = 1200
JOBS = 6
#: longest wait for anything, in seconds
LIMIT = 180
CASES = ("cancel", "node", "worker")


def job(running: Stack, nodes: int) -> str:
    """Start a job; give its id when all of its processes have logged something."""
    command = f"simulate --seconds 3600 --lines-per-minute {PACE}"
    job_id = running.client.submit({"name": "bench", "image": "simulated", "flavor": "cpu.small", "workers": nodes, "command": command})
    await_lines(running, job_id, nodes, 1)
    return job_id


def await_lines(running: Stack, job_id: str, nodes: int, attempt: int) -> None:
    """Wait until all processes of an attempt have logged something."""
    def logged() -> bool:
        return all(log_size(running, job_id, index, attempt) for index in range(nodes))

    until(logged, LIMIT, f"the first lines of attempt {attempt} of job {job_id}")


def log_size(running: Stack, job_id: str, index: int, attempt: int) -> int:
    path = running.service.directory / "storage" / "objects" / log_key(job_id, attempt, f"worker:{index}")
    return path.stat().st_size if path.exists() else 0


def worker_death(running: Stack, samples: int, aims: Aims) -> None:
    """Kill a worker, over and over."""
    lease = AS_SHIPPED["conductor"]["lease_time"]
    times: list[float] = []
    ids = [job(running, 2) for _ in range(JOBS)]
    for number in range(samples):
        victim, name = busiest(running)
        mine = [row.id for row in running.query("SELECT id FROM jobs WHERE worker_id = :name AND phase = 'RUNNING'", name=name)]
        victim.kill()
        began = time.monotonic()
        sizes = {(job_id, index): log_size(running, job_id, index, 1) for job_id in mine for index in range(2)}
        while sizes:
            back = [key for key, size in sizes.items() if log_size(running, *key, 1) > size]
            for key in back:
                del sizes[key]
                times.append(time.monotonic() - began)
            if time.monotonic() - began > LIMIT:
                raise SystemExit(f"bench: nobody watches {sorted(sizes)} {LIMIT} s after their worker was killed")
            time.sleep(0.05)
        say(f"recover worker: kill {number + 1}: {len(mine)} jobs are watched again after {times[-1]:.1f} s")
        victim.start()
        until(lambda: len(alive(running)) == 2, 60, "two workers")
    for job_id in ids:
        running.client.cancel(job_id)
    report(aims, "worker", f"lease={lease}", "watched_again", times, lease + 15)


def busiest(running: Stack) -> tuple[Daemon, str]:
    """Give the worker with the most jobs, and its name."""
    counts = {row.worker_id: row.jobs for row in running.query(
        "SELECT worker_id, COUNT(*) AS jobs FROM jobs WHERE phase = 'RUNNING' GROUP BY worker_id")}
    name = max(counts, key=lambda known: counts[known])
    [daemon] = [worker for worker in running.service.workers if f"Worker {name} is up" in worker.log_path.read_text()]
    return daemon, name


def alive(running: Stack) -> Sequence[Any]:
    return running.query("SELECT id FROM workers WHERE seen_at > UNIX_TIMESTAMP(SYSDATE(6)) - 12")


def node_death(running: Stack, samples: int, nodes: int, aims: Aims) -> None:
    """Kill a server of a job, over and over."""
    noticed, times = list[float](), list[float]()
    for number in range(samples):
        job_id = job(running, nodes)
        node = running.client.nodes(job_id)[number % nodes]
        running.cloud.fault("server", server=node["server_id"], fault="crash")
        began, crashed = time.monotonic(), time.time()
        await_lines(running, job_id, nodes, 2)
        times.append(time.monotonic() - began)
        [event] = running.query("SELECT MIN(at) AS at FROM events WHERE job_id = :id AND message LIKE 'Lost node%'", id=job_id)
        noticed.append(event.at - crashed)
        say(f"recover node: nodes={nodes}: the node is called lost after {noticed[-1]:.2f} s, a new attempt runs after {times[-1]:.2f} s")
        running.client.cancel(job_id)
        running.client.finish(job_id)
    report(aims, "node", f"nodes={nodes}", "loss_noticed", noticed, 10)
    report(aims, "node", f"nodes={nodes}", "new_attempt_runs", times, 15)


def cancel(running: Stack, samples: int, nodes: int, aims: Aims) -> None:
    """Cancel running jobs."""
    times: list[float] = []
    for _ in range(samples):
        job_id = job(running, nodes)
        known = running.cloud.calls().get(DELETE, 0)
        asked = time.time()
        running.client.cancel(job_id)
        until(lambda known=known: running.cloud.calls().get(DELETE, 0) >= known + nodes, LIMIT, "the deletes")  # type: ignore[misc]
        times.append(running.cloud.times(DELETE)[-1] - asked)
        running.client.finish(job_id)
        say(f"recover cancel: nodes={nodes}: {times[-1]:.3f} s")
    report(aims, "cancel", f"nodes={nodes}", "last_delete", times, 1)


def report(aims: Aims, kind: str, case: str, metric: str, times: Sequence[float], aim: float) -> None:
    result("recover", f"{kind} {case}", f"{metric}_p50", median(times), "s", times)
    result("recover", f"{kind} {case}", f"{metric}_max", max(times), "s", times)
    aims.at_most(f"{kind} {case}: {metric}, the longest of {len(times)} (p50 {median(times):.2f} s)", max(times), aim, "s")


def measure(running: Stack, case: str, samples: int, aims: Aims) -> None:
    match case:
        case "cancel":
            for nodes in (1, 10, 50):
                cancel(running, samples, nodes, aims)
        case "node":
            for nodes in (2, 10):
                node_death(running, samples, nodes, aims)
        case "worker":
            worker_death(running, samples, aims)


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="tools/bench recover", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=5, help="how often each is measured (5); a killed worker takes more than a minute")
    options = parse_cases(parser, CASES, argv)
    aims = Aims()
    with tempfile.TemporaryDirectory(prefix="cml-bench-") as scratch, stack(options.keep or Path(scratch), workers=2) as running:
        for case in options.cases or CASES:
            measure(running, case, options.samples, aims)
    aims.conclude()


if __name__ == "__main__":
    bootstrap.run_tool("bench", main, sys.argv[1:])
