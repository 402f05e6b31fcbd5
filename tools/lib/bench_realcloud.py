"""Measures the service on a cloud that is there already, against the cloud alone and against other ways to run a training on it.

In each round, one after the other, so that what else the machine does hits all alike:

``plain``    the cloud's own time: one POST /servers until SSH answers on all nodes
``ours``     the service: from submission to the first line of user code of every rank in the job's log, and to the end with nothing left
``heat``     a Heat stack, ssh and scp
``ansible``  a playbook with the openstack.cloud collection

All with the same image, flavor, network and program. Then, with --cloud-logs, the requests of one job are counted. Prints one JSON object
a line as the other benchmarks do; "marks" of a way are seconds after its beginning. What goes on is said on standard error.

The cloud is the one that OS_CLIENT_CONFIG_FILE, CML_TEST_ADMIN_CLOUD and CML_TEST_USER_CLOUD name; the service's account, made by
tools/register-service, stays for the next time.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import bootstrap
import servers

sys.path.insert(0, str(bootstrap.REPOSITORY))

import bench_logs
from bench import result, say
from bench_ways import PROGRAM, Ansible, Course, Heat, Plain, Target, Way, ansible_venv

from tests.harness.client import TERMINAL, Client
from tests.harness.process import free_port
from tests.harness.realcloud import RealCloud, Settings
from tests.harness.service import Daemons, Service, Standalone

WAYS = ("plain", "ours", "heat", "ansible")
#: as operators get it, and the log says when a job's milestones were
OPTIONS = {"conductor": {"lease_time": 60, "sweep_interval": 5, "queue_retry_min": 5, "queue_retry_max": 120, "orphan_interval": 300},
           "worker": {"heartbeat_interval": 10, "drain_timeout": 30}, "remote": {"stop_grace": 10}, "DEFAULT": {"debug": True}}
ACCOUNT = ("cml_nova_bench", "cml-nodes-bench")


@dataclass(frozen=True)
class Stack:
    """The service on the cloud."""

    cloud: RealCloud
    service: Service
    client: Client


@contextmanager
def stack(options: argparse.Namespace, directory: Path) -> Iterator[Stack]:
    """Run the service as shipped: daemons on a bus and a database of their own, or all in one process."""
    settings = Settings(
        admin_cloud=options.admin_cloud, user_cloud=options.user_cloud, other_cloud=options.user_cloud, image=options.image,
        flavor=options.flavor, network=options.network, cloud_logs=options.cloud_logs, keep_endpoint="yes")
    with ExitStack() as cleanup:
        port = free_port()
        cloud = RealCloud(settings, f"http://127.0.0.1:{port}", Path(options.state_dir) / "bench-account", ACCOUNT)
        cleanup.callback(cloud.close)
        if options.stack == "daemons":
            wanted = ("CML_TEST_RABBIT_URL", "CML_TEST_MYSQL_URL")
            urls = cleanup.enter_context(servers.all_servers(directory, wanted))
            service: Service = Daemons(directory, cloud, port, *(urls[name] for name in wanted), OPTIONS, conductors=1, workers=1)
        else:
            service = Standalone(directory, cloud, port, OPTIONS)
        cleanup.callback(service.stop)
        service.prepare()
        service.start()
        yield Stack(cloud, service, Client(cloud.session(options.user_cloud), endpoint=service.url))


class Ours(Way):
    """The service, as a user sees it through its API."""

    def __init__(self, target: Target, directory: Path, stack: Stack, command: str, program: Path) -> None:
        self.target = target
        self._stack = stack
        self._document = {
            "name": "bench", "framework": {"name": "custom"}, "image": target.image, "flavor": target.flavor, "workers": target.nodes,
            "command": command, "source": {"package": stack.client.upload({"train.py": program.read_text()})}}

    def close(self) -> None:
        """Nothing was made but by the job."""

    def run(self) -> Course:
        began = time.time()
        course = Course()
        job_id = self._stack.client.submit(self._document)
        try:
            self._watch(course, job_id)
        except BaseException:
            self._stack.client.cancel(job_id)
            self._await(job_id, *TERMINAL)
            raise
        course.marks.update(bench_logs.marks([daemon.log_path.read_text() for daemon in self._stack.service.daemons], job_id, began))
        return course

    def _watch(self, course: Course, job_id: str) -> None:
        """Note what a user sees of the job."""
        course.mark("accepted")
        readers = [threading.Thread(target=self._await_first_line, args=(course, job_id, rank)) for rank in range(self.target.nodes)]
        self._await(job_id, "RUNNING", *TERMINAL)
        for reader in readers:
            reader.start()
        job = self._await(job_id, *TERMINAL)
        course.mark("nothing left")
        for reader in readers:
            reader.join()
        assert job["status"] == "SUCCEEDED", self._stack.client.story(job_id)
        assert not self._stack.cloud.servers(job_id), "there are servers left"

    def _await(self, job_id: str, *statuses: str) -> dict[str, Any]:
        while True:
            job = self._stack.client.job(job_id)
            if job["status"] in statuses:
                return job
            time.sleep(0.25)

    def _await_first_line(self, course: Course, job_id: str, rank: int) -> None:
        while not self._stack.client.log_piece(job_id, f"worker:{rank}", wait=10)[0]:
            pass
        course.mark("first line")


def share(ours: dict[str, float], plain: dict[str, float]) -> float:
    """Give what the service adds to the cloud's own time until user code runs, in seconds."""
    return ours["first line"] - plain["ssh"]


def inner_share(ours: dict[str, float]) -> float:
    """The same within one job, free of what the cloud did otherwise in another: until the servers are asked for, and after the login."""
    return ours["asked for servers"] + ours["first line"] - ours["logged in"]


