"""Giving jobs to workers, and what the conductor does by the clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from oslo_config import cfg
from oslo_db import exception as db_exception
from sqlalchemy import exc as sa_exception
from sqlalchemy import select, update

from cml_nova import context as cml_context
from cml_nova.conductor.dispatch import Dispatcher
from cml_nova.conductor.health import Health, Part
from cml_nova.conductor.manager import ConductorManager
from cml_nova.conductor.periodics import Periodics
from cml_nova.db import leases, nodes
from cml_nova.db.engine import Database
from cml_nova.db.models import Job
from cml_nova.storage import get_storage
from tests.unit.conductor.conftest import NOW, Bus, Clock, look_at_both

Make = Callable[..., str]
CONTEXT = cml_context.service_context()


@pytest.fixture
def periodics(conf: cfg.ConfigOpts, db: Database, dispatcher: Dispatcher, bus: Bus, health: Health) -> Periodics:
    return Periodics(conf, db, dispatcher, bus, bus, health)  # type: ignore[arg-type]


@pytest.fixture
def manager(conf: cfg.ConfigOpts, db: Database, dispatcher: Dispatcher) -> ConductorManager:
    return ConductorManager(conf, db, get_storage(conf), dispatcher)


def test_a_hint_gets_a_new_job_to_a_worker(dispatcher: Dispatcher, bus: Bus, make_job: Make, make_worker: Callable[..., None]) -> None:
    make_worker("w1")
    job_id = make_job()
    dispatcher.attend(CONTEXT, job_id)
    assert bus.sent == [("run", "w1", job_id, 1)]


def test_a_hint_about_a_held_job_nudges_its_worker(
        dispatcher: Dispatcher, bus: Bus, make_job: Make, make_worker: Callable[..., None]) -> None:
    make_worker("w1")
    job_id = make_job()
    for _ in range(2):  # the second may be the same message doubled
        dispatcher.attend(CONTEXT, job_id)
    assert bus.sent == [("run", "w1", job_id, 1), ("nudge", "w1", job_id)]


def test_hints_about_jobs_that_are_done_or_unknown_do_nothing(dispatcher: Dispatcher, bus: Bus, make_job: Make) -> None:
    dispatcher.attend(CONTEXT, make_job(phase="DONE", outcome="FAILED"))
    dispatcher.attend(CONTEXT, "no-such-job")
    assert bus.sent == []


def test_the_sweep_finds_what_no_message_told_of(
        periodics: Periodics, bus: Bus, make_job: Make, make_worker: Callable[..., None]) -> None:
    job_id = make_job()
    periodics.sweep()
    assert bus.sent == []  # there is no worker yet
    make_worker("w1")
    periodics.sweep()
    assert bus.sent == [("run", "w1", job_id, 1)]


def test_the_sweep_takes_over_from_a_dead_worker(
        db: Database, periodics: Periodics, bus: Bus, make_job: Make, make_worker: Callable[..., None]) -> None:
    make_worker("w2")
    job_id = make_job(phase="RUNNING", worker_id="w1", generation=4, lease_expires_at=1.0)
    periodics.sweep()
    periodics.sweep()
    assert bus.sent == [("run", "w2", job_id, 5)]


def test_nothing_is_taken_over_after_an_outage_until_one_lease_time_has_passed(
        conf: cfg.ConfigOpts, periodics: Periodics, bus: Bus, health: Health, clock: Clock, make_job: Make,
        make_worker: Callable[..., None]) -> None:
    make_worker("w2")
    held = make_job(phase="RUNNING", worker_id="w1", generation=4, lease_expires_at=1.0)
    handed_back = make_job(phase="RUNNING", generation=4)
    fresh = make_job()
    bus.away = True
    periodics.probe_bus()
    bus.away = False
    periodics.sweep()
    assert sorted(bus.sent) == sorted([("run", "w2", handed_back, 5), ("run", "w2", fresh, 1)]), "what nobody holds does not wait"
    bus.sent.clear()
    look_at_both(health, clock, conf.conductor.lease_time - 1)
    periodics.sweep()
    assert bus.sent == []
    look_at_both(health, clock, 1)
    periodics.sweep()
    assert bus.sent == [("run", "w2", held, 5)]


def test_a_hint_takes_nothing_over_either_after_an_outage(
        dispatcher: Dispatcher, bus: Bus, health: Health, make_job: Make, make_worker: Callable[..., None]) -> None:
    make_worker("w2")
    job_id = make_job(phase="RUNNING", worker_id="w1", generation=4, lease_expires_at=1.0)
    health.bad(Part.BUS)
    dispatcher.attend(CONTEXT, job_id)
    assert bus.sent == [("nudge", "w1", job_id)]


def test_a_sweep_without_a_database_is_an_outage(
        conf: cfg.ConfigOpts, db: Database, periodics: Periodics, health: Health, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*args: object) -> None:
        raise sa_exception.OperationalError("SELECT", {}, Exception("connection refused"))

    assert health.wanting() == []
    monkeypatch.setattr(leases, "end_overdue_waits", away)
    periodics.sweep()
    assert health.wanting() == [Part.DATABASE]


def test_take_overs_are_limited_and_new_jobs_are_not(
        conf: cfg.ConfigOpts, db: Database, bus: Bus, health: Health, make_job: Make, make_worker: Callable[..., None]) -> None:
    conf.set_override("take_overs_per_minute", 2, "conductor")
    make_worker("w2")
    for _ in range(3):
        make_job(phase="RUNNING", worker_id="w1", generation=4, lease_expires_at=1.0)
    fresh = make_job()
    Dispatcher(conf, db, bus, health).sweep(CONTEXT)  # type: ignore[arg-type]
    assert [sent[3] for sent in bus.sent] == [5, 5, 1]
    assert bus.sent[-1][2] == fresh


def test_a_transaction_that_was_given_up_in_a_deadlock_runs_again(
        manager: ConductorManager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    failures = [db_exception.DBDeadlock(), db_exception.DBDeadlock()]
    register = leases.register

    def deadlocked(*args: Any) -> None:
        if failures:
            raise failures.pop()
        register(*args)

    monkeypatch.setattr(leases, "register", deadlocked)
    worker = {"id": "w1", "host": "h", "capacity": 5, "draining": False}
    assert manager.worker_heartbeat(CONTEXT, worker, {}) == []
    assert failures == []


def test_a_full_worker_gets_no_more(periodics: Periodics, bus: Bus, make_job: Make, make_worker: Callable[..., None]) -> None:
    make_worker("w1", capacity=2)
    for _ in range(3):
        make_job()
    periodics.sweep()
    assert len(bus.sent) == 2


def test_the_sweep_tries_no_more_jobs_than_there_are_places(
        dispatcher: Dispatcher, make_job: Make, make_worker: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """The queue may have thousands of jobs, and each try costs a transaction."""
    make_worker("w1", capacity=2)
    make_worker("w2", capacity=1)
    make_worker("late", seen_at=1.0)
    make_worker("leaving", draining=True)
    for worker in ("w1", "w2", "w2"):  # one more than w2 has places for: it was given back by a worker that died
        make_job(phase="RUNNING", worker_id=worker, generation=1, lease_expires_at=NOW)
    make_job(phase="DONE", outcome="FAILED", worker_id=None)
    first = make_job(priority=1)
    for _ in range(5):
        make_job()
    tried: list[str] = []
    monkeypatch.setattr(dispatcher, "assign", lambda context, job_id: tried.append(job_id))
    dispatcher.sweep(CONTEXT)
    assert tried == [first]


def test_a_job_that_waited_too_long_ends(
        db: Database, periodics: Periodics, bus: Bus, make_job: Make, make_worker: Callable[..., None]) -> None:
    make_worker("w1")
    job_id = make_job(spec={"max_wait_time": 1, "max_run_time": 1}, not_before=10**12, cause="NO_CAPACITY")
    periodics.sweep()
    with db.read() as session:
        job = session.scalars(select(Job)).one()
    assert (job.phase, job.outcome) == ("TEARDOWN", "TIMED_OUT")
    assert bus.sent == [("run", "w1", job_id, 1)]


def test_a_job_that_ran_too_long_has_its_worker_nudged(
        periodics: Periodics, bus: Bus, make_job: Make, make_worker: Callable[..., None]) -> None:
    make_worker("w1")
    job_id = make_job(spec={"max_wait_time": 1, "max_run_time": 1}, phase="RUNNING", started_at=1.0, worker_id="w1", generation=1,
                      lease_expires_at=10**12)
    periodics.sweep()
    assert bus.sent == [("nudge", "w1", job_id)]


def test_a_silent_worker_is_forgotten_along_with_its_queue(
        db: Database, periodics: Periodics, bus: Bus, make_worker: Callable[..., None]) -> None:
    make_worker("dead", seen_at=1.0)
    bus.away = True
    periodics.sweep()
    assert known_workers(db) == ["dead"], "nobody would know of its queue any more"
    bus.away = False
    periodics.sweep()
    assert bus.sent == [("delete_queue", "dead")]
    assert known_workers(db) == []


def known_workers(db: Database) -> list[str]:
    with db.read() as session:
        return [worker.id for worker in nodes.workers(session)]


def test_a_heartbeat_tells_of_lost_messages(
        db: Database, manager: ConductorManager, dispatcher: Dispatcher, make_job: Make) -> None:
    worker = {"id": "w1", "host": "h", "capacity": 5, "draining": False}
    assert manager.worker_heartbeat(CONTEXT, worker, {}) == []
    job_id = make_job()
    dispatcher.attend(CONTEXT, job_id)
    expected = [{"job_id": job_id, "generation": 1, "changed": False}]
    assert manager.worker_heartbeat(CONTEXT, worker, {}) == expected
    assert manager.worker_heartbeat(CONTEXT, worker, {job_id: 1}) == expected


def test_a_goodbye_gives_the_jobs_to_others(
        manager: ConductorManager, dispatcher: Dispatcher, bus: Bus, make_job: Make, make_worker: Callable[..., None]) -> None:
    make_worker("w1")
    job_id = make_job()
    dispatcher.attend(CONTEXT, job_id)
    make_worker("w2")
    manager.worker_goodbye(CONTEXT, "w1")
    assert bus.sent[-1] == ("run", "w2", job_id, 2)


def test_when_a_job_is_done_the_next_one_that_waits_for_room_tries(
        db: Database, manager: ConductorManager, bus: Bus, make_job: Make, make_worker: Callable[..., None]) -> None:
    make_worker("w1")
    done = make_job(phase="TEARDOWN", outcome="FAILED", worker_id="w1", generation=1, lease_expires_at=10**12)
    waiting = make_job(not_before=10**12, cause="NO_CAPACITY")
    manager.job_report(CONTEXT, done, 1, {"id": "r", "phase": "DONE"})
    assert bus.sent == [("run", "w1", waiting, 1)]


def test_a_worker_whose_heartbeats_are_late_gets_nothing_new(
        db: Database, dispatcher: Dispatcher, bus: Bus, make_job: Make, make_worker: Callable[..., None]) -> None:
    make_worker("w1", seen_at=1.0)
    job_id = make_job()
    assert not dispatcher.assign(CONTEXT, job_id)
    with db.write() as session:
        assert session.execute(update(Job).where(Job.worker_id.is_not(None)).values(progress=1)).rowcount == 0  # type: ignore[attr-defined]
