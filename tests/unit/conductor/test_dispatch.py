"""Giving jobs to workers, and what the conductor does by the clock."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from oslo_config import cfg
from sqlalchemy import select, update

from cml_nova import context as cml_context
from cml_nova.conductor.dispatch import Dispatcher
from cml_nova.conductor.manager import ConductorManager
from cml_nova.conductor.periodics import Periodics
from cml_nova.db import nodes
from cml_nova.db.engine import Database
from cml_nova.db.models import Job
from cml_nova.storage import get_storage
from tests.unit.conductor.conftest import Bus

Make = Callable[..., str]
CONTEXT = cml_context.service_context()


@pytest.fixture
def periodics(conf: cfg.ConfigOpts, db: Database, dispatcher: Dispatcher, bus: Bus) -> Periodics:
    return Periodics(conf, db, dispatcher, bus)  # type: ignore[arg-type]


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


def test_a_full_worker_gets_no_more(periodics: Periodics, bus: Bus, make_job: Make, make_worker: Callable[..., None]) -> None:
    make_worker("w1", capacity=2)
    for _ in range(3):
        make_job()
    periodics.sweep()
    assert len(bus.sent) == 2


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


def test_only_old_things_without_a_living_job_are_orphans(
        periodics: Periodics, bus: Bus, make_job: Make, make_worker: Callable[..., None]) -> None:
    make_worker("w1")
    alive, done = make_job(phase="RUNNING", worker_id="w1", lease_expires_at=10**12), make_job(phase="DONE", outcome="FAILED")
    bus.found = [{"kind": "server", "id": str(n), "job_id": job_id, "age": age} for n, (job_id, age) in enumerate(
        [(alive, 9999.0), (done, 9999.0), ("unknown", 9999.0), ("unknown", 9999.0), ("young", 1.0)])]
    periodics.find_orphans()
    assert sorted(bus.sent) == sorted([("reap", "w1", done), ("reap", "w1", "unknown")])


def test_a_worker_whose_heartbeats_are_late_gets_nothing_new(
        db: Database, dispatcher: Dispatcher, bus: Bus, make_job: Make, make_worker: Callable[..., None]) -> None:
    make_worker("w1", seen_at=1.0)
    job_id = make_job()
    assert not dispatcher.assign(CONTEXT, job_id)
    with db.write() as session:
        assert session.execute(update(Job).where(Job.worker_id.is_not(None)).values(progress=1)).rowcount == 0  # type: ignore[attr-defined]
