"""What a step has in its hands: reports that get through in the end, and time by the database's clock."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import oslo_messaging as messaging
import pytest
from oslo_messaging.rpc import client as rpc_client

from cml_nova import exception
from cml_nova.worker import work as work_module
from cml_nova.worker.work import Lease, Tools, Work

VIEW = {
    "id": "j", "name": "n", "project_id": "p", "request_id": None, "spec": {}, "keys": {}, "sealed": "", "phase": "PROVISIONING",
    "outcome": None, "target": "RUN", "cause": None, "status_reason": None, "attempt": 0, "error_restarts": 0, "infra_restarts": 0,
    "runtime": {}, "generation": 1, "age": 100.0, "phase_age": 50.0, "nodes": [], "tasks": [],
}


class Conductor:
    """Fails as often as the test says, then answers."""

    def __init__(self) -> None:
        self.failures: list[Exception] = []
        self.reports: list[dict[str, Any]] = []
        self.target = "RUN"
        self.was_read = threading.Event()
        self.on_the_way: Callable[[], object] = lambda: None

    def job_get(self, context: object, job_id: str, generation: int) -> dict[str, Any]:
        self.was_read.set()
        return {**VIEW, "target": self.target}

    def job_report(self, context: object, job_id: str, generation: int, report: dict[str, Any]) -> dict[str, Any]:
        self.reports.append(report)
        if self.failures:
            raise self.failures.pop()
        answer = {"target": self.target, "outcome": None, "forget": False}
        self.on_the_way()
        return answer


@pytest.fixture
def conductor() -> Conductor:
    return Conductor()


@pytest.fixture
def work(conductor: Conductor, monkeypatch: pytest.MonkeyPatch) -> Work:
    monkeypatch.setattr(work_module, "_RPC_PAUSE", 0.0)
    tools = Tools(None, conductor, None, None, None, None)  # type: ignore[arg-type]
    return Work(tools, Lease("j", 1, 60), lambda: False)


@pytest.mark.parametrize("failure", [
    exception.DatabaseUnavailable("the conductor's database is away"),
    exception.DatabaseBusy("deadlocks, one after the other"),
    rpc_client.RemoteError("OperationalError", "what a conductor did not foresee"),
    messaging.MessagingTimeout(),
])
def test_a_conductor_that_can_not_answer_now_is_asked_again_with_the_same_report(
        work: Work, conductor: Conductor, failure: Exception) -> None:
    conductor.failures = [failure, failure]
    work.report(progress=5)
    assert len(conductor.reports) == 3
    assert len({report["id"] for report in conductor.reports}) == 1


def test_ids_of_reports_sort_as_they_were_made(work: Work, conductor: Conductor) -> None:
    for progress in range(20):
        work.report(progress=progress)
    ids = [report["id"] for report in conductor.reports]
    assert ids == sorted(set(ids))
    assert max(len(id_) for id_ in ids) <= 36


def test_nobody_is_asked_again_for_a_job_that_is_lost(work: Work, conductor: Conductor) -> None:
    conductor.failures = [exception.LeaseLost("it is another's")]
    with pytest.raises(exception.LeaseLost):
        work.report(progress=5)
    with pytest.raises(exception.LeaseLost):
        work.report(progress=6)
    assert len(conductor.reports) == 1


def test_a_phase_is_entered_without_a_leap_of_the_jobs_age(work: Work) -> None:
    """By it all workers agree until when an unanswered create may take effect, whatever their hosts' clocks say."""
    work.job.runtime = {"settled_at": work.job.seconds + 30}
    before = work.job.seconds
    work.report(phase="BOOTSTRAPPING")
    assert before <= work.job.seconds < before + 5
    assert work.job.phase_seconds < 5
    assert 25 < work.job.unsettled <= 30


def test_a_cancel_is_not_forgotten_for_an_answer_that_is_older_than_it(work: Work, conductor: Conductor) -> None:
    """The job is cancelled, and read anew, while the answer to a report is on its way."""
    reading = threading.Thread(target=work.refresh)

    def cancelled() -> None:
        conductor.target = "DELETE"
        conductor.was_read.clear()
        reading.start()
        conductor.was_read.wait(0.1)

    conductor.on_the_way = cancelled
    work.report(progress=5)
    reading.join()
    assert work.job.target == "DELETE"
