"""The ``openstack`` command with our plugin: that of this environment, and that of the distribution's packages."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import cml_nova

#: what Debian 12 has: python-openstackclient 6.0, openstacksdk 0.101
FLOOR_COMMAND = Path("/usr/bin/openstack")
FLOOR_PYTHON = "/usr/bin/python3"


@dataclass(frozen=True)
class Done:
    """What a command has said, and how it ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The standard output; :raises AssertionError: it is not JSON and nothing else."""
        try:
            return json.loads(self.out)
        except ValueError:
            raise AssertionError(f"no pure JSON: {self.out!r}\n{self.err}") from None


class Openstack:
    """The command for a user of the cloud under test.

    :param command: the program and what comes before all arguments.
    :param clouds: the clouds.yaml.
    :param env: more of the environment.
    :param python: that it runs with.
    """

    def __init__(self, command: Sequence[str], clouds: Path, cloud: str, env: Mapping[str, str], python: str) -> None:
        self.command, self.clouds, self.cloud, self.python = command, clouds, cloud, python
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("OS_", "PYTHON"))}
        self.env = {**kept, "OS_CLIENT_CONFIG_FILE": str(clouds), "COLUMNS": "200", **env}

    def start(self, *args: str, cloud: str | None = None, stdout: int | IO[bytes] = subprocess.PIPE,
              stderr: int | IO[bytes] = subprocess.PIPE) -> Running:
        """Start the command and go on."""
        return Running([*self.command, "--os-cloud", cloud or self.cloud, *args], self.env, stdout, stderr)

    def script(self, path: Path, *args: str) -> Running:
        """Start a script that uses the same client library."""
        return Running([self.python, str(path), *args], {**self.env, "OS_CLOUD": self.cloud}, subprocess.PIPE, subprocess.PIPE)

    def run(self, *args: str, cloud: str | None = None, stdin: str = "", timeout: float = 120, cwd: Path | None = None,
            env: Mapping[str, str] | None = None) -> Done:
        """Run the command, whatever comes of it."""
        done = subprocess.run([*self.command, "--os-cloud", cloud or self.cloud, *args], input=stdin, capture_output=True, text=True,
                              check=False, timeout=timeout, cwd=cwd, env={**self.env, **(env or {})})
        return Done(done.returncode, done.stdout, done.stderr)

    def __call__(self, *args: str, **how: Any) -> Done:
        """Run the command. :raises AssertionError: it failed."""
        done = self.run(*args, **how)
        assert done.code == 0, f"{args}: {done.code}\n{done.out}\n{done.err}"
        return done

    def json(self, *args: str, **how: Any) -> Any:
        """Run the command with ``-f json``; give what it prints."""
        return self(*args, "-f", "json", **how).json


class Running:
    """A command that has not ended yet. What it says is read as it comes."""

    def __init__(self, command: list[str], env: Mapping[str, str], stdout: int | IO[bytes], stderr: int | IO[bytes]) -> None:
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, text=True, env=dict(env))
        self._out, self._err = _Reader(self.process.stdout), _Reader(self.process.stderr)

    def line(self) -> str:
        """Wait for a line of the standard output, and give it without its end."""
        return self._out.line()

    def arrival(self) -> tuple[float, str]:
        """Wait for a line of the standard output; give it, and when it was there, in seconds since 1970."""
        return self._out.arrival()

    def error_line(self) -> str:
        """Wait for a line of the standard error, and give it without its end."""
        return self._err.line()

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        self.process.send_signal(signal.SIGINT)

    def end(self, timeout: float = 60) -> Done:
        """Wait for its end; give what it has said that was not given yet."""
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"not over after {timeout} s: {self._out.rest()}\n{self._err.rest()}") from None
        return Done(self.process.returncode, self._out.rest(), self._err.rest())

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *exc: object) -> None:
        self.process.kill()
        self.process.wait()


class _Reader:
    """Reads lines of a pipe, so that it never fills up."""

    def __init__(self, pipe: IO[str] | None) -> None:
        self._lines: queue.Queue[tuple[float, str]] = queue.Queue()
        self._thread = threading.Thread(target=self._read, args=(pipe,), daemon=True)
        self._thread.start()

    def _read(self, pipe: IO[str] | None) -> None:
        if pipe is not None:
            with pipe:
                for line in pipe:
                    self._lines.put((time.time(), line))

    def arrival(self) -> tuple[float, str]:
        """:raises queue.Empty: none has come for a minute."""
        at, line = self._lines.get(timeout=60)
        return at, line.rstrip("\n")

    def line(self) -> str:
        return self.arrival()[1]

    def rest(self) -> str:
        self._thread.join(60)
        return "".join(self._lines.get_nowait()[1] for _ in range(self._lines.qsize()))


def ceiling(clouds: Path, cloud: str) -> Openstack:
    """Give the command of the environment that the tests run in: the newest releases."""
    return Openstack([str(Path(sys.executable).parent / "openstack")], clouds, cloud, {}, sys.executable)


def floor(clouds: Path, cloud: str, directory: Path) -> Openstack:
    """Give the distribution's command, with our plugin beside it and nothing else of this environment.

    :param directory: gets links to our package and to what is known of its entry points.
    :raises AssertionError: the distribution's packages are not installed.
    """
    assert FLOOR_COMMAND.exists(), (
        f"{FLOOR_COMMAND} is missing: the clients are tested with the distribution's packages; apt-get install python3-openstackclient, "
        f"or let tools/run-tests do it")
    directory.mkdir(parents=True, exist_ok=True)
    package = Path(cml_nova.__file__).parent
    [information] = Path(sysconfig.get_path("purelib")).glob("cml_nova-*.dist-info")
    for path in (package, information):
        (directory / path.name).symlink_to(path)
    return Openstack([FLOOR_PYTHON, str(FLOOR_COMMAND)], clouds, cloud, {"PYTHONPATH": str(directory)}, FLOOR_PYTHON)
