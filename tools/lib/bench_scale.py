"""Measures how the service bears many jobs at a time: one API (uWSGI as operators run it), one conductor and one worker over a RabbitMQ
and a MariaDB of their own, on the local cloud, with jobs of simulated guests (see cml_nova/localcloud/simulated.py).

A burst of jobs is submitted; all run; then the daemons are watched while nothing but logs and signs of life comes in; jobs are
cancelled, one after the other; the others end by themselves. Prints one JSON object a line as tools/lib/bench.py does. The run is judged
at its end: it fails where a job did not end as it should, a lease was lost, a line of a log is missing, something is left in the cloud, or
an aim is missed.

Runs inside the virtual environment that tools/bench has prepared.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import bootstrap
import requests
import servers
import sqlalchemy as sa
from bench import AS_SHIPPED, Aims, cpu_seconds, percentile, result, say

from tests.harness.client import SERVICE_TYPE, Client
from tests.harness.cloud import LocalCloud
from tests.harness.process import free_port
from tests.harness.service import Daemons

LINES_PER_MINUTE = 6
SUBMITTERS = 16
#: seconds that the daemons get to calm down after the last job has begun to run
CALM = 20
CANCELS = 60
#: aims: seconds until a burst is accepted, what all daemons together take in the steady state, seconds from a cancel to the last delete
ACCEPTED, CORES, MEMORY_MIB, CANCELLED = 60, 1, 1024, 2
#: what tells the work of the database, and of the bus
STATEMENTS = ("Com_select", "Com_insert", "Com_update", "Com_delete", "Com_commit")
DELETE, LOOK = "compute DELETE /servers/{id}", "compute GET /servers/detail"


@dataclass
class Stack:
    """All that is measured, and what counts."""

    cloud: LocalCloud
    service: Daemons
    client: Client
    database: sa.Engine
    broker: servers.Private

    def processes(self) -> dict[str, list[int]]:
        """Give the process ids of each daemon."""
        children: dict[int, list[int]] = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                children.setdefault(int(stat.read_text().rpartition(")")[2].split()[1]), []).append(int(stat.parent.name))
            except OSError:
                continue  # it has ended
        return {daemon.name: [daemon.pid, *children.get(daemon.pid, [])] for daemon in self.service.daemons}

    def query(self, text: str, **values: Any) -> Sequence[Any]:
        with self.database.connect() as connection:
            return connection.execute(sa.text(text), values).all()

    def phases(self) -> dict[str, int]:
        return {phase: count for phase, count in self.query("SELECT phase, COUNT(*) FROM jobs GROUP BY phase")}

    def statements(self) -> int:
        return sum(int(count) for name, count in self.query("SHOW GLOBAL STATUS LIKE 'Com\\_%'") if name in STATEMENTS)

    def messages(self) -> int:
        """Count the messages that the broker has taken in."""
        script = "lists:sum([maps:get(messages_received_total, C, 0) || C <- maps:values(rabbit_global_counters:overview())])."
        done = subprocess.run(["rabbitmqctl", "-q", "-n", self.broker.env["RABBITMQ_NODENAME"], "eval", script], check=True,
                              capture_output=True, text=True, env={**os.environ, **self.broker.env})
        return int(done.stdout.split()[-1])

    def counts(self) -> dict[str, int]:
        return {"statements": self.statements(), "messages": self.messages(), "requests": sum(self.cloud.calls().values())}


@contextmanager
def stack(directory: Path, jobs: int = 64, workers: int = 1) -> Iterator[Stack]:
    """Start everything with nothing in it, and stop it at the end.

    :param jobs: what a worker takes, beside a few.
    """
    options = {**AS_SHIPPED, "worker": {**AS_SHIPPED["worker"], "max_jobs": jobs + 8}}
    port = free_port()
    with ExitStack() as cleanup:
        servers.install(["CML_TEST_RABBIT_URL", "CML_TEST_MYSQL_URL"], directory)
        broker = servers.start_rabbitmq(directory)
        cleanup.callback(broker.stop)
        database = servers.start_mariadb(directory)
        cleanup.callback(database.stop)
        cloud = LocalCloud(directory / "cloud", ml_endpoint=f"http://127.0.0.1:{port}")
        cleanup.callback(cloud.stop)
        cloud.start()
        cloud.quota("service", instances=-1, cores=-1, ram=-1)
        cloud.request("PUT", "/network/v2.0/quotas/" + cloud.get("/identity/v3/projects?name=service")["projects"][0]["id"],
                      {"quota": {name: -1 for name in ("port", "security_group", "security_group_rule")}})
        service = Daemons(directory / "service", cloud, port, broker.url, database.url, options, conductors=1, workers=workers)
        cleanup.callback(service.stop)
        service.prepare()
        engine = sa.create_engine(service.database.url)
        cleanup.callback(engine.dispose)
        service.start()
        yield Stack(cloud, service, Client(cloud.session("local")), engine, broker)


def measure(jobs: int, nodes: int, seconds: float, watched: float, directory: Path, aims: Aims) -> None:
    """Take so many jobs from their submission to their end."""
    case = f"jobs={jobs} nodes={nodes}"
    document = {"name": "bench", "image": "simulated", "flavor": "cpu.small", "workers": nodes,
                "command": f"simulate --seconds {seconds:g} --lines-per-minute {LINES_PER_MINUTE} --exit 0"}
    with stack(directory, jobs) as running:
        client = running.client
        client.succeed(client.submit({**document, "command": "simulate"}))  # tokens, discovery, the network
        before = running.counts()
        began = time.monotonic()
        ids = submit(running, document, jobs, case, aims)
        await_phase(running, "RUNNING", jobs, began + seconds)
        took = time.monotonic() - began
        result("scale", case, "all_running", took, "s", [took])
        time.sleep(CALM)
        steady(running, case, watched, aims)
        cancelled = cancel(running, case, ids, nodes, aims)
        peak(running, case, "before_end")
        say(f"scale {case}: waiting for the end of all")
        await_phase(running, "DONE", jobs + 1, time.monotonic() + 2 * seconds + 300)
        took = time.monotonic() - began
        result("scale", case, "all_done", took, "s", [took])
        after = running.counts()
        for name, count in after.items():
            share = (count - before[name]) / jobs
            result("scale", case, f"{name}_per_job", share, name, [share])
        judge(running, ids, cancelled, nodes, seconds)


def submit(running: Stack, document: dict[str, Any], jobs: int, case: str, aims: Aims) -> list[str]:
    """Submit all jobs as fast as they are accepted."""
    session = running.cloud.session("local")
    url = session.get_endpoint(service_type=SERVICE_TYPE)
    token = session.get_token() or ""

    def one(_: int) -> tuple[str, float]:
        began = time.monotonic()
        response = requests.post(f"{url}/v1/jobs", json={"job": document}, headers={"X-Auth-Token": token}, timeout=120)
        if response.status_code != 202:
            raise SystemExit(f"bench: a job was not accepted: {response.status_code} {response.text}")
        return str(response.json()["job"]["id"]), time.monotonic() - began

    began = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(SUBMITTERS) as pool:
        answers = list(pool.map(one, range(jobs)))
    took = time.monotonic() - began
    times = [seconds for _, seconds in answers]
    result("scale", case, "all_accepted", took, "s", [took])
    aims.at_most(f"{case}: all accepted", took, ACCEPTED, "s")
    result("scale", case, "accepted_p50", median(times), "s", [median(times)])
    result("scale", case, "accepted_p99", percentile(times, 0.99), "s", [percentile(times, 0.99)])
    return [job_id for job_id, _ in answers]


def await_phase(running: Stack, phase: str, count: int, deadline: float) -> None:
    """Wait until so many jobs are in a phase."""
    shown = 0.0
    while True:
        phases = running.phases()
        if phases.get(phase, 0) >= count:
            return
        for daemon in running.service.daemons:
            daemon.check()
        if time.monotonic() > deadline:
            raise SystemExit(f"bench: not all jobs were {phase} in time: {phases}")
        if time.monotonic() - shown > 10:
            shown = time.monotonic()
            say(f"  {phases}; {usage(running)}")
        time.sleep(0.5)


def usage(running: Stack) -> str:
    """Say what each daemon uses now."""
    return ", ".join(f"{name}: {sum(map(memory, pids)) >> 20} MiB, {sum(map(cpu_seconds, pids)):.0f} s, {sum(map(threads, pids))} threads"
                     for name, pids in running.processes().items())


def steady(running: Stack, case: str, watched: float, aims: Aims) -> None:
    """Watch the daemons for a while in which nothing happens but what always does."""
    pids = running.processes()
    cloud = running.cloud.daemon
    cloud_cpu, statements, looks = cpu_seconds(cloud.pid), running.statements(), running.cloud.calls().get(LOOK, 0)
    first = {name: sum(map(cpu_seconds, found)) for name, found in pids.items()}
    began, sizes = time.monotonic(), []
    for _ in range(3):
        time.sleep(watched / 3)
        sizes.append({name: sum(map(memory, found)) for name, found in pids.items()})
    took = time.monotonic() - began
    shares = {name: (sum(map(cpu_seconds, found)) - first[name]) / took for name, found in pids.items()}
    for name in pids:
        result("scale", case, f"cpu {name}", shares[name], "cores", [shares[name]])
        result("scale", case, f"memory {name}", max(size[name] for size in sizes), "bytes", [size[name] for size in sizes])
        result("scale", case, f"threads {name}", sum(map(threads, pids[name])), "threads", [sum(map(threads, pids[name]))])
    result("scale", case, "cpu all", sum(shares.values()), "cores", [sum(shares.values())])
    aims.at_most(f"{case}: processor time of all daemons in the steady state", sum(shares.values()), CORES, "cores")
    totals = [sum(size.values()) for size in sizes]
    result("scale", case, "memory all", max(totals), "bytes", totals)
    aims.at_most(f"{case}: memory of all daemons in the steady state", max(totals) / 2**20, MEMORY_MIB, "MiB")
    rate = (running.statements() - statements) / took
    result("scale", case, "statements", rate, "statements/s", [rate])
    rate = (running.cloud.calls().get(LOOK, 0) - looks) / took
    result("scale", case, LOOK, rate, "requests/s", [rate])
    share = (cpu_seconds(cloud.pid) - cloud_cpu) / took
    result("scale", case, "cpu localcloud", share, "cores", [share])
    result("scale", case, "memory localcloud", memory(cloud.pid), "bytes", [memory(cloud.pid)])


def peak(running: Stack, case: str, when: str) -> None:
    """Tell the highest memory use of each daemon since it was started (of all of its processes, at their own times)."""
    for name, pids in running.processes().items():
        size = sum(status(pid, "VmHWM") for pid in pids)
        result("scale", case, f"peak {name} {when}", size, "bytes", [size])


def cancel(running: Stack, case: str, ids: Sequence[str], nodes: int, aims: Aims) -> set[str]:
    """Cancel some jobs, one after the other; give their ids."""
    chosen = random.sample(list(ids), min(CANCELS, max(1, len(ids) // 5)))
    times = []
    for job_id in chosen:
        asked, known = time.time(), running.cloud.calls().get(DELETE, 0)
        running.client.cancel(job_id)
        deadline = time.monotonic() + 60
        while running.cloud.calls().get(DELETE, 0) < known + nodes:
            if time.monotonic() > deadline:
                raise SystemExit(f"bench: the servers of {job_id} were not deleted within a minute of its cancel")
            time.sleep(0.05)
        times.append(running.cloud.times(DELETE)[-1] - asked)
        say(f"scale {case}: cancel to last delete {times[-1]:.3f} s")
    result("scale", case, "cancel_to_delete_p50", median(times), "s", times)
    result("scale", case, "cancel_to_delete_max", max(times), "s", times)
    aims.at_most(f"{case}: cancel to last delete, the longest of {len(times)}", max(times), CANCELLED, "s")
    return set(chosen)


def judge(running: Stack, ids: Sequence[str], cancelled: set[str], nodes: int, seconds: float) -> None:
    """:raises SystemExit: something is not as it should be."""
    wrong: list[str] = []
    rows = running.query("SELECT id, outcome, generation, attempt, status_reason FROM jobs")
    for row in rows:
        expected = "CANCELLED" if row.id in cancelled else "SUCCEEDED"
        if row.outcome != expected:
            wrong.append(f"job {row.id} is {row.outcome}: {row.status_reason}")
        if row.generation != 1 or row.attempt != 1:
            wrong.append(f"job {row.id} was held {row.generation} times, for {row.attempt} attempts")
    if missing := set(ids) - {row.id for row in rows}:
        wrong.append(f"{len(missing)} jobs are gone")
    lines = 1 + int(seconds * LINES_PER_MINUTE / 60)
    for job_id in random.sample(sorted(set(ids) - cancelled), min(50, len(ids) - len(cancelled))):
        for index in range(nodes):
            found = [int(line.rpartition(" ")[2]) for line in running.client.log(job_id, f"worker:{index}").splitlines()]
            if found != list(range(lines)):
                wrong.append(f"the log of worker:{index} of {job_id} has {len(found)} lines, not {lines} in order")
    wrong += running.cloud.leftovers()
    for line in wrong[:50]:
        say(f"  {line}")
    if wrong:
        raise SystemExit(f"bench: {len(wrong)} things are not as they should be")
    say(f"scale: {len(rows)} jobs ended as they should, no lease was lost, sampled logs are whole, nothing is left")


def parse_cases(parser: argparse.ArgumentParser, cases: Collection[str], argv: list[str]) -> argparse.Namespace:
    """Parse the arguments of a bench that has cases, of which some may be chosen; make the directory that is to be kept."""
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(cases)}; all of them without one")
    parser.add_argument("--state-dir", help="where the virtual environment is kept")
    parser.add_argument("--keep", type=Path, help="directory for logs and data, which are kept; without it they are not")
    options = parser.parse_args(argv)
    if unknown := set(options.cases) - set(cases):
        parser.error(f"there is no case {', '.join(sorted(unknown))}")
    if options.keep:
        options.keep.mkdir(parents=True)
    return options


def memory(pid: int) -> int:
    """Give the proportional set size of a process in bytes: what it shares counts for its part."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"bench: process {pid} has no Pss")


