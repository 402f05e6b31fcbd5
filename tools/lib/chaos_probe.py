"""Counts the side effects of a daemon, and ends the daemon by SIGKILL just after the one that it was told. Runs inside of daemons.

The tool and the daemons talk by files in one directory, which a SIGKILL can't garble:

- ``control.json``, replaced whole by the tool: which run this is, and after which effect to die;
- ``effects.log``: a line for each effect, appended in one write;
- ``killed-<run>``: made just before the kill, so that a daemon dies once a run, however often it is started again;
- ``up-<pid>``: the daemon is at work.
"""

from __future__ import annotations

import json
import os
import signal
import threading
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, order=True)
class Point:
    """The ``number``-th time that a side effect of this name took place in a run. Names start with the role of the daemon."""

    name: str
    number: int

    def __str__(self) -> str:
        return f"{self.name} #{self.number}"


class Board:
    """The tool's side of the files."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._effects = directory / "effects.log"
        self._effects.touch()

    def begin(self, run: str, victim: Point | None) -> None:
        """From now on all effects belong to this run; a daemon is to die after ``victim``, none if that is None."""
        new = self.directory / "control.new"
        new.write_text(json.dumps({"run": run, "victim": victim and asdict(victim)}))
        new.replace(self.directory / "control.json")

    def effects(self, run: str) -> list[str]:
        """List the names of all effects of a run, in order."""
        lines = (line.split("\t") for line in self._effects.read_text().splitlines())
        return [name for of_run, _, name in lines if of_run == run]

    def killed(self, run: str) -> bool:
        """Tell whether a daemon has killed itself in a run."""
        return (self.directory / f"killed-{run}").exists()

    def up(self, pid: int) -> bool:
        """Tell whether the daemon of a process is at work."""
        return (self.directory / f"up-{pid}").exists()


class Probe:
    """The daemon's side. Thread-safe: while one thread dies for all, no other gets any further with its effects."""

    def __init__(self, directory: Path, role: str) -> None:
        self._directory = directory
        self._role = role
        self._control = directory / "control.json"
        self._effects = os.open(directory / "effects.log", os.O_WRONLY | os.O_APPEND)
        self._lock = threading.Lock()
        self._seen: tuple[int, int] | None = None
        self._run = ""
        self._victim: Point | None = None
        self._counts: Counter[str] = Counter()

    def hit(self, effect: str) -> None:
        """Note that a side effect has taken place; if it is the one to die after, this does not return."""
        with self._lock:
            self._read_control()
            name = f"{self._role} {effect}"
            self._counts[name] += 1
            os.write(self._effects, f"{self._run}\t{os.getpid()}\t{name}\n".encode())
            if self._victim == Point(name, self._counts[name]):
                self._die()

    def up(self) -> None:
        """Note that the daemon is at work."""
        (self._directory / f"up-{os.getpid()}").touch()

    def _read_control(self) -> None:
        status = self._control.stat()
        if (status.st_ino, status.st_mtime_ns) == self._seen:
            return
        self._seen = (status.st_ino, status.st_mtime_ns)
        control = json.loads(self._control.read_text())
        if control["run"] != self._run:
            self._counts.clear()
        self._run = control["run"]
        self._victim = Point(**control["victim"]) if control["victim"] else None

    def _die(self) -> None:
        try:
            os.close(os.open(self._directory / f"killed-{self._run}", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return
        os.kill(os.getpid(), signal.SIGKILL)
