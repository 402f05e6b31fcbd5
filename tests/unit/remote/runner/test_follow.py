"""What is sent of a process that is followed."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cml_nova.remote.runner import follow, timestamps
from cml_nova.remote.runner.files import write_file
from cml_nova.remote.runner.logs import Log
from cml_nova.remote.runner.processes import age
from cml_nova.remote.runner.serialization import to_json
from cml_nova.remote.runner.tasks import Task


def test_what_is_sent_of_a_log_has_few_times_a_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (follow, timestamps):
        monkeypatch.setattr(module, "MOST_TIMES", 2)
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    task = Task(str(tmp_path), 1, "worker:0")
    os.makedirs(task.path)
    log = Log(task.path, 100)
    for _ in range(5):
        log.keep(b"x\n")
        now[0] += 1
    for fd in (log.fd, log.wake, log.times.fd):
        os.close(fd)
    sent: list[tuple[dict[str, Any], bytes]] = []
    connection = SimpleNamespace(relaxed=lambda: True, send=lambda header, body: sent.append((header, body)))
    stream = follow.Follow(connection, 7, str(tmp_path), {}, 1 << 20, 0)  # type: ignore[arg-type]
    assert stream.send_log(task, (1, "worker:0"))
    assert [(header["offset"], header["times"], body) for header, body in sent] == [
        (0, [[0, 5.0], [2, 4.0]], b"x\nx\n"), (4, [[4, 3.0], [6, 2.0]], b"x\nx\n"), (8, [[8, 1.0]], b"x\n")]


def test_silence_is_measured_between_looks_and_not_by_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = Task(str(tmp_path), 1, "worker:0")
    os.makedirs(task.path)
    log, heartbeat = Path(task.file("log")), Path(task.file("heartbeat"))
    log.touch()
    write_file(task.file("state.json"), to_json({"state": "RUNNING", "supervisor": os.getpid()}).encode())
    clock = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    stream = follow.Follow(None, 1, str(tmp_path), {}, 0, 5)  # type: ignore[arg-type]
    os.utime(log, (0, 0))
    first, beats = stream.idle(task)
    assert 0 < first <= age(os.getpid()) + 0.1 and not beats, "no longer than the process lives, whatever the clock says"
    clock[0] += 30
    assert stream.idle(task)[0] == pytest.approx(first + 30, abs=0.2)
    os.utime(log, (2 ** 31, 2 ** 31))
    assert stream.idle(task) == (0.0, False), "a new line, be its time in the future"
    clock[0] += 7
    assert stream.idle(task) == (7.0, False)
    heartbeat.touch()
    assert stream.idle(task) == (0.0, True)
