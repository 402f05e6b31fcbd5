"""A daemon under test: a process of its own, its output in a file."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.harness.waiting import until


class Daemon:
    """A process that is started, killed and started again.

    :param command: its program, of those that are installed with the service, and arguments; like ``env`` it may be changed before a start.
    :param env: over ours.
    :param family: it has processes of its own, which are killed with it, as systemd does with all of a unit.
    """

    def __init__(self, name: str, command: Sequence[str], log_path: Path, env: Mapping[str, str] | None = None, *,
                 family: bool = False) -> None:
        self.name = name
        self.log_path = log_path
        self.command = list(command)
        self.env = {**os.environ, **(env or {})}
        self._family = family
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None, f"{self.name} was not started"
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it. Whoever needs it ready waits for that in the way that its clients see."""
        assert not self.alive, f"{self.name} runs already"
        command = [str(Path(sys.executable).parent / self.command[0]), *self.command[1:]]
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.env,
                                             start_new_session=self._family)

    def kill(self) -> None:
        """End it the way that leaves it no time for anything."""
        assert self._process is not None and self.alive, f"{self.name} is dead already; its log: {self.log_path}"
        self._kill(self._process)

    def stop(self, timeout: float = 45) -> int:
        """Ask it to end, and give its exit code. :raises AssertionError: it does not end in time; it is killed then."""
        if self._process is None:
            return 0
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._kill(self._process)
            raise AssertionError(f"{self.name} did not end within {timeout} s of TERM; its log: {self.log_path}") from None

    def _kill(self, process: subprocess.Popen[bytes]) -> None:
        if self._family:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        process.wait()
        # its children may take a moment longer, and hold the port that a successor wants
        until(lambda: not self._family or not _group_lives(process.pid), 30, f"the end of all processes of {self.name}")

    def check(self) -> None:
        """:raises AssertionError: it has ended by itself."""
        assert self.alive, f"{self.name} ended by itself; the end of its log:\n{tail(self.log_path)}"


def _group_lives(group: int) -> bool:
    """Tell whether a process group has a member that is more than a zombie.

    A process of several threads looks like one as soon as its first thread has ended; until the last has, its sockets are open.
    """
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        state, member_of, threads = fields[0], int(fields[2]), int(fields[17])
        if member_of == group and (state not in "ZX" or threads > 1):
            return True
    return False


def tail(path: Path, size: int = 6000) -> str:
    """Give the end of a file."""
    if not path.exists():
        return "(no log)"
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - size))
        return file.read().decode(errors="replace")


def free_port() -> int:
    """Give a TCP port of the loopback address that was free just now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
