"""Parts of a long run: each is a command. Says at the end how long each took and how it ended."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import bootstrap

#: what pytest returns when the given options select no test of a part
_NOTHING_SELECTED = 5


@dataclass(frozen=True)
class Part:
    """A command, and how it is judged.

    :ivar env: variables beside those of all parts.
    :ivar fine: exit codes of a part that went well.
    :ivar limit: seconds after which it is ended, and has failed.
    :ivar needs: name of a part without which it is not begun; it comes before this one in the same queue, or has ended.
    """

    command: list[str]
    env: Mapping[str, str] = field(default_factory=dict)
    fine: tuple[int, ...] = (0,)
    limit: float | None = None
    needs: str | None = None


#: by name
Queue = dict[str, Part]


@dataclass(frozen=True)
class Tests:
    """Makes parts of tests.

    :ivar pytest: the command.
    :ivar options: of whoever runs the tests; they may choose none of a part's.
    """

    pytest: list[str]
    options: list[str]

    def part(self, path: str, env: Mapping[str, str] | None = None, *, limit: float | None = None, needs: str | None = None) -> Part:
        """Make a part of the tests below a path; see Part."""
        fine = (0, _NOTHING_SELECTED) if self.options else (0,)
        return Part([*self.pytest, *self.options, path], env or {}, fine, limit, needs)


@dataclass
class _Running:
    """A part that runs beside others: from which queue, and since when by the monotonic clock."""

    part: Part
    queue: int
    process: subprocess.Popen[bytes]
    output: IO[str]
    began: float

    @property
    def late(self) -> bool:
        return self.part.limit is not None and time.monotonic() - self.began > self.part.limit


class Parts:
    """Runs parts and keeps the score; one that fails stops only those that need it."""

    def __init__(self, env: Mapping[str, str], log_dir: Path) -> None:
        self._env = env
        self._log_dir = log_dir
        self._began = time.monotonic()
        self._results: list[tuple[str, float, str]] = []

    def run(self, name: str, part: Part) -> bool:
        """Run a part to its end, and show what it prints as it does; tell whether it went well."""
        if not self._may_begin(name, part):
            return False
        print(f"\n=== {name}: {' '.join(Path(word).name if i == 0 else word for i, word in enumerate(part.command))}", flush=True)
        began = time.monotonic()
        process = subprocess.Popen(part.command, env={**self._env, **part.env}, cwd=bootstrap.REPOSITORY)
        try:
            code = process.wait(part.limit)
        except subprocess.TimeoutExpired:
            code = self._not_over(name, part)
        finally:
            _end(process)
        return self._note(name, part, code, time.monotonic() - began)

    def run_together(self, queues: Sequence[tuple[Queue, int]]) -> None:
        """Run several parts at a time: each waits much of the time for something. What one prints is shown when it has ended.

        :param queues: parts that are run in this order, and how many of them at a time.
        """
        waiting, running = [dict(queue) for queue, _ in queues], dict[str, _Running]()
        with contextlib.ExitStack() as stack:
            while any(waiting) or running:
                for number, (_, lanes) in enumerate(queues):
                    while waiting[number] and sum(one.queue == number for one in running.values()) < lanes:
                        name, part = next(iter(waiting[number].items()))
                        del waiting[number][name]
                        if self._may_begin(name, part):
                            running[name] = self._begin(name, part, number, stack)
                time.sleep(0.2)
                for name, one in [item for item in running.items() if item[1].late or item[1].process.poll() is not None]:
                    del running[name]
                    self._finish(name, one)

    def _may_begin(self, name: str, part: Part) -> bool:
        if part.needs is None or any(result[0] == part.needs and result[2] == "ok" for result in self._results):
            return True
        self.leave_out(name, f"{part.needs} failed")
        return False

    def _begin(self, name: str, part: Part, queue: int, stack: contextlib.ExitStack) -> _Running:
        """Begin a part that runs beside others. :param stack: ends it, and closes its output."""
        print(f"\n=== {name}: begun", flush=True)
        log = self._log_dir / f"part-{name.replace(': ', '-').replace(' ', '-')}.log"
        output = stack.enter_context(log.open("w+"))
        process = subprocess.Popen(part.command, env={**self._env, **part.env}, cwd=bootstrap.REPOSITORY, stdout=output,
                                   stderr=subprocess.STDOUT)
        stack.callback(_end, process)
        return _Running(part, queue, process, output, time.monotonic())

    def _finish(self, name: str, one: _Running) -> None:
        code = one.process.poll()
        _end(one.process)
        one.output.seek(0)
        print(f"\n=== {name}\n{one.output.read()}", flush=True)
        self._note(name, one.part, self._not_over(name, one.part) if code is None else code, time.monotonic() - one.began)

    def _not_over(self, name: str, part: Part) -> int:
        print(f"=== {name}: not over after {part.limit:.0f} s", flush=True)
        return 124

    def _note(self, name: str, part: Part, code: int, seconds: float) -> bool:
        word = "ok" if code in part.fine else "FAILED"
        self._results.append((name, seconds, word))
        print(f"=== {name}: {word if code in part.fine else f'FAILED (code {code})'} after {seconds:.1f} s", flush=True)
        return code in part.fine

    def fail(self, name: str, reason: str) -> None:
        """Note a part that can't be run and has to be."""
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


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process that is not wanted any more, so that it stops what it has started."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)  # pytest closes its fixtures then
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(120)
    if process.poll() is None:
        process.kill()
        process.wait()