def compare(options: argparse.Namespace, running: Stack, directory: Path) -> None:
    """Run all ways round by round, and print what came of them."""
    target = Target(options.user_cloud, options.image, options.flavor, options.network,
                    options.ssh_user or running.cloud.ssh_user(options.image), options.nodes)
    found: dict[str, list[dict[str, float]]] = {way: [] for way in options.ways}
    with ExitStack() as cleanup:
        ways: dict[str, Way] = {}
        for name in options.ways:
            ways[name] = make_way(name, options, target, running, directory)
            cleanup.callback(ways[name].close)
        for number in range(options.rounds):
            for name, way in ways.items():
                marks = way.run().marks
                found[name].append(marks)
                in_order = sorted(marks.items(), key=lambda mark: mark[1])
                say(f"round {number + 1} {name}: " + ", ".join(f"{what} {when:.1f}" for what, when in in_order))
    case = f"nodes={options.nodes} image={options.image}"
    for name, rounds in found.items():
        for mark in sorted(rounds[0], key=lambda mark: median(r[mark] for r in rounds if mark in r)):
            samples = [r[mark] for r in rounds if mark in r]
            result("realcloud", f"{name} {case}", mark, median(samples), "s", samples)
    if found.get("ours"):
        inner = [inner_share(r) for r in found["ours"]]
        result("realcloud", f"ours {case}", "share within the job", median(inner), "s", inner)
    if found.get("ours") and found.get("plain"):
        shares = [share(*pair) for pair in zip(found["ours"], found["plain"], strict=True)]
        result("realcloud", f"ours {case}", "share over plain", median(shares), "s", shares)


def make_way(name: str, options: argparse.Namespace, target: Target, running: Stack, directory: Path) -> Way:
    if name == "ours":
        return Ours(target, directory, running, "python3 train.py", PROGRAM)
    if name == "ansible":
        return Ansible(target, directory, ansible_venv(Path(options.state_dir), sys.executable))
    return {"plain": Plain, "heat": Heat}[name](target, directory)


def count(options: argparse.Namespace, running: Stack, directory: Path) -> None:
    """Count the requests of one job by service: in the access logs of the cloud, and for Keystone in the bench's proxy before it."""
    logs = {name: Path(options.cloud_logs) / file for name, file in bench_logs.ACCESS_LOGS.items()}
    for nodes in options.count_nodes or (1, 3):
        target = Target(options.user_cloud, options.image, options.flavor, options.network, "", nodes)
        way = Ours(target, directory, running, "python3 train.py", PROGRAM)
        places = {name: log.stat().st_size for name, log in logs.items()}
        keystone = running.cloud.keystone.counts()
        way.run()
        time.sleep(2)  # until the logs are written
        counts: dict[str, Counter[str]] = {"keystone": running.cloud.keystone.counts() - keystone}
        for name, log in logs.items():
            with log.open("rb") as file:
                file.seek(places[name])
                counts[name] = bench_logs.requests(file.read().decode(errors="replace"), running.cloud.service_user.id)
        for name, kinds in sorted(counts.items()):
            result("realcloud", f"requests nodes={nodes}", name, kinds.total(), "requests", [kinds.total()])
            for kind, number in sorted(kinds.items()):
                result("realcloud", f"requests nodes={nodes}", f"{name} {kind}", number, "requests", [number])


def main(argv: list[str]) -> None:
    environ = os.environ.get
    parser = argparse.ArgumentParser(
        prog="tools/bench realcloud", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--state-dir", default=str(bootstrap.default_state_dir()), help="where virtual environments are kept")
    parser.add_argument("--admin-cloud", default=environ("CML_TEST_ADMIN_CLOUD", "admin"), help="an administrator's entry of clouds.yaml")
    parser.add_argument("--user-cloud", default=environ("CML_TEST_USER_CLOUD", "alpha"), help="a user's entry of clouds.yaml")
    parser.add_argument("--image", default=environ("CML_TEST_IMAGE", "debian-12-fast"))
    parser.add_argument("--flavor", default=environ("CML_TEST_FLAVOR", "m1.small"))
    parser.add_argument("--network", default=environ("CML_TEST_NETWORK", "lan"), help="one that is reached from here")
    parser.add_argument("--ssh-user", help="login of the image; by default its property cml_ssh_user")
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3, help="0 only counts requests")
    parser.add_argument("--ways", type=lambda text: text.split(","), default=list(WAYS), help=",".join(WAYS))
    parser.add_argument("--stack", choices=("daemons", "standalone"), default="daemons", help="how the service runs")
    parser.add_argument("--cloud-logs", default=environ("CML_TEST_CLOUD_LOGS"), metavar="DIR",
                        help="where the cloud's services log: counts the requests of a job; " + ", ".join(bench_logs.ACCESS_LOGS.values()))
    parser.add_argument("--count-nodes", type=int, action="append", help="sizes of the jobs whose requests are counted; 1 and 3 by default")
    parser.add_argument("--keep", metavar="DIR", help="work there and leave logs and configuration behind")
    options = parser.parse_args(argv)
    with ExitStack() as cleanup:
        directory = Path(options.keep or cleanup.enter_context(tempfile.TemporaryDirectory(prefix="cml-bench-")))
        directory.mkdir(exist_ok=True)
        running = cleanup.enter_context(stack(options, directory))
        if options.rounds:
            compare(options, running, directory)
        if options.cloud_logs:
            count(options, running, directory)


if __name__ == "__main__":
    bootstrap.run_tool("bench", main, sys.argv[1:])
