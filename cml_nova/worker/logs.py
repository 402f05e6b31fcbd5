"""Saves the logs of tasks as they come in, and finds the values that trainings report in them."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from cml_nova.storage import Storage
from cml_nova.storage.base import log_key
from cml_nova.storage.times import TimesWriter

_MARK = b"CML_METRIC "
#: a line longer than this is saved in pieces
_LONGEST_LINE = 64 * 1024
_LONGEST_NAME = 128
_LOOK_BACK = 1024 * 1024
_LONGEST_TAIL = 16 * 1024


def parse_metric(line: bytes) -> dict[str, Any] | None:
    """Read a line ``CML_METRIC {"name": str, "value": number, "step": int (may be missing)}``; None for any other line."""
    if not line.startswith(_MARK):
        return None
    try:
        found = json.loads(line[len(_MARK):])
        name, value, step = found["name"], float(found["value"]), found.get("step")
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    if not isinstance(name, str) or not 0 < len(name) <= _LONGEST_NAME or not math.isfinite(value):
        return None
    return {"name": name, "value": value, "step": step if isinstance(step, int) and abs(step) < 2**62 else None}


@dataclass
class _Tail:
    """The begun line of a log: not saved until it is complete, so that a resumed log starts with a whole line."""

    offset: int
    times: TimesWriter
    data: bytes = b""


class LogSaver:
    """Saves pieces of logs under (attempt, task, offset) and gathers the metrics in them. Thread-safe between tasks."""

    def __init__(self, storage: Storage, job_id: str) -> None:
        self._storage = storage
        self._job_id = job_id
        self._tails: dict[tuple[int, str], _Tail] = {}
        self._metrics: list[dict[str, Any]] = []
        self._lock = threading.Lock()

    def resume(self, attempt: int, task: str) -> int:
        """Say from which offset the log is wanted: where what is saved ends.

        A worker before this one may have died between saving the last lines and reporting their metrics, so those are gathered
        again; reporting one twice is harmless. And it may save some more before it knows that the job is another's.
        """
        key = log_key(self._job_id, attempt, task)
        offset = self._storage.size(key) or 0
        known = self._tails.get((attempt, task))
        start = known.offset if known else max(0, offset - _LOOK_BACK)
        if offset > start:
            saved = self._storage.read(key, start, offset - start)
            whole_lines = saved if known or start == 0 else saved[saved.find(b"\n") + 1:]
            self._gather(attempt, task, offset - len(whole_lines), whole_lines)
        self._tails[attempt, task] = _Tail(offset, TimesWriter(self._storage, key, offset))
        return offset

    def add(self, attempt: int, task: str, offset: int, data: bytes, times: Iterable[tuple[int, float]] = ()) -> None:
        """Take the piece of a log that starts at ``offset``; pieces come in order from where ``resume`` said.

        :param times: from which offsets on it came when, in seconds since 1970.
        """
        tail = self._tails[attempt, task]
        expected = tail.offset + len(tail.data)
        if offset != expected:
            raise ValueError(f"log of {task} goes on at {offset} instead of {expected}")
        data = tail.data + data
        end = max(data.rfind(b"\n"), data.rfind(b"\r")) + 1
        if not end and len(data) > _LONGEST_LINE:
            end = len(data)
        tail.data = data
        tail.times.add(times)  # before the text: what can be read has its time
        self._save(attempt, task, tail, end)

    def finish(self, attempt: int, task: str) -> None:
        """Save what is left of a log that won't grow any more."""
        tail = self._tails[attempt, task]
        self._save(attempt, task, tail, len(tail.data))

    def last_lines(self, attempt: int, task: str, count: int) -> list[str]:
        """Give the last lines that are saved of a log."""
        key = log_key(self._job_id, attempt, task)
        size = self._storage.size(key) or 0
        start = max(0, size - _LONGEST_TAIL)
        return self._storage.read(key, start, size - start).decode(errors="replace").splitlines()[-count:]

    def has_metrics(self) -> bool:
        """Tell whether there are metrics to take."""
        return bool(self._metrics)

    def take_metrics(self) -> list[dict[str, Any]]:
        """Give the metrics gathered since the last call; ``at`` is by this process's monotonic clock."""
        with self._lock:
            found, self._metrics = self._metrics, []
        return found

    def _save(self, attempt: int, task: str, tail: _Tail, end: int) -> None:
        piece = tail.data[:end]
        if not piece:
            return
        self._gather(attempt, task, tail.offset, piece)
        self._storage.write_at(log_key(self._job_id, attempt, task), tail.offset, piece)
        tail.offset, tail.data = tail.offset + end, tail.data[end:]

    def _gather(self, attempt: int, task: str, offset: int, piece: bytes) -> None:
        if _MARK not in piece:
            return
        found = []
        for line in piece.splitlines(keepends=True):
            metric = parse_metric(line)
            if metric:
                found.append({**metric, "attempt": attempt, "task": task, "offset": offset, "at": time.monotonic()})
            offset += len(line)
        with self._lock:
            self._metrics += found
