"""Parts of a long run: what is begun when, and how the whole is judged."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

LIB = Path(__file__).resolve().parents[2] / "tools" / "lib"


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(sys, "path", [str(LIB), *sys.path])
    import parts
    return parts


def shell(parts: Any, script: str, **more: Any) -> Any:
    return parts.Part(["sh", "-c", script], **more)


def test_all_ends_well(parts: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = parts.Parts({"A": "1"}, tmp_path)
    assert run.run("one", shell(parts, 'echo "$A$B"', env={"B": "2"}))
    run.run_together([({"two": shell(parts, "echo said by two", needs="one"), "three": shell(parts, "exit 5", fine=(0, 5))}, 1)])
    assert run.close() == 0
    said = capfd.readouterr().out
    assert "\n12\n" in said
    assert "=== two\nsaid by two\n" in said


def test_what_fails_stops_only_what_needs_it(parts: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = parts.Parts({}, tmp_path)
    queue = {"a": shell(parts, "exit 3"), "b": shell(parts, f"touch {tmp_path}/b", needs="a"), "c": shell(parts, f"touch {tmp_path}/c")}
    run.run_together([(queue, 1)])
    assert not run.run("d", shell(parts, "true", needs="b"))
    assert run.close() == 1
    assert [(tmp_path / name).exists() for name in "bc"] == [False, True]
    said = capsys.readouterr().out
    assert "a: FAILED (code 3)" in said
    assert "b: NOT RUN: a failed" in said
    assert "d: NOT RUN: b failed" in said


def test_parts_of_two_queues_run_at_a_time(parts: Any, tmp_path: Path) -> None:
    run = parts.Parts({}, tmp_path)
    os.mkfifo(tmp_path / "fifo")
    run.run_together([({"writer": shell(parts, f"echo > {tmp_path}/fifo", limit=20)}, 1),
                      ({"reader": shell(parts, f"read line < {tmp_path}/fifo", limit=20)}, 1)])
    assert run.close() == 0


@pytest.mark.parametrize("together", [False, True])
def test_one_that_is_not_over_in_time_has_failed_and_is_ended(
        parts: Any, tmp_path: Path, together: bool, capsys: pytest.CaptureFixture[str]) -> None:
    script = f"trap 'touch {tmp_path}/ended; exit 1' INT; touch {tmp_path}/begun; while :; do sleep 0.05; done"
    run, part = parts.Parts({}, tmp_path), shell(parts, script, limit=2)
    if together:
        run.run_together([({"late": part}, 1)])
    else:
        assert not run.run("late", part)
    assert [(tmp_path / name).exists() for name in ("begun", "ended")] == [True, True]
    assert run.close() == 1
    assert "late: not over after 2 s" in capsys.readouterr().out
