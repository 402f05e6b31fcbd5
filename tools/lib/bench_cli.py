"""Measures what the openstack command costs: its start with and without the plugin, and a list of a thousand jobs.

Processor time is user and system time together, of the finished command by the kernel's account; of the API's process from /proc.

Runs inside the virtual environment that tools/bench has prepared.
"""

from __future__ import annotations

import argparse
import os
import site
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import bootstrap
import requests
from bench import api_process, check, cpu_seconds, fill, job, result

from tests.harness.client import SERVICE_TYPE, Client

JOBS = 1000
#: what the plugin is asked nothing of, and what it is
COMMANDS = ("server list --help", "ml job list --help")


def processor(command: list[str], env: dict[str, str]) -> float:
    """Run a command; give its processor time in seconds."""
    before = os.times()
    with open(os.devnull, "wb") as nothing:
        pid = os.posix_spawn(command[0], command, env, file_actions=[(os.POSIX_SPAWN_DUP2, nothing.fileno(), 1)])
        _, status = os.waitpid(pid, 0)
    if status:
        raise SystemExit(f"bench: {command}: {status}")
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def packages(directory: Path, *, plugin: bool) -> dict[str, str]:
    """Give an environment in which Python finds the packages of this one, with the plugin or without."""
    directory.mkdir()
    [found] = site.getsitepackages()[:1]
    for path in Path(found).iterdir():
        if "cml_nova" not in path.name:
            (directory / path.name).symlink_to(path)
    if plugin:
        import cml_nova

        (directory / "cml_nova").symlink_to(Path(cml_nova.__file__).parent)
        [information] = Path(found).glob("cml_nova-*.dist-info")
        (directory / information.name).symlink_to(information)
    return {**os.environ, "PYTHONPATH": str(directory)}


def start_up(samples: int) -> None:
    """Start the command in turn with and without the plugin."""
    with tempfile.TemporaryDirectory(prefix="cml-bench-") as directory:
        sides = {name: packages(Path(directory, name), plugin=name == "with") for name in ("with", "without")}
        script = str(Path(sys.executable).parent / "openstack")
        times: dict[tuple[str, str], list[float]] = {}
        for _ in range(samples + 1):
            for command in COMMANDS:
                for name, env in sides.items():
                    if name == "with" or not command.startswith("ml "):
                        taken = processor([sys.executable, "-S", script, *command.split()], env)
                        times.setdefault((command, name), []).append(taken)
        for (command, name), all_ in times.items():
            result("cli", f"{command}, {name} the plugin", "processor", median(all_[1:]), "s", all_[1:])  # the first one writes .pyc


def long_list(samples: int) -> None:
    """List a thousand jobs in one page: over HTTP, and by the command."""
    with api_process() as (config, cloud, daemon):
        fill(f"sqlite:///{config.directory}/cml_nova.sqlite", Client(cloud.session("local")).submit(job(None, 2)), JOBS - 1)
        session = cloud.session("local")
        url, headers = session.get_endpoint(service_type=SERVICE_TYPE), {"X-Auth-Token": session.get_token() or ""}
        env = {**os.environ, "OS_CLIENT_CONFIG_FILE": str(cloud.directory / "clouds.yaml"), "OS_CLOUD": "local"}
        command = [str(Path(sys.executable).parent / "openstack"), *"ml job list --all --limit 1000 -f json".split()]

        def page() -> None:
            response = requests.get(f"{url}/v1/jobs", params={"limit": str(JOBS)}, headers=headers, timeout=60)
            check(response)
            assert len(response.json()["jobs"]) == JOBS

        for case, action in (("one page of 1000 jobs", page), ("openstack ml job list of 1000 jobs", lambda: processor(command, env))):
            action()
            walls, shares = [], []
            for _ in range(samples):
                cpu, began = cpu_seconds(daemon.pid), time.perf_counter()
                action()
                walls.append(time.perf_counter() - began)
                shares.append(cpu_seconds(daemon.pid) - cpu)
            result("cli", case, "wall", median(walls), "s", walls)
            result("cli", case, "processor_of_api", median(shares), "s", shares)


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="tools/bench cli", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--state-dir", help="where the virtual environment is kept")
    parser.add_argument("--samples", type=int, default=10, help="how often each case is measured")
    options = parser.parse_args(argv)
    start_up(options.samples)
    long_list(options.samples)


if __name__ == "__main__":
    bootstrap.run_tool("bench", main, sys.argv[1:])
