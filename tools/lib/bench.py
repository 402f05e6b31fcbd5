"""Measures speed and memory of the service on the local cloud.

Prints one JSON object a line, ``{"bench", "case", "metric", "value", "unit", "samples"}``: seconds, bytes, requests, or the share of
one core. What goes on is said on standard error.

Runs inside the virtual environment that tools/bench has prepared.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import bootstrap
import requests
import sqlalchemy as sa

sys.path.insert(0, str(bootstrap.REPOSITORY))

from tests.harness.client import SERVICE_TYPE, Client
from tests.harness.cloud import LocalCloud
from tests.harness.process import Daemon, free_port
from tests.harness.service import Standalone
from tests.harness.stack import Stack

#: intervals as operators get them, not those that tests use
AS_SHIPPED = {"cloud": {"poll_fast": 0.1, "poll_slow": 5}, "worker": {"heartbeat_interval": 10},
              "conductor": {"lease_time": 60, "sweep_interval": 5, "queue_retry_min": 5, "queue_retry_max": 120},
              "remote": {"connect_timeout": 10, "unreachable_after": 30, "stop_grace": 10}, "DEFAULT": {"debug": False}}
ONE_LINE = "import time; print(repr(time.time()), flush=True)\n"
PAGE = 100
STORED_JOBS = 10_000


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def result(bench: str, case: str, metric: str, value: float, unit: str, samples: Sequence[float]) -> None:
    """Print one result."""
    print(json.dumps({"bench": bench, "case": case, "metric": metric, "value": round(value, 6), "unit": unit,
                      "samples": [round(sample, 6) for sample in samples]}), flush=True)


class Aims:
    """What figures may be at most. Each is told when it is known, and all are once more at the end."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._missed = 0

    def at_most(self, what: str, figure: float, most: float, unit: str) -> None:
        """Judge a figure."""
        met = figure <= most
        self._missed += not met
        self._lines.append(f"{'met' if met else 'MISSED':>6}: {what}: {figure:.4g} {unit}, the aim is at most {most:g} {unit}")
        say(self._lines[-1])

    def conclude(self) -> None:
        """:raises SystemExit: an aim is missed."""
        say("\n".join(["Aims:", *self._lines]))
        if self._missed:
            raise SystemExit(f"bench: {self._missed} of {len(self._lines)} aims are missed")


def percentile(samples: Sequence[float], share: float) -> float:
    """Give the smallest sample that is not exceeded by this share of them."""
    return sorted(samples)[max(0, math.ceil(share * len(samples)) - 1)]


@contextmanager
def service(boot_time: float = 0.0) -> Iterator[Stack]:
    """Run the local cloud and the standalone service, as shipped."""
    with ExitStack() as cleanup:
        directory = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="cml-bench-")))
        port = free_port()
        cloud = LocalCloud(directory / "cloud", ml_endpoint=f"http://127.0.0.1:{port}", boot_time=boot_time)
        cleanup.callback(cloud.stop)
        cloud.start()
        standalone = Standalone(directory / "service", cloud, port, AS_SHIPPED)
        cleanup.callback(standalone.stop)
        standalone.start()
        yield Stack(cloud, standalone, *(Client(cloud.session(name)) for name in ("local", "local-other", "local-admin")))


def job(package: str | None, nodes: int, command: str = "python3 train.py") -> dict[str, Any]:
    """Give the document of a job on small machines."""
    source = {"source": {"package": package}} if package else {}
    return {"name": "bench", "image": "plain", "flavor": "cpu.small", "workers": nodes, "command": command, **source}


# launch


def bench_launch(options: argparse.Namespace) -> None:
    """From submission to the first line of user code on every node, and from its end to the last deletion."""
    for boot in options.boot or (0.0, 5.0):
        with service(boot) as stack:
            package = stack.demo.upload({"train.py": ONE_LINE})
            launch_once(stack, package, 2, boot)  # whatever is slow only once
            for nodes in options.nodes or (2, 50):
                measure_launch(stack, package, nodes, boot, options.samples or (10 if nodes < 10 else 5))


