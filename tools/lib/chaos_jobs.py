"""The jobs of a sweep: what runs on their nodes, what is done to them, and how they have to end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from chaos_ledger import Ledger
from chaos_stack import ChaosStack

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

#: "endless" with the number of an attempt: that one goes on until it is told otherwise by the ledger, and fails then
_TRAIN = f'''
import itertools
import json
import os
import select
import sys
import time
import ledger

attempt, task = os.environ["CML_ATTEMPT"], os.environ["CML_ROLE"] + ":" + os.environ["CML_ROLE_INDEX"]
entry = ledger.enter(attempt, task)
assert os.path.exists("was-set-up")
print("begin", attempt, task, flush=True)
endless = sys.argv[1:] == ["endless", attempt]
for number in itertools.count() if endless else range({LINES}):
    print("line", number, flush=True)
    if number % {METRIC_EVERY} == 0:
        print("CML_METRIC", json.dumps({{"name": "loss", "value": 1 / (number + 1), "step": number}}), flush=True)
        with open(os.path.join(os.environ["CML_CHECKPOINT_DIR"], "step"), "w") as file:
            file.write(str(number))
    time.sleep(0.02)
    if endless and task == "worker:1" and select.select([entry], [], [], 0)[0]:
        print("fail", attempt, task, flush=True)
        sys.exit(3)
with open(os.path.join(os.environ["CML_OUTPUT_DIR"], "model.txt"), "w") as file:
    file.write("model of {{}} after {{}} lines\\n".format(task, {LINES}) * 1000)
print("end", attempt, task, flush=True)
'''

FILES = {"ledger.py": _ENTER, "setup.py": _SETUP, "train.py": _TRAIN}

#: does something to a job that runs: stack, ledger, run, job's id
Act = Callable[[ChaosStack, Ledger, str, str], None]


@dataclass(frozen=True)
class Scenario:
    """A job, what is done to it, and its end.

    :ivar act: done when both processes run; its points are those from then on. Without it they are all points of the job.
    :ivar points_until: the last effect that has a part of this name is the last point: what comes then is as in other jobs.
    :ivar status: how it has to end.
    :ivar attempts: how many it has to have. All but the last go on until they are stopped, and that one, too, if it is cancelled.
    :ivar last_words: of tasks of the first attempt that end by themselves.
    :ivar setups: how often the setup runs, on all nodes together.
    :ivar columns: of the job's row at its end.
    :ivar by_chance: parts of the names of effects that come or don't, as it happens: they are no points.
    """

    act: Act | None = None
    points_until: str | None = None
    status: str = "SUCCEEDED"
    attempts: int = 1
    last_words: dict[str, str] = field(default_factory=dict)
    setups: int = len(TASKS)
    document: dict[str, Any] = field(default_factory=dict)
    columns: dict[str, int] = field(default_factory=dict)
    by_chance: tuple[str, ...] = ()

    @property
    def processes(self) -> list[tuple[int, str]]:
        """Attempt and task of all processes, sorted."""
        return sorted([(0, "setup")] * self.setups + [(attempt, task) for attempt in range(1, self.attempts + 1) for task in TASKS])


def _cancel(stack: ChaosStack, ledger: Ledger, run: str, job_id: str) -> None:
    stack.client.cancel(job_id)


def _fail(stack: ChaosStack, ledger: Ledger, run: str, job_id: str) -> None:
    ledger.release(run)


def _lose(stack: ChaosStack, ledger: Ledger, run: str, job_id: str) -> None:
    [server] = [node["server_id"] for node in stack.client.nodes(job_id) if node["rank"] == 1]
    stack.cloud.fault("server", server=server, fault="vanish")


_ENDLESS = {"command": "python3 train.py endless 1"}
_SECOND_START = "ssh start 2 "

SCENARIOS = {
    "train": Scenario(),
    "cancel": Scenario(act=_cancel, status="CANCELLED", document=_ENDLESS),
    "retry": Scenario(act=_fail, points_until=_SECOND_START, attempts=2, last_words={"worker:1": "fail 1 worker:1\n"},
                      document={**_ENDLESS, "max_restarts": 1}, columns={"error_restarts": 1}),
    # What the lost node had said last is in the log before or after it is lost.
    "lost": Scenario(act=_lose, points_until=_SECOND_START, attempts=2, setups=len(TASKS) + 1, document=_ENDLESS,
                     columns={"infra_restarts": 1}, by_chance=("logs/1/worker-1",)),
}


def document(scenario: Scenario, run: str, ledger: Ledger) -> dict[str, Any]:
    """Give the document of a job on two nodes, with setup, log, metrics, outputs and a checkpoint."""
    return {
        "name": f"chaos {run}", "image": "plain", "flavor": "cpu.small", "workers": len(TASKS), "setup": "python3 setup.py",
        "command": "python3 train.py", "env": {"LEDGER": ledger.address, "RUN": run}, **scenario.document,
    }


SETUP_LOG = "".join(f"setup {number}\n" for number in range(SETUP_LINES))


def whole_log(attempt: int, task: str) -> str:
    """Give the log of a whole training."""
    return "\n".join([*_lines(attempt, task, LINES), f"end {attempt} {task}", ""])


def log_until(attempt: int, task: str, log: str, last_words: str) -> str:
    """Give what the log of a training should be that was ended after as many lines as it has; the last may be torn."""
    count = log.count("\nline ")
    if last_words:
        return "\n".join(_lines(attempt, task, count)) + "\n" + last_words
    return ("\n".join(_lines(attempt, task, count + 1)) + "\n")[:len(log)]


def _lines(attempt: int, task: str, count: int) -> Sequence[str]:
    """Give what a training prints that gets as far as ``count`` lines."""
    lines = [f"begin {attempt} {task}"]
    for number in range(count):
        lines.append(f"line {number}")
        if number % METRIC_EVERY == 0:
            lines.append(f'CML_METRIC {{"name": "loss", "value": {1 / (number + 1)!r}, "step": {number}}}')
    return lines


def artifacts() -> dict[str, bytes]:
    """Give the contents of what a training leaves."""
    found = {}
    for task in TASKS:
        place = task.replace(":", "-")
        found[f"output/{place}/model.txt"] = f"model of {task} after {LINES} lines\n".encode() * 1000
        found[f"checkpoints/{place}/step"] = str((LINES - 1) // METRIC_EVERY * METRIC_EVERY).encode()
    return found
