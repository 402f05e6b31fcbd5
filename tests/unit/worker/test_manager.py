"""A worker takes jobs, keeps their leases, and lets go of what may be another's."""

from __future__ import annotations

import threading
from typing import Any

import oslo_messaging as messaging
import pytest
from oslo_config import cfg

from cml_nova import conf as cml_conf
from cml_nova import exception
from cml_nova.worker import manager as worker_manager
from cml_nova.worker import runner
from cml_nova.worker.manager import WorkerManager
from cml_nova.worker.work import Lease, Tools


class Conductor:
    """Answers heartbeats with what the test says."""

    def __init__(self) -> None:
        self.mine: list[dict[str, Any]] | Exception = []
        self.held: list[dict[str, int]] = []
        self.goodbyes: list[str] = []
        self.timeouts: list[float | None] = []
        self.draining: list[bool] = []
        self.asleep = 0
        self.refusals = 0

    def worker_heartbeat(self, context: object, worker: dict[str, Any], held: dict[str, int],
                         timeout: float | None = None) -> list[dict[str, Any]]:
        self.held.append(held)
        self.timeouts.append(timeout)
        self.draining.append(worker["draining"])
        if self.asleep:
            self.asleep -= 1
            raise messaging.MessagingTimeout()
        if self.refusals:
            self.refusals -= 1
            raise messaging.RemoteError("UnsupportedVersion", "Endpoint does not support RPC version 1.1")
        if isinstance(self.mine, Exception):
            raise self.mine
        return self.mine

    def worker_goodbye(self, context: object, worker_id: str) -> None:
        self.goodbyes.append(worker_id)


class Runs:
    """Stands where the runner stands: each job waits for its lease to end."""

    def __init__(self) -> None:
        self.leases: list[Lease] = []
        self.begun = threading.Semaphore(0)

    def run(self, tools: Tools, lease: Lease, stopping: Any) -> None:
        self.leases.append(lease)
        self.begun.release()
        while not lease.lost and not stopping():
            lease.wake.wait(5)
            lease.wake.clear()


@pytest.fixture
def conductor() -> Conductor:
    return Conductor()


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Runs:
    runs = Runs()
    monkeypatch.setattr(runner, "run", runs.run)
    return runs


@pytest.fixture
def manager(conductor: Conductor, runs: Runs) -> WorkerManager:
    conf = cfg.ConfigOpts()
    cml_conf.register_opts(conf)
    conf([])
    conf.set_override("max_jobs", 2, "worker")
    tools = Tools(conf, conductor, None, None, None, None)  # type: ignore[arg-type]
    return WorkerManager("w1", "host", tools)


def holding(job_id: str, generation: int = 1, changed: bool = False) -> dict[str, Any]:
    return {"job_id": job_id, "generation": generation, "changed": changed}


def test_a_job_is_run_once_however_often_it_is_given(manager: WorkerManager, runs: Runs) -> None:
    for _ in range(3):
        manager.run(None, "a", 1)  # type: ignore[arg-type]
    assert runs.begun.acquire(timeout=5)
    assert not runs.begun.acquire(timeout=0.1)
    manager.drain(5)


def test_a_job_whose_message_was_lost_is_found_by_the_heartbeat(manager: WorkerManager, conductor: Conductor, runs: Runs) -> None:
    conductor.mine = [holding("a")]
    manager.heartbeat()
    assert runs.begun.acquire(timeout=5)
    manager.heartbeat()
    assert conductor.held == [{}, {"a": 1}]
    manager.drain(5)


def test_a_job_that_the_conductor_does_not_list_is_lost(manager: WorkerManager, conductor: Conductor, runs: Runs) -> None:
    manager.run(None, "a", 1)  # type: ignore[arg-type]
    assert runs.begun.acquire(timeout=5)
    conductor.mine = [holding("a", generation=2)]
    manager.heartbeat()
    assert runs.leases[0].lost


def test_a_changed_job_is_woken(manager: WorkerManager, conductor: Conductor, runs: Runs) -> None:
    manager.run(None, "a", 1)  # type: ignore[arg-type]
    assert runs.begun.acquire(timeout=5)
    woken = threading.Event()
    runs.leases[0].wake.set = woken.set  # type: ignore[method-assign]
    conductor.mine = [holding("a", changed=True)]
    manager.heartbeat()
    assert woken.is_set()
    runs.leases[0]._lost.set()