def status(pid: int, name: str) -> int:
    """Give a size of /proc/<pid>/status in bytes."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(fields[name].split()[0]) * 1024


def threads(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/task"))


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="tools/bench scale", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--state-dir", help="where the virtual environment is kept")
    parser.add_argument("--jobs", type=int, action="append", help="how many at a time; may be given more than once (10, 100, 1000)")
    parser.add_argument("--nodes", type=int, default=2, help="nodes of each job (2)")
    parser.add_argument("--seconds", type=float, help="how long each job trains (90, and 0.5 for each job)")
    parser.add_argument("--watched", type=float, default=60, help="seconds for which the daemons are watched (60)")
    parser.add_argument("--keep", type=Path, help="directory for logs and data, which are kept; without it they are not")
    options = parser.parse_args(argv)
    aims = Aims()
    for jobs in options.jobs or (10, 100, 1000):
        with ExitStack() as cleanup:
            if options.keep:
                directory = options.keep / f"jobs-{jobs}"
                directory.mkdir(parents=True)
            else:
                directory = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="cml-bench-")))
            measure(jobs, options.nodes, options.seconds or 90 + 0.5 * jobs, options.watched, directory, aims)
    aims.conclude()


if __name__ == "__main__":
    bootstrap.run_tool("bench", main, sys.argv[1:])
