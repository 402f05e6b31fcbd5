"""Runs the checks and the tests, part by part, and says at the end how long each took and how it ended.

Runs inside the virtual environment that tools/run-tests has prepared.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
from pathlib import Path
from typing import NoReturn

import bootstrap
import laptop
import realcloud
import servers
from parts import Part, Parts, Queue, Tests

IMAGES = ("tensorflow", "mxnet")
#: long parts that run at a time, and short ones beside them: two long ones leave the processors idle for a third of the time
_LONG, _SHORT = 2, 1


def main(argv: list[str]) -> int:
    mode = argv[0] if argv[:1] in (["services"], ["realcloud"]) else ""
    options, pytest_args = _parser().parse_known_args(argv[1:] if mode else argv)
    state_dir = options.state_dir.resolve()
    log_dir = state_dir / "logs"
    log_dir.mkdir(parents=True, exist_ok=True)
    if options.servers_only:
        serve(log_dir)
    venv = bootstrap.Venv(state_dir / "venv")
    parts = Parts({**venv.environ(), "CML_TEST_STATE_DIR": str(state_dir), "CML_TEST_IMAGES_DIR": str(state_dir / "images")}, log_dir)
    tests = Tests([str(venv.python), "-m", "pytest", "--durations=10"], pytest_args)
    harness = options.cloud_harness.resolve() if options.cloud_harness else None
    with contextlib.ExitStack() as stack:
        cloud: Queue = {}
        if harness:
            cloud = stack.enter_context(realcloud.brought_up(parts, venv, tests, harness, state_dir))
        elif mode == "realcloud":
            cloud = realcloud.named(parts, tests)
        elif mode == "services":
            parts.leave_out("realcloud", "THE TESTS ON A REAL OPENSTACK: no --cloud-harness; see tools/run-tests realcloud")
        if mode == "realcloud":
            for name, part in cloud.items():
                parts.run(name, part)
        else:
            run_here(parts, venv, tests, state_dir, cloud, with_services=mode == "services")
    return parts.close()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tools/run-tests", usage="%(prog)s [services | realcloud] [--cloud-harness DIR] [--state-dir DIR] [--servers-only] "
        "[options of pytest]", allow_abbrev=False,
        description="Run the checks and tests; with 'services' also the tests that need RabbitMQ, MariaDB and PostgreSQL, and the "
                    "functional suite over them. With 'realcloud' run the tests that need a real OpenStack, and only those. Other options "
                    "are passed on to pytest.")
    parser.add_argument("--state-dir", type=Path, default=bootstrap.default_state_dir(), help="where the environment and images are kept")
    parser.add_argument("--servers-only", action="store_true", help="only start the servers of the services tests and print their URLs")
    parser.add_argument("--cloud-harness", type=Path, metavar="DIR",
                        help="has programs that bring an OpenStack up on this machine (up, status, inject, down); without it the tests on "
                             "a real cloud use the one that the environment names, see tests/realcloud/conftest.py")
    return parser


def run_here(parts: Parts, venv: bootstrap.Venv, tests: Tests, state_dir: Path, beside: Queue, *, with_services: bool) -> None:
    """Run the checks, and the tests that make do with the local cloud.

    :param beside: what else is to be run, one after the other.
    """
    image = [venv.command("cml-nova-localcloud"), "image", "build", *IMAGES, "--state-dir", str(state_dir)]
    checks = {"ruff": Part([venv.command("ruff"), "check", "."]), "mypy": Part([venv.command("mypy")]), "unit": tests.part("tests/unit")}
    if not parts.run("images", Part(image)):
        parts.run_together([({**checks, **beside}, 1)])
        return
    log_dir = state_dir / "logs"
    with contextlib.ExitStack() as stack:
        harmful, over_databases = services(parts, tests, log_dir, stack) if with_services else ({}, {})
        # The longest first, so that the lanes end at about the same time; and what only waits most of the time last, when there may be
        # the machines of a real cloud beside it.
        long = {**harmful, "functional": tests.part("tests/functional"), **over_databases}
        short = {**checks, "contract": tests.part("tests/contract"), **clients(parts, tests, log_dir, must=with_services), **beside}
        parts.run_together([(long, _LONG), (short, _SHORT)])


def clients(parts: Parts, tests: Tests, log_dir: Path, *, must: bool) -> Queue:
    """Give the parts that test the clients: with the newest packages, and with Debian's.

    :param must: it is a failure where Debian's can't be installed.
    """
    sides = {"the newest packages": "ceiling", "Debian's packages": "floor"}
    try:
        laptop.install(log_dir)
    except bootstrap.BootstrapError as error:
        del sides["Debian's packages"]
        if must:
            parts.fail("clients with Debian's packages", str(error))
        else:
            parts.leave_out("clients with Debian's packages", str(error))
    return {f"clients with {name}": tests.part("tests/clients", {"CML_TEST_CLIENTS": side}) for name, side in sides.items()}


def services(parts: Parts, tests: Tests, log_dir: Path, stack: contextlib.ExitStack) -> tuple[Queue, Queue]:
    """Give the parts that need real servers: the kill sweep and what else does harm, and their own tests; and the functional suite with
    separate daemons on each database.

    :param stack: ends the servers.
    """
    harmful, over_databases = Queue(), Queue()
    try:
        urls = stack.enter_context(servers.all_servers(log_dir))
        for name in ("chaos", "services"):
            harmful[name] = tests.part(f"tests/{name}", urls)
        for variable in ("CML_TEST_MYSQL_URL", "CML_TEST_POSTGRES_URL"):
            broker = servers.start_rabbitmq(log_dir)  # one each: stacks that share a broker take each other's messages
            stack.callback(broker.stop)
            env = {**urls, "CML_TEST_STACK": "daemons", "CML_TEST_RABBIT_URL": broker.url, "CML_TEST_DATABASE_URL": urls[variable]}
            over_databases[f"functional over RabbitMQ and {servers.SERVERS[variable][0]}"] = tests.part("tests/functional", env)
    except bootstrap.BootstrapError as error:
        parts.fail("services", str(error))
    return harmful, over_databases


def serve(log_dir: Path) -> NoReturn:
    """Keep private servers running for someone who runs pytest by hand, until that one interrupts us."""
    with servers.all_servers(log_dir) as urls:
        for variable, url in urls.items():
            print(f"export {variable}={url}", flush=True)
        print("Stop with Ctrl-C.", flush=True)
        while True:
            signal.pause()


if __name__ == "__main__":
    bootstrap.run_tool("run-tests", main, sys.argv[1:])