def measure_launch(stack: Stack, package: str, nodes: int, boot: float, count: int) -> None:
    case = f"nodes={nodes} boot={boot:g}"
    pairs = []
    for _ in range(count):
        pairs.append(launch_once(stack, package, nodes, boot))
        say(f"launch {case}: overhead {pairs[-1][0]:.3f} s, release {pairs[-1][1]:.3f} s")
    overheads, releases = [list(column) for column in zip(*pairs, strict=True)]
    result("launch", case, "overhead_p50", median(overheads), "s", overheads)
    result("launch", case, "overhead_p99", percentile(overheads, 0.99), "s", overheads)
    result("launch", case, "release_p50", median(releases), "s", releases)


def launch_once(stack: Stack, package: str, nodes: int, boot: float) -> tuple[float, float]:
    """Run one job; give (overhead, release) in seconds."""
    document = job(package, nodes)
    submitted = time.time()
    job_id = stack.demo.submit(document)
    finish(stack, job_id)
    lines = [float(stack.demo.log(job_id, f"worker:{index}")) for index in range(nodes)]
    deleted: float = stack.cloud.times("compute DELETE /servers/{id}")[-1]
    return max(lines) - submitted - boot, deleted - max(lines)


def finish(stack: Stack, job_id: str) -> None:
    """Wait for the success of a job; seldom asking, since each question takes processor time from what is measured."""
    while not stack.demo.job(job_id)["finished_at"]:
        time.sleep(0.5)
    stack.demo.succeed(job_id)


# calls


def bench_calls(options: argparse.Namespace) -> None:
    """Requests to the cloud per job by kind, and of the poller per second by the number of jobs."""
    with service() as stack:
        package = stack.demo.upload({"train.py": ONE_LINE})
        stack.demo.succeed(stack.demo.submit(job(package, 1)))  # tokens, discovery, the network
        for nodes in options.nodes or (1, 10, 50):
            stack.cloud.forget_calls()
            stack.demo.succeed(stack.demo.submit(job(package, nodes)), timeout=300)
            for kind, count in sorted(stack.cloud.calls().items()):
                result("calls", f"nodes={nodes}", kind, count, "requests", [count])
        for jobs in (1, 10):
            rate = polling(stack, jobs)
            result("calls", f"running jobs={jobs}", "compute GET /servers/detail", rate, "requests/s", [rate])


def polling(stack: Stack, jobs: int, seconds: float = 15) -> float:
    """Run so many jobs at a time and give the looks at servers per second, while nothing changes."""
    ids = [stack.demo.submit(job(None, 1, "sleep 600")) for _ in range(jobs)]
    for job_id in ids:
        stack.demo.wait_status(job_id, "RUNNING")
    stack.cloud.forget_calls()
    time.sleep(seconds)
    looks = stack.cloud.calls().get("compute GET /servers/detail", 0)
    for job_id in ids:
        stack.demo.cancel(job_id)
    for job_id in ids:
        stack.demo.finish(job_id)
    return looks / seconds


# api


def bench_api(options: argparse.Namespace) -> None:
    """Latency of the API: one process, tokens checked, policies and schemas on, ten thousand jobs stored."""
    with api_process() as (config, cloud, _):
        measure_api(config, Client(cloud.session("local")), cloud, options.samples or 100)


@contextmanager
def api_process() -> Iterator[tuple[Standalone, LocalCloud, Daemon]]:
    """Run the local cloud, and of the service only the API, with the configuration of the standalone one."""
    with ExitStack() as cleanup:
        directory = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="cml-bench-")))
        port = free_port()
        cloud = LocalCloud(directory / "cloud", ml_endpoint=f"http://127.0.0.1:{port}")
        cleanup.callback(cloud.stop)
        cloud.start()
        config = Standalone(directory / "service", cloud, port, AS_SHIPPED)
        config.manage("db", "sync")
        config.manage("secrets", "create")
        daemon = Daemon("api", ["waitress-serve", f"--listen=127.0.0.1:{port}", "--threads=8", "cml_nova.wsgi.api:application"],
                        directory / "api.log", {"CML_NOVA_CONFIG_FILES": str(config.config_file)})
        cleanup.callback(daemon.stop)
        daemon.start()
        wait_for(lambda: answers(config.url))
        yield config, cloud, daemon


