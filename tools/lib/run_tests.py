"""Runs the checks and the tests, part by part, and says at the end how long each took and how it ended.

Runs inside the virtual environment that tools/run-tests has prepared.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import IO

import bootstrap
import laptop
import realcloud
import servers

IMAGES = ("tensorflow", "mxnet")
#: what pytest returns when the given options select no test of a part
_NOTHING_SELECTED = 5
#: parts that run at a time where that does
_LANES = 2


class Parts:
    """Runs one part after the other and keeps the score; a part that fails does not stop the others."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._env = env
        self._began = time.monotonic()
        self._results: list[tuple[str, float, str]] = []

    def run(self, name: str, command: list[str], env: Mapping[str, str] | None = None, fine: tuple[int, ...] = (0,),
            limit: float | None = None) -> bool:
        """Run a part to its end.

        :param fine: exit codes of a part that went well.
        :param limit: seconds after which it is ended, and has failed.
        """
        print(f"\n=== {name}: {' '.join(Path(part).name if i == 0 else part for i, part in enumerate(command))}", flush=True)
        began = time.monotonic()
        code = _call(command, {**self._env, **(env or {})}, limit)
        return self._note(name, code, time.monotonic() - began, fine)

    def _note(self, name: str, code: int, seconds: float, fine: tuple[int, ...]) -> bool:
        word = "ok" if code in fine else "FAILED"
        self._results.append((name, seconds, word))
        print(f"=== {name}: {word if code in fine else f'FAILED (code {code})'} after {seconds:.1f} s", flush=True)
        return code in fine

    def run_together(self, parts: Mapping[str, tuple[list[str], Mapping[str, str]]], log_dir: Path, fine: tuple[int, ...]) -> None:
        """Run several parts at a time: each waits half of the time for something. What one prints is shown when it has ended.

        :param parts: command and variables by name.
        """
        waiting, running = dict(parts), dict[str, tuple[subprocess.Popen[bytes], IO[str], float]]()
        with contextlib.ExitStack() as stack:
            while waiting or running:
                while waiting and len(running) < _LANES:
                    name = next(iter(waiting))
                    command, env = waiting.pop(name)
                    print(f"\n=== {name}: begun", flush=True)
                    output = stack.enter_context((log_dir / f"part-{name.replace(' ', '-')}.log").open("w+"))
                    process = subprocess.Popen(command, env={**self._env, **env}, cwd=bootstrap.REPOSITORY, stdout=output,
                                               stderr=subprocess.STDOUT)
                    stack.callback(_end, process)
                    running[name] = (process, output, time.monotonic())
                time.sleep(0.2)
                for name, (process, output, began) in [item for item in running.items() if item[1][0].poll() is not None]:
                    del running[name]
                    output.seek(0)
                    print(f"\n=== {name}\n{output.read()}", flush=True)
                    self._note(name, process.returncode, time.monotonic() - began, fine)

    def fail(self, name: str, reason: str) -> None:
        print(f"\n=== {name}: FAILED: {reason}", flush=True)
        self._results.append((name, 0.0, "FAILED"))

    def leave_out(self, name: str, reason: str) -> None:
        """Note a part that is not run here, for all to see."""
        print(f"\n=== {name}: NOT RUN: {reason}", flush=True)
        self._results.append((f"{name}: {reason}", 0.0, "NOT RUN"))

    def close(self) -> int:
        """Print the table of parts; give the exit code of the whole."""
        print("\n=== all parts")
        for name, seconds, word in self._results:
            print(f"{seconds:8.1f} s  {word:7}  {name}")
        print(f"{time.monotonic() - self._began:8.1f} s  in all", flush=True)
        return 1 if any(word == "FAILED" for _, _, word in self._results) else 0


def _call(command: list[str], env: Mapping[str, str], limit: float | None) -> int:
    """Run a command; one that does not end in time is told to, and then made to."""
    process = subprocess.Popen(command, env=env, cwd=bootstrap.REPOSITORY)
    try:
        return process.wait(limit)
    except subprocess.TimeoutExpired:
        print(f"=== not over after {limit:.0f} s", flush=True)
        return 124
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process that is not wanted any more, so that it stops what it has started."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)  # pytest closes its fixtures then
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(120)
    if process.poll() is None:
        process.kill()
        process.wait()


