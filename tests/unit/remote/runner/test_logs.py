"""A log and its times, on a full disk too."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cml_nova.remote.runner.logs import Log
from cml_nova.remote.runner.timestamps import ages


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    """The log of a task, with a limit of 100 bytes."""
    log = Log(str(tmp_path), 100)
    log.put_by()
    yield log
    for fd in (log.fd, log.wake, log.times.fd):
        os.close(fd)


def test_a_log_says_what_a_full_disk_has_cost_it(log: Log, tmp_path: Path) -> None:
    good, log.fd = log.fd, os.open("/dev/full", os.O_WRONLY)
    log.keep(b"lost")
    log.keep(b"lost too")
    os.close(log.fd)
    log.fd = good
    log.keep(b"kept\n")
    assert (tmp_path / "log").read_bytes() == (
        b"\ncml: 12 bytes of output are missing here: [Errno 28] No space left on device\nkept\n")
    assert log.said["log_truncated"] is True
    assert log.said["log_error"] == "[Errno 28] No space left on device"


def test_the_times_of_a_log_share_records_and_say_how_old_its_parts_are(
        log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, times = [1000.0], str(tmp_path / "times")
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    for at, line in ((1000.0, b"a\n"), (1000.05, b"b\n"), (1000.2, b"c\n"), (1007.0, b"d\n")):
        now[0] = at
        log.keep(line)
    now[0] = 1010.0
    assert ages(times, 0, 8) == [[0, 10.0], [4, 9.8], [6, 3.0]], "b came in the same moment as a"
    assert ages(times, 1, 6) == [[4, 9.8]]
    os.truncate(times, 40)
    assert ages(times, 0, 8) == [[0, 10.0], [4, 9.8]], "a torn one is none"
    os.unlink(times)
    assert ages(times, 0, 8) is None


def test_times_where_the_disk_was_full(log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, times = [1000.0], str(tmp_path / "times")
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    good, log.times.fd = log.times.fd, os.open("/dev/full", os.O_WRONLY)
    log.keep(b"a\n")
    os.close(log.times.fd)
    log.times.fd = good
    writable, log.fd = log.fd, os.open(tmp_path / "log", os.O_RDONLY)
    for now[0] in (1001.0, 1002.0):
        log.keep(b"no room\n")
    os.close(log.fd)
    log.fd = writable
    now[0] = 1003.0
    log.keep(b"b\n")
    assert [place for place, _ in ages(times, 0, 100) or ()] == [2], "one for what came at last"


def test_the_last_lines_find_room_on_a_full_disk(log: Log, tmp_path: Path) -> None:
    good, log.fd = log.fd, os.open("/dev/full", os.O_WRONLY)
    log.keep(b"why it failed\n")
    os.close(log.fd)
    log.fd = good
    log.keep_the_rest()
    assert (tmp_path / "log").read_bytes() == b"why it failed\n"
    assert not (tmp_path / "reserve.log").exists()


def test_a_log_at_its_limit_is_marked_once_and_what_is_printed_then_is_a_sign_of_life(log: Log, tmp_path: Path) -> None:
    log.keep(b"x" * 99)
    log.keep(b"y" * 50)
    log.keep(b"z")
    path = tmp_path / "log"
    assert path.read_bytes() == b"x" * 99 + b"y" + b"\ncml: the log has reached its limit of 100 bytes; the rest is not kept\n"
    os.utime(path, (0, 0))
    log.woke = 0.0
    log.keep(b"more")
    assert path.stat().st_mtime > 0
