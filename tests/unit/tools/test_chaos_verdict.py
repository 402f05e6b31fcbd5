"""What the judge of a campaign makes of logs."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tools" / "lib"))

from chaos_load import KINDS, Job
from chaos_verdict import Judge

from tests.harness.cloud import Inventory

FAILED = "begin 1 worker:0 from 0\nline 0\nCML_METRIC {\"name\": \"loss\", \"value\": 0, \"step\": 0}\nfail 1\n"
WHOLE = FAILED.replace("begin 1", "begin 2").replace("fail", "end")


@pytest.fixture
def judge() -> Any:
    return Judge(SimpleNamespace(cloud=SimpleNamespace(inventory=Inventory)))  # type: ignore[arg-type]


def wrong(judge: Any, first: str, **known: Any) -> list[str]:
    """Judge the logs of a job that has succeeded at its second attempt."""
    kind = next(kind for kind in KINDS if kind.name == "fails, then succeeds")
    job = Job(0, kind, {"workers": 1}, None, **known)
    seen = {"attempt": 2, "status": "SUCCEEDED", "exit_code": None}
    found: list[str] = judge._logs(job, seen, [], {(0, "worker:0"): "", (1, "worker:0"): first, (2, "worker:0"): WHOLE})
    return found


def test_each_attempt_of_a_job_to_which_nothing_was_done_has_its_end(judge: Any) -> None:
    assert wrong(judge, FAILED) == []
    assert wrong(judge, FAILED[:-7]) == ["wrong log: none of attempt 1 has its end"]
    assert wrong(judge, "") == ["wrong log: none of attempt 1 has its end"]


def test_an_attempt_may_be_cut_off_where_something_was_done_to_its_node(judge: Any) -> None:
    assert wrong(judge, FAILED[:-7], hurt=["Crash"]) == []
    assert wrong(judge, FAILED[:-7] + "more\n", hurt=["Crash"])


def test_what_the_runner_says_of_a_hang_is_no_line_of_the_program(judge: Any) -> None:
    log = FAILED[:-7] + "\ncml: a hang: where the processes are\ncml: bash\n"
    assert wrong(judge, log, hurt=["ProcessesHang"], hung={1}) == []
    assert wrong(judge, log, hurt=["Crash"])
