"""Saving logs: every byte once, whole lines, metrics found."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from oslo_config import cfg

from cml_nova import conf as cml_conf
from cml_nova import exception
from cml_nova.storage.base import Storage, log_key
from cml_nova.storage.file import FileStorage
from cml_nova.storage.times import read_times
from cml_nova.worker.attempt import Attempt, _Over
from cml_nova.worker.logs import LogSaver, parse_metric
from cml_nova.worker.work import Lease


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    conf = cfg.ConfigOpts()
    cml_conf.register_opts(conf)
    conf([])
    conf.set_override("path", str(tmp_path), "storage")
    return FileStorage(conf)


def saved(storage: Storage, task: str = "worker:0") -> bytes:
    return storage.read(log_key("job", 1, task), 0, 10**6)


def test_only_whole_lines_are_saved_until_the_log_is_finished(storage: Storage) -> None:
    saver = LogSaver(storage, "job")
    assert saver.resume(1, "worker:0") == 0
    saver.add(1, "worker:0", 0, b"one\ntw")
    assert saved(storage) == b"one\n"
    saver.add(1, "worker:0", 6, b"o")
    assert saved(storage) == b"one\n"
    saver.finish(1, "worker:0")
    assert saved(storage) == b"one\ntwo"


def test_a_progress_bar_without_newlines_is_saved_as_it_goes(storage: Storage) -> None:
    saver = LogSaver(storage, "job")
    saver.resume(1, "worker:0")
    saver.add(1, "worker:0", 0, b"10%\r20%\r30")
    assert saved(storage) == b"10%\r20%\r"


def test_a_line_without_end_is_saved_in_pieces(storage: Storage) -> None:
    saver = LogSaver(storage, "job")
    saver.resume(1, "worker:0")
    saver.add(1, "worker:0", 0, b"x" * 70000)
    assert len(saved(storage)) == 70000


def test_after_a_crash_the_log_goes_on_where_it_was_saved_to(storage: Storage) -> None:
    first = LogSaver(storage, "job")
    first.resume(1, "worker:0")
    first.add(1, "worker:0", 0, b"one\ntwo\nthr")
    second = LogSaver(storage, "job")
    assert second.resume(1, "worker:0") == len(b"one\ntwo\n")
    second.add(1, "worker:0", 8, b"three\n")
    # The one before is not dead after all and saves the same line again: nothing changes.
    first.add(1, "worker:0", 11, b"ee\n")
    assert saved(storage) == b"one\ntwo\nthree\n"


def test_a_gap_is_refused(storage: Storage) -> None:
    saver = LogSaver(storage, "job")
    saver.resume(1, "worker:0")
    with pytest.raises(ValueError, match="goes on at 5"):
        saver.add(1, "worker:0", 5, b"x\n")


def test_metrics_are_found_with_their_place_and_again_after_a_crash(storage: Storage) -> None:
    line = b'CML_METRIC {"name": "loss", "value": 0.5, "step": 3}\n'
    saver = LogSaver(storage, "job")
    saver.resume(1, "worker:0")
    saver.add(1, "worker:0", 0, b"hello\n" + line[:20])
    assert saver.take_metrics() == []
    saver.add(1, "worker:0", 26, line[20:])
    (metric,) = saver.take_metrics()
    assert (metric["name"], metric["value"], metric["step"], metric["offset"], metric["task"]) == ("loss", 0.5, 3, 6, "worker:0")
    assert saver.take_metrics() == []
    again = LogSaver(storage, "job")
    again.resume(1, "worker:0")
    assert [m["offset"] for m in again.take_metrics()] == [6]


def test_metrics_of_what_another_worker_saves_meanwhile_are_found(storage: Storage) -> None:
    """It may not know yet that the job was taken over, and will not be able to report them."""
    old, new = LogSaver(storage, "job"), LogSaver(storage, "job")
    lines = [b'CML_METRIC {"name": "loss", "value": 1, "step": %d}\n' % step for step in range(3)]
    old.resume(1, "worker:0")
    old.add(1, "worker:0", 0, lines[0])
    new.resume(1, "worker:0")
    old.add(1, "worker:0", len(lines[0]), lines[1])
    offset = new.resume(1, "worker:0")
    new.add(1, "worker:0", offset, lines[2])
    assert [metric["step"] for metric in new.take_metrics()] == [0, 1, 2]


@pytest.mark.parametrize("line", [
    b"CML_METRIC nonsense", b"CML_METRIC []", b'CML_METRIC {"name": "x"}', b'CML_METRIC {"name": "x", "value": "a lot"}',
    b'CML_METRIC {"name": "", "value": 1}', b'CML_METRIC {"name": 3, "value": 1}', b'CML_METRIC {"name": "x", "value": NaN}',
    b'CML_METRIC {"name": "x", "value": Infinity}', b' CML_METRIC {"name": "x", "value": 1}', b"CML_METRIC \xff\xfe",
    b'CML_METRIC {"name": "' + b"x" * 129 + b'", "value": 1}', b'CML_METRIC {"name": "x", "value": [1]}',
])
def test_what_is_no_metric_is_passed_over(line: bytes) -> None:
    assert parse_metric(line) is None


def test_a_step_that_is_no_integer_is_left_out() -> None:
    found = parse_metric(b'CML_METRIC {"name": "x", "value": 1, "step": "late"}\r\n')
    assert found == {"name": "x", "value": 1.0, "step": None}


def times(storage: Storage) -> list[tuple[int, int]]:
    with read_times(storage, log_key("job", 1, "worker:0")) as found:
        return found.between(0, 10**6)


def test_times_are_there_before_the_text(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    saver = LogSaver(storage, "job")
    saver.resume(1, "worker:0")
    seen: list[tuple[bytes, list[tuple[int, int]]]] = []
    write_at = storage.write_at
    monkeypatch.setattr(storage, "write_at", lambda *piece: (write_at(*piece), seen.append((saved(storage), times(storage)))))
    saver.add(1, "worker:0", 0, b"a\nb\n", [(0, 1000.0), (2, 1000.2)])
    saver.add(1, "worker:0", 4, b"c\n")
    assert seen == [(b"", [(0, 1000_000), (2, 1000_200)]), (b"a\nb\n", [(0, 1000_000), (2, 1000_200)]),
                    (b"a\nb\nc\n", [(0, 1000_000), (2, 1000_200)])], "and a piece without any costs nothing more"


def test_times_of_what_was_not_saved_any_more_are_written_over(storage: Storage) -> None:
    """A worker died between the times and the text; the next one hears them again, a little different."""
    old = LogSaver(storage, "job")
    old.resume(1, "worker:0")
    old.add(1, "worker:0", 0, b"a\nb", [(0, 1000.0), (2, 1000.2)])
    for _ in range(2):
        new = LogSaver(storage, "job")
        assert new.resume(1, "worker:0") == 2
        new.add(1, "worker:0", 2, b"b\nc", [(2, 1000.201), (4, 1005.0)])
        storage.delete(log_key("job", 1, "worker:0"))
        storage.write_at(log_key("job", 1, "worker:0"), 0, b"a\n")
        assert times(storage) == [(0, 1000_000), (2, 1000_201), (4, 1005_000)]


def test_times_go_on_and_a_node_can_not_make_more_of_them_than_time_passes(storage: Storage) -> None:
    saver = LogSaver(storage, "job")
    saver.resume(1, "worker:0")
    saver.add(1, "worker:0", 0, b"x" * 100 + b"\n", [(place, 1000 + place / 1000) for place in range(100)])
    saver.add(1, "worker:0", 101, b"earlier\n", [(101, 10.0)])
    assert times(storage) == [(0, 1000_000), (50, 1000_050)]


def test_last_lines(storage: Storage) -> None:
    saver = LogSaver(storage, "job")
    saver.resume(1, "worker:0")
    saver.add(1, "worker:0", 0, b"".join(b"line %d\n" % i for i in range(1000)))
    assert saver.last_lines(1, "worker:0", 2) == ["line 998", "line 999"]


@pytest.fixture
def attempt(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> Attempt:
    """One of a single node, whose follower is the test itself."""
    monkeypatch.setattr(Attempt, "__init__", lambda self: None)
    attempt: Any = Attempt()  # type: ignore[call-arg]
    attempt.saver = LogSaver(storage, "job")
    attempt.saver.resume(1, "worker:0")
    reports: list[dict[str, Any]] = []
    attempt._work = SimpleNamespace(job=SimpleNamespace(id="job", attempt=1), lease=Lease("job", 1, 60),
                                    report=lambda **report: reports.append(report), reports=reports)
    attempt._lock, attempt._gathers_until = threading.Lock(), 0.0
    attempt._saving, attempt._over, attempt._followers = {0: threading.Lock()}, set(), {0: None}
    attempt._changed_tasks, attempt._events = {}, []
    attempt._crew = SimpleNamespace(drop=lambda rank: None, each=lambda action, ranks: {})
    attempt._silence = SimpleNamespace(miss_absent=lambda: None, news=dict, seconds=dict, forget=lambda ranks: None)
    return attempt


LINES = [b'CML_METRIC {"name": "loss", "value": 1, "step": %d}\n' % step for step in range(2)]


def test_a_worker_whose_lease_is_over_saves_nothing_more(storage: Storage, attempt: Attempt) -> None:
    """It was held up with lines in its hands, and another one has read what was saved."""
    attempt._take_log(0, 1, "worker:0", 0, b"one\n", [])
    attempt._work.lease.lose()
    with pytest.raises(exception.LeaseLost):
        attempt._take_log(0, 1, "worker:0", 4, b"two\n", [])
    assert saved(storage) == b"one\n"


@pytest.mark.parametrize("end", [lambda attempt: attempt.report(phase="PROVISIONING"), lambda attempt: attempt.forget([0])])
def test_nothing_is_saved_whose_metrics_would_not_be_reported(storage: Storage, attempt: Any, end: Callable[[Attempt], None]) -> None:
    """A node that the cloud says is in ERROR may go on, and so does its follower for a moment."""
    attempt._take_log(0, 1, "worker:0", 0, LINES[0], [])
    end(attempt)
    with pytest.raises(_Over):
        attempt._take_log(0, 1, "worker:0", len(LINES[0]), LINES[1], [])
    attempt.report(phase="PROVISIONING")
    assert saved(storage) == LINES[0]
    assert [metric["step"] for report in attempt._work.reports for metric in report.get("metrics", ())] == [0]


def test_what_runs_on_a_lost_node_is_ended_though_nobody_is_connected_to_it_yet(attempt: Any) -> None:
    done: list[Any] = []
    machine = SimpleNamespace(connected=False, connect=lambda timeout: done.append("connect"),
                              stop=lambda number, grace: done.append((number, grace)))
    attempt._crew.each = lambda action, ranks: [action(rank, machine) for rank in ranks]
    attempt.forget([0])
    assert done == ["connect", (1, 0)]