def main(argv: list[str]) -> int:
    mode = argv[0] if argv[:1] in (["services"], ["realcloud"]) else ""
    options, pytest_args = _parser().parse_known_args(argv[1:] if mode else argv)
    state_dir = options.state_dir.resolve()
    log_dir = state_dir / "logs"
    log_dir.mkdir(parents=True, exist_ok=True)
    if options.servers_only:
        return serve(log_dir)
    venv = bootstrap.Venv(state_dir / "venv")
    parts = Parts({**venv.environ(), "CML_TEST_STATE_DIR": str(state_dir), "CML_TEST_IMAGES_DIR": str(state_dir / "images")})
    pytest = [str(venv.python), "-m", "pytest", "--durations=10", *pytest_args]
    fine = (0, _NOTHING_SELECTED) if pytest_args else (0,)
    harness = options.cloud_harness.resolve() if options.cloud_harness else None
    if mode != "realcloud":
        run_here(parts, venv, pytest, fine, state_dir, with_services=mode == "services")
    if mode == "realcloud" or harness:
        realcloud.run(parts, venv, pytest, fine, harness, state_dir)
    elif mode == "services":
        parts.leave_out("realcloud", "THE TESTS ON A REAL OPENSTACK: no --cloud-harness; see tools/run-tests realcloud")
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


def run_here(parts: Parts, venv: bootstrap.Venv, pytest: list[str], fine: tuple[int, ...], state_dir: Path, *, with_services: bool) -> None:
    """Run the checks, and the tests that make do with the local cloud."""
    parts.run("ruff", [venv.command("ruff"), "check", "."])
    parts.run("mypy", [venv.command("mypy")])
    parts.run("unit", [*pytest, "tests/unit"], fine=fine)
    if parts.run("images", [venv.command("cml-nova-localcloud"), "image", "build", *IMAGES, "--state-dir", str(state_dir)]):
        parts.run("functional", [*pytest, "tests/functional"], fine=fine)
        parts.run("contract", [*pytest, "tests/contract"], fine=fine)
        run_clients(parts, pytest, fine, state_dir / "logs", must=with_services)
        if with_services:
            run_services(parts, pytest, fine, state_dir / "logs")


def run_clients(parts: Parts, pytest: list[str], fine: tuple[int, ...], log_dir: Path, *, must: bool) -> None:
    """Run the tests of the clients with the newest packages and, beside that, with Debian's: most of their time goes to starting commands.

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
    parts.run_together({f"clients with {name}": ([*pytest, "tests/clients"], {"CML_TEST_CLIENTS": side}) for name, side in sides.items()},
                       log_dir, fine)


def run_services(parts: Parts, pytest: list[str], fine: tuple[int, ...], log_dir: Path) -> None:
    """Run what needs real servers: its own tests, the kill sweep and what else does harm, and the functional suite with separate daemons
    on each database."""
    try:
        with servers.all_servers(log_dir) as urls, contextlib.ExitStack() as stack:
            together = {name: ([*pytest, f"tests/{name}"], urls) for name in ("chaos", "services")}
            for variable in ("CML_TEST_MYSQL_URL", "CML_TEST_POSTGRES_URL"):
                broker = servers.start_rabbitmq(log_dir)  # one each: stacks that share a broker take each other's messages
                stack.callback(broker.stop)
                env = {**urls, "CML_TEST_STACK": "daemons", "CML_TEST_RABBIT_URL": broker.url, "CML_TEST_DATABASE_URL": urls[variable]}
                together[f"functional over RabbitMQ and {servers.SERVERS[variable][0]}"] = ([*pytest, "tests/functional"], env)
            parts.run_together(together, log_dir, fine)
    except bootstrap.BootstrapError as error:
        parts.fail("services", str(error))


def serve(log_dir: Path) -> int:
    """Keep private servers running for someone who runs pytest by hand."""
    with servers.all_servers(log_dir) as urls, contextlib.suppress(KeyboardInterrupt):
        for variable, url in urls.items():
            print(f"export {variable}={url}", flush=True)
        print("Stop with Ctrl-C.", flush=True)
        signal.pause()
    return 0


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _interrupt)  # so that servers are stopped then, too
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except bootstrap.BootstrapError as error:
        sys.exit(f"run-tests: {error}")