def measure_api(config: Standalone, client: Client, cloud: LocalCloud, samples: int) -> None:
    """Fill the database and measure. The requests are sent as plainly as can be: the client's own time is not the matter."""
    job_id = client.submit(job(None, 2))
    fill(f"sqlite:///{config.directory}/cml_nova.sqlite", job_id, STORED_JOBS - 1)
    http = requests.Session()
    http.headers["X-Auth-Token"] = cloud.session("local").get_token() or ""
    url = cloud.session("local").get_endpoint(service_type=SERVICE_TYPE)
    cases: dict[str, Callable[[], requests.Response]] = {
        "list": lambda: http.get(f"{url}/v1/jobs", params={"limit": PAGE}),
        "show": lambda: http.get(f"{url}/v1/jobs/{job_id}"),
        "create": lambda: http.post(f"{url}/v1/jobs", json={"job": job(None, 2)}),
    }
    for case, send in cases.items():
        for _ in range(5):
            check(send())
        times = []
        for _ in range(samples):
            began = time.perf_counter()
            response = send()
            times.append(time.perf_counter() - began)
            check(response)
        if case == "list":
            assert len(response.json()["jobs"]) == PAGE, "the list is not full"
        result("api", case, "latency_p50", median(times), "s", times)
        result("api", case, "latency_p99", percentile(times, 0.99), "s", times)


def check(response: requests.Response) -> None:
    if not response.ok:
        raise SystemExit(f"bench: {response.request.method} {response.url}: {response.status_code} {response.text}")


def fill(database_url: str, job_id: str, count: int) -> None:
    """Store copies of a job, each a second older than the one before."""
    engine = sa.create_engine(database_url)
    tables = sa.MetaData()
    tables.reflect(engine, only=["jobs", "nodes"])
    with engine.begin() as connection:
        row = dict(connection.execute(sa.select(tables.tables["jobs"]).where(tables.tables["jobs"].c.id == job_id)).mappings().one())
        nodes = [dict(node) for node in
                 connection.execute(sa.select(tables.tables["nodes"]).where(tables.tables["nodes"].c.job_id == job_id)).mappings()]
        ids = [str(uuid.uuid4()) for _ in range(count)]
        connection.execute(tables.tables["jobs"].insert(), [
            {**row, "id": id_, "name": f"bench-{age}", "created_at": row["created_at"] - age} for age, id_ in enumerate(ids, 1)])
        connection.execute(tables.tables["nodes"].insert(), [{**node, "job_id": id_} for id_ in ids for node in nodes])
    engine.dispose()


def answers(url: str) -> bool:
    try:
        return requests.get(url + "/", timeout=5).status_code in (200, 300)
    except requests.ConnectionError:
        return False


def wait_for(probe: Callable[[], bool], timeout: float = 60) -> None:
    deadline = time.monotonic() + timeout
    while not probe():
        if time.monotonic() > deadline:
            raise SystemExit("bench: the service does not come up")
        time.sleep(0.05)


# idle


def bench_idle(options: argparse.Namespace) -> None:
    """Memory and processor time of the standalone service with nothing to do, after it has run a job."""
    with service() as stack:
        stack.demo.succeed(stack.demo.submit(job(stack.demo.upload({"train.py": ONE_LINE}), 2)))
        pid = stack.service.daemons[0].pid
        time.sleep(5)
        sizes, shares = [], []
        for _ in range(options.samples or 3):
            cpu, began = cpu_seconds(pid), time.monotonic()
            time.sleep(10)
            shares.append((cpu_seconds(pid) - cpu) / (time.monotonic() - began))
            sizes.append(float(rss_bytes(pid)))
        result("idle", "standalone", "rss", max(sizes), "bytes", sizes)
        result("idle", "standalone", "cpu", median(shares), "cores", shares)


def rss_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"bench: process {pid} has no VmRSS")


def cpu_seconds(pid: int) -> float:
    # The name in parentheses may hold blanks; what is counted from follows it.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100  # utime and stime in the kernel's ticks, which are 100 a second


BENCHES: dict[str, Callable[[argparse.Namespace], None]] = {
    "launch": bench_launch, "calls": bench_calls, "api": bench_api, "idle": bench_idle}


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="tools/bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=[*BENCHES, "all"])
    parser.add_argument("--state-dir", help="where the virtual environment is kept")
    parser.add_argument("--nodes", type=int, action="append", help="of launch and calls; may be given more than once")
    parser.add_argument("--boot", type=float, action="append", help="simulated boot of launch in seconds; may be given more than once")
    parser.add_argument("--samples", type=int, help="how often each case is measured")
    options = parser.parse_args(argv)
    for name, bench in BENCHES.items():
        if options.name in (name, "all"):
            bench(options)


if __name__ == "__main__":
    bootstrap.run_tool("bench", main, sys.argv[1:])
