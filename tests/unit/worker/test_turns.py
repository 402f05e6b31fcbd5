"""Calls to conductors take turns; who waits for one lets go of a job that is lost."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from oslo_config import cfg

from cml_nova import exception
from cml_nova.worker import work as work_module
from cml_nova.worker.work import Lease, Tools, Work

VIEW: dict[str, Any] = {
    "id": "j", "name": "n", "project_id": "p", "request_id": None, "spec": {}, "keys": {}, "sealed": "", "phase": "RUNNING",
    "outcome": None, "target": "RUN", "cause": None, "status_reason": None, "attempt": 1, "error_restarts": 0, "infra_restarts": 0,
    "runtime": {}, "generation": 1, "age": 0.0, "phase_age": 0.0, "nodes": [], "tasks": [],
}


class Conductor:
    """Answers when it is let, and knows how many ask at a time."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.asked = threading.Semaphore(0)

    def job_get(self, context: object, job_id: str, generation: int) -> dict[str, Any]:
        self.asked.release()
        assert self.go_on.wait(5)
        return dict(VIEW)


def test_calls_take_turns_and_a_lost_job_gives_its_place_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work_module, "_TURN_CHECK", 0.01)
    conductor = Conductor()
    tools = Tools(cfg.ConfigOpts(), conductor, None, None, None, None, threading.BoundedSemaphore(1))  # type: ignore[arg-type]
    found: list[Work] = []
    first = threading.Thread(target=lambda: found.append(Work(tools, Lease("j", 1, 60), lambda: False)))
    first.start()
    assert conductor.asked.acquire(timeout=5)
    lease = Lease("k", 1, 60)
    lost: list[Exception] = []

    def second() -> None:
        try:
            Work(tools, lease, lambda: False)
        except exception.LeaseLost as error:
            lost.append(error)

    waiting = threading.Thread(target=second)
    waiting.start()
    lease.lose()
    waiting.join(5)
    assert lost and not conductor.asked.acquire(blocking=False)
    conductor.go_on.set()
    first.join(5)
    assert found[0].job.id == "j"
    assert Work(tools, Lease("j", 1, 60), lambda: False).job.id == "j"
