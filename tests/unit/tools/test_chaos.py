"""The kill sweep's own parts: which points it picks, when the probe kills, and what the logs of its jobs should be."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tools" / "lib"))

import chaos
import chaos_jobs
import chaos_sweep
from chaos_probe import Board, Point

LIB = Path(chaos.__file__).parent
PROBE = "import sys, pathlib; from chaos_probe import Probe; p = Probe(pathlib.Path(sys.argv[1]), 'worker'); [p.hit('a') for _ in range(3)]"


def hit(directory: Path) -> int:
    """Have a daemon of its own do something three times; give its exit code."""
    return subprocess.run([sys.executable, "-c", PROBE, str(directory)], env={**os.environ, "PYTHONPATH": str(LIB)}, check=False).returncode


def test_points_are_what_all_recordings_have() -> None:
    runs = [["worker a", "worker b", "worker a"], ["worker a", "worker a", "worker b", "worker a"], ["worker b", "worker a", "worker a"]]
    assert chaos_sweep.points_of(runs) == [Point("worker a", 1), Point("worker b", 1), Point("worker a", 2)]
    assert chaos_sweep.points_of([["worker a", "worker b"], ["worker b"]]) == [Point("worker b", 1)]


def test_what_the_clock_repeats_is_one_point() -> None:
    assert chaos_sweep.points_of([["conductor db worker_heartbeat"] * 5] * 2) == [Point("conductor db worker_heartbeat", 1)]


def test_points_are_chosen_by_role_name_number_and_stride() -> None:
    points = [Point("worker a", 1), Point("conductor b", 1), Point("worker a", 2), Point("worker c", 1)]
    assert chaos_sweep.chosen(points, ["worker"], None, 1) == [(1, points[0]), (3, points[2]), (4, points[3])]
    assert chaos_sweep.chosen(points, ["worker"], None, 2) == [(1, points[0]), (4, points[3])]
    assert chaos_sweep.chosen(points, chaos_sweep.ROLES, "a #2", 1) == [(3, points[2])]
    assert chaos_sweep.chosen(points, chaos_sweep.ROLES, "2", 1) == [(2, points[1])]


@pytest.mark.parametrize(("runs", "wrong", "before"), [
    ([(False, [])], [], 0),
    ([(True, []), (True, []), (False, [])], [], 2),
    ([(True, []), (True, ["a log"]), (False, [])], ["a log"], 1),
    ([(True, [])] * 5, ["4 jobs did not come to the point"], 3),
], ids=["at once", "at last", "something is wrong", "never"])
def test_a_point_that_a_job_passes_by_is_tried_with_another_one(monkeypatch: pytest.MonkeyPatch, runs: list[tuple[bool, list[str]]],
                                                               wrong: list[str], before: int) -> None:
    results = iter([chaos_sweep.Result("train", Point("worker a", 1), missed=missed, wrong=[*found]) for missed, found in runs])
    monkeypatch.setattr(chaos_sweep.Bench, "run", lambda *_: next(results))
    result = chaos_sweep.Bench.strike(chaos_sweep.Bench.__new__(chaos_sweep.Bench), "train", Point("worker a", 1))
    assert (result.wrong, result.before) == (wrong, before)


def test_a_daemon_dies_after_its_point_and_once_a_run_only(tmp_path: Path) -> None:
    board = Board(tmp_path)
    board.begin("one", Point("worker a", 2))
    assert hit(tmp_path) == -signal.SIGKILL
    assert board.effects("one") == ["worker a"] * 2
    assert board.killed("one")
    assert hit(tmp_path) == 0
    board.begin("two", None)
    assert hit(tmp_path) == 0
    assert board.effects("two") == ["worker a"] * 3
    assert not board.killed("two")


def test_told_to_end_a_sweep_kills_what_is_under_way_and_begins_nothing_more() -> None:
    class Bench:
        def __init__(self) -> None:
            self.over = threading.Event()

        def kill(self) -> None:
            self.over.set()

    benches, bench = chaos_sweep.Benches(1), Bench()
    benches.add(bench)  # type: ignore[arg-type]
    under_way, waiting = (benches.submit(lambda _: bench.over.wait(60)) for _ in range(2))
    benches.stop(KeyboardInterrupt)
    benches.close()
    assert under_way.result()
    assert waiting.cancelled()


def test_a_directory_that_was_used_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit):
        chaos.parse(["sweep", "--directory", str(tmp_path)])
    assert "not empty" in capsys.readouterr().err


def test_a_log_that_was_cut_is_held_to_what_comes_before_the_cut() -> None:
    whole = chaos_jobs.whole_log(1, "worker:0")
    cut = whole[:whole.index("line 20\n")]
    assert chaos_jobs.log_until(1, "worker:0", cut, "") == cut
    for torn in (cut + "l", cut + "line", cut + "line "):
        assert chaos_jobs.log_until(1, "worker:0", torn, "") == torn
    doubled = cut.replace("line 7\n", "line 7\nline 7\n")
    assert chaos_jobs.log_until(1, "worker:0", doubled, "") != doubled
    assert chaos_jobs.log_until(1, "worker:0", cut + "bye\n", "bye\n") == cut + "bye\n"
