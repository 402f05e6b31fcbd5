"""The jobs of a sweep, and the ledger in which the processes on their nodes enter themselves."""

from __future__ import annotations

import socket
import threading
import time
from dataclasses import dataclass
from typing import Any

#: how many lines the training prints, and every how many there is a metric, and a checkpoint
LINES, METRIC_EVERY = 40, 10
SETUP_LINES = 5
TASKS = ("worker:0", "worker:1")

#: connects to the ledger; the kernel ends the connection with the process, however that ends
_ENTER = '''
import os
import socket

def enter(attempt, task):
    host, port = os.environ["LEDGER"].split(":")
    connection = socket.create_connection((host, int(port)))
    connection.sendall("{} {} {}\\n".format(os.environ["RUN"], attempt, task).encode())
    return connection
'''

_SETUP = f'''
import ledger

entry = ledger.enter(0, "setup")
for number in range({SETUP_LINES}):
    print("setup", number, flush=True)
open("was-set-up", "x").close()
'''

_TRAIN = f'''
import itertools
import json
import os
import sys
import time
import ledger

attempt, task = os.environ["CML_ATTEMPT"], os.environ["CML_ROLE"] + ":" + os.environ["CML_ROLE_INDEX"]
entry = ledger.enter(attempt, task)
assert os.path.exists("was-set-up")
print("begin", attempt, task, flush=True)
lines = itertools.count() if "endless" in sys.argv else range({LINES})
for number in lines:
    print("line", number, flush=True)
    if number % {METRIC_EVERY} == 0:
        print("CML_METRIC", json.dumps({{"name": "loss", "value": 1 / (number + 1), "step": number}}), flush=True)
        with open(os.path.join(os.environ["CML_CHECKPOINT_DIR"], "step"), "w") as file:
            file.write(str(number))
    time.sleep(0.02)
with open(os.path.join(os.environ["CML_OUTPUT_DIR"], "model.txt"), "w") as file:
    file.write("model of {{}} after {{}} lines\\n".format(task, {LINES}) * 1000)
print("end", attempt, task, flush=True)
'''

FILES = {"ledger.py": _ENTER, "setup.py": _SETUP, "train.py": _TRAIN}


def document(run: str, ledger: Ledger, *, endless: bool) -> dict[str, Any]:
    """Give the document of a job on two nodes, with code, setup, log, metrics, outputs and a checkpoint."""
    return {
        "name": f"chaos {run}", "image": "plain", "flavor": "cpu.small", "workers": 2, "setup": "python3 setup.py",
        "command": "python3 train.py" + (" endless" if endless else ""), "env": {"LEDGER": ledger.address, "RUN": run},
    }


def train_lines(task: str, count: int = LINES) -> list[str]:
    """Give the lines that a training prints which gets as far as ``count`` lines, without its end."""
    lines = [f"begin 1 {task}"]
    for number in range(count):
        lines.append(f"line {number}")
        if number % METRIC_EVERY == 0:
            lines.append(f'CML_METRIC {{"name": "loss", "value": {1 / (number + 1)!r}, "step": {number}}}')
    return lines


def train_log(task: str) -> str:
    """Give the log of a whole training."""
    return "\n".join([*train_lines(task), f"end 1 {task}", ""])


SETUP_LOG = "".join(f"setup {number}\n" for number in range(SETUP_LINES))


def artifacts() -> dict[str, bytes]:
    """Give the contents of what a training leaves."""
    found = {}
    for task in TASKS:
        place = task.replace(":", "-")
        found[f"output/{place}/model.txt"] = f"model of {task} after {LINES} lines\n".encode() * 1000
        found[f"checkpoints/{place}/step"] = str((LINES - 1) // METRIC_EVERY * METRIC_EVERY).encode()
    return found


@dataclass
class Entry:
    """A process on a node: of which run, what it was started as, and from when to when it lived (monotonic seconds)."""

    run: str
    attempt: int
    task: str
    began: float
    ended: float | None = None


class Ledger:
    """Where the processes on the nodes enter themselves, and stay connected to while they live."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=32)
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._entries: list[Entry] = []
        self._lock = threading.Lock()

    def entries(self, run: str) -> list[Entry]:
        """List the processes of a run in the order of their coming."""
        with self._lock:
            return [entry for entry in self._entries if entry.run == run]

    def __enter__(self) -> Ledger:
        threading.Thread(target=self._serve, name="ledger", daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._stay, args=(connection,), daemon=True).start()

    def _stay(self, connection: socket.socket) -> None:
        with connection, connection.makefile() as lines:
            run, attempt, task = lines.readline().split()
            entry = Entry(run, int(attempt), task, time.monotonic())
            with self._lock:
                self._entries.append(entry)
            try:
                lines.read()
            except OSError:
                pass  # reset: it was killed
            entry.ended = time.monotonic()