def test_a_full_worker_takes_no_more(manager: WorkerManager, runs: Runs) -> None:
    for job_id in ("a", "b", "c"):
        manager.run(None, job_id, 1)  # type: ignore[arg-type]
    assert runs.begun.acquire(timeout=5) and runs.begun.acquire(timeout=5)
    assert not runs.begun.acquire(timeout=0.1)
    manager.drain(5)


def test_a_worker_is_known_before_it_listens_and_gets_jobs_only_after_that(
        manager: WorkerManager, conductor: Conductor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody must know of it to remove its queue if it dies in between, so it says so until somebody has heard."""
    monkeypatch.setattr(worker_manager, "_PAUSE", 0)
    conductor.asleep = 6
    manager.announce()
    assert conductor.timeouts == [1, 2, 4, 8, 16, 20, 20]
    assert set(conductor.draining) == {True}
    manager.heartbeat()
    assert (conductor.timeouts[7:], conductor.draining[7:]) == ([None], [False]), "one that has answered is worth the usual wait"


@pytest.mark.parametrize(("refusals", "known"), [(1, True), (2, False)])
def test_what_an_older_conductor_refuses_another_one_is_asked_at_once(
        manager: WorkerManager, conductor: Conductor, runs: Runs, refusals: int, known: bool) -> None:
    """The broker gives out calls in turn. Nothing is lost where that one refuses it, too; the next heartbeat is another try."""
    manager.run(None, "a", 1)  # type: ignore[arg-type]
    assert runs.begun.acquire(timeout=5)
    conductor.mine, conductor.refusals = [holding("a", changed=True)], refusals
    woken = threading.Event()
    runs.leases[0].wake.set = woken.set  # type: ignore[method-assign]
    manager.heartbeat()
    assert len(conductor.held) == 2
    assert woken.is_set() == known
    assert not runs.leases[0].lost
    runs.leases[0]._lost.set()


def test_a_worker_that_is_stopped_does_not_wait_to_be_known(manager: WorkerManager, conductor: Conductor) -> None:
    conductor.asleep = 100
    manager.drain(0)
    manager.announce()
    assert len(conductor.timeouts) == 1


def test_an_unanswered_heartbeat_loses_nothing_at_once(manager: WorkerManager, conductor: Conductor, runs: Runs) -> None:
    manager.run(None, "a", 1)  # type: ignore[arg-type]
    assert runs.begun.acquire(timeout=5)
    conductor.mine = messaging.MessagingTimeout()
    manager.heartbeat()
    assert not runs.leases[0].lost
    manager.drain(5)


def test_a_stopping_worker_hands_its_jobs_back_and_takes_no_more(manager: WorkerManager, conductor: Conductor, runs: Runs) -> None:
    manager.run(None, "a", 1)  # type: ignore[arg-type]
    assert runs.begun.acquire(timeout=5)
    manager.drain(5)
    assert conductor.goodbyes == ["w1"]
    manager.run(None, "b", 1)  # type: ignore[arg-type]
    assert not runs.begun.acquire(timeout=0.1)


def test_a_lease_that_nobody_renews_ends_by_itself() -> None:
    now = [100.0]
    lease = Lease("a", 1, valid_for=30, clock=lambda: now[0])
    now[0] = 129.0
    lease.check()
    lease.renew(160.0)
    lease.renew(140.0)  # an older answer that came late takes nothing away
    now[0] = 159.0
    lease.check()
    now[0] = 161.0
    with pytest.raises(exception.LeaseLost):
        lease.check()


def test_a_lease_that_was_seen_to_end_is_not_revived_by_a_late_answer() -> None:
    """Threads that saw it end have let go of the job: with the rest it would go on for ever, and nobody would watch its nodes."""
    now = [100.0]
    lease = Lease("a", 1, valid_for=30, clock=lambda: now[0])
    now[0] = 131.0
    assert lease.lost
    assert lease.wake.is_set()
    lease.renew(160.0)
    with pytest.raises(exception.LeaseLost):
        lease.check()
