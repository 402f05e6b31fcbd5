"""Tiny training scripts, and a gate at which they wait for the test.

A script connects to the gate, says which task and attempt it is and under which process id, and goes on when the test lets
it. So a test knows that a process runs, that it was started once, and that it is still the same one.
"""

from __future__ import annotations

import socket
import threading
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from tests.harness.waiting import until

#: goes into every package beside the script; ``gate.wait()`` blocks until the test opens the gate and gives what it said
GATE_MODULE = '''
import os
import socket

def wait():
    host, port = os.environ["GATE"].split(":")
    with socket.create_connection((host, int(port))) as connection:
        task = os.environ.get("CML_ROLE", "?") + ":" + os.environ.get("CML_ROLE_INDEX", "?")
        connection.sendall("{} {} {}\\n".format(task, os.environ.get("CML_ATTEMPT", "0"), os.getpid()).encode())
        return connection.makefile().readline().strip()
'''

#: prints a line, waits at the gate, ends as the gate says ("go" or "exit N")
WAIT = '''
import sys
import gate

print("started", flush=True)
word = gate.wait()
print("gate said", word, flush=True)
sys.exit(int(word.split()[1]) if word.startswith("exit") else 0)
'''

#: prints numbered lines until the gate opens, then how many there were
TICK = '''
import threading
import time
import gate

opened = threading.Event()
threading.Thread(target=lambda: (gate.wait(), opened.set()), daemon=True).start()
count = 0
while not opened.is_set():
    print("line", count, flush=True)
    count += 1
    time.sleep(0.02)
print("lines", count, flush=True)
'''


#: makes an output, ``big``, that takes a moment to collect
BIG_OUTPUT = '''
import os

with open(os.path.join(os.environ["CML_OUTPUT_DIR"], "big"), "wb") as file:
    for _ in range(300):
        file.write(os.urandom(1 << 20))
'''


def ticked(lines: int) -> list[str]:
    """Give what ``TICK`` has printed when it has ended with so many lines."""
    return [*(f"line {number}" for number in range(lines - 1)), f"lines {lines - 1}"]


@dataclass(frozen=True)
class Visitor:
    """A process at the gate."""

    task: str
    attempt: int
    pid: int


class Gate:
    """Where scripts wait. ``with Gate() as gate: ... gate.open()``."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Lock()
        self._waiting: list[tuple[Visitor, socket.socket]] = []
        self._seen: list[Visitor] = []
        self._word: str | None = None

    @property
    def env(self) -> dict[str, str]:
        """What the job's environment needs for its scripts to find the gate."""
        return {"GATE": f"127.0.0.1:{self._listener.getsockname()[1]}"}

    def files(self, script: str) -> dict[str, str]:
        """Give the files of a package with the script as train.py."""
        return {"train.py": script, "gate.py": GATE_MODULE}

    @property
    def visitors(self) -> list[Visitor]:
        """All processes that ever came."""
        with self._lock:
            return list(self._seen)

    def expect(self, count: int, timeout: float = 60) -> list[Visitor]:
        """Wait until so many processes have come in all."""
        return until(lambda: self.visitors if len(self.visitors) >= count else [], timeout, f"{count} processes at the gate")

    def open(self, word: str = "go", task: str | None = None) -> None:
        """Let those that wait go on, all or one task's; all that come later, too, if all."""
        with self._lock:
            if task is None:
                self._word = word
            staying = []
            for visitor, connection in self._waiting:
                if task in (None, visitor.task):
                    _say(connection, word)
                else:
                    staying.append((visitor, connection))
            self._waiting = staying

    def __enter__(self) -> Gate:
        threading.Thread(target=self._serve, name="gate", daemon=True).start()
        return self

    def __exit__(self, *exc: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        self._listener.close()
        self.open("exit 99")

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            line = connection.makefile().readline().split()
            if len(line) != 3:
                connection.close()
                continue
            visitor = Visitor(line[0], int(line[1]), int(line[2]))
            with self._lock:
                self._seen.append(visitor)
                if self._word is None:
                    self._waiting.append((visitor, connection))
                    continue
            _say(connection, self._word)


def _say(connection: socket.socket, word: str) -> None:
    with connection:
        try:
            connection.sendall(word.encode() + b"\n")
        except OSError:
            return  # the process has gone away meanwhile


def document(**changes: Any) -> dict[str, Any]:
    """Give the document of a job that runs train.py of its package on two small machines."""
    return {"name": "test", "image": "plain", "flavor": "cpu.small", "workers": 2, "command": "python3 train.py", **changes}
