"""The jobs of a campaign: the same for a seed, and held to each line of their logs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tools" / "lib"))

from chaos_faults import KINDS, draw_fault
from chaos_ledger import Entry
from chaos_load import draw_job, read_log, steps

WHOLE = "begin 2 worker:0 from 9\nline 9\nline 10\n" 'CML_METRIC {"name": "loss", "value": 10, "step": 10}\nline 11\nend 12\n'


def test_a_seed_gives_the_same_jobs_and_faults() -> None:
    for number in range(50):
        one, other = (draw_job(7, number, "a", "p") for _ in range(2))
        assert (one.document, one.cancel_at, one.right) == (other.document, other.cancel_at, other.right)
        assert draw_fault(7, number)[:2] == draw_fault(7, number)[:2]
    assert draw_job(7, 0, "a", "p").document != draw_job(8, 0, "a", "p").document


def test_faults_are_drawn_from_the_kinds_that_are_asked_for() -> None:
    kinds = [kind for kind in KINDS if kind.name in ("cell down", "runner killed")]
    assert {draw_fault(7, number, kinds)[0].name for number in range(50)} == {"cell down", "runner killed"}


def test_a_job_fails_as_often_as_it_may_start_again() -> None:
    job = next(job for job in (draw_job(7, number, "a", "p") for number in range(200)) if job.kind.name == "fails, then succeeds")
    words = [job.answer(Entry(job.run, attempt, "worker:0", 0.0)) for attempt in (1, 1, 2, 3, 4)]
    assert words == ["exit 3", "exit 3", *(["exit 3"] if job.document["max_restarts"] == 2 else ["exit 0"]), "exit 0", "exit 0"]
    assert job.answer(Entry(job.run, 1, "worker:1", 0.0)) == "exit 0"


def test_a_whole_log_is_right_and_its_last_word_is_known() -> None:
    assert read_log(2, "worker:0", WHOLE) == ("", "end")
    assert steps(WHOLE) == [10]


@pytest.mark.parametrize("length", range(len(WHOLE)))
def test_a_log_may_be_cut_off_anywhere(length: int) -> None:
    assert read_log(2, "worker:0", WHOLE[:length]) == ("", "")


@pytest.mark.parametrize("log", [
    WHOLE.replace("line 10\n", ""), WHOLE.replace("line 10\n", "line 10\nline 10\n"), WHOLE.replace("begin 2", "begin 1"),
    WHOLE.replace("worker:0", "worker:1"), WHOLE.replace("end 12", "end 13"), WHOLE + "line 12\n", WHOLE[5:],
    WHOLE.replace("line 9\nline 10", "line 10\nline 9"), WHOLE[:40] + WHOLE,
])
def test_a_log_with_a_line_too_many_or_too_few_is_wrong(log: str) -> None:
    assert read_log(2, "worker:0", log)[0]
