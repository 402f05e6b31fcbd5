"""One owner a job, by conditional UPDATE and the database's clock."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import select, update

from cml_nova import exception
from cml_nova.db import leases
from cml_nova.db.engine import Database
from cml_nova.db.models import Job, Worker

Make = Callable[..., str]


def column(db: Database, job_id: str, name: str) -> object:
    with db.read() as session:
        return session.scalar(select(getattr(Job, name)).where(Job.id == job_id))


def claim(db: Database, job_id: str, worker: str = "w1", lease_time: float = 60) -> int | None:
    with db.write() as session:
        return leases.claim(session, job_id, worker, lease_time)


def expire(db: Database, job_id: str) -> None:
    with db.write() as session:
        session.execute(update(Job).where(Job.id == job_id).values(lease_expires_at=1.0))


def test_a_job_has_one_owner(db: Database, make_job: Make) -> None:
    job_id = make_job()
    assert claim(db, job_id, "w1") == 1
    assert claim(db, job_id, "w2") is None
    assert column(db, job_id, "worker_id") == "w1"


def test_a_claim_admits_a_queued_job(db: Database, make_job: Make) -> None:
    job_id = make_job()
    claim(db, job_id)
    assert column(db, job_id, "phase") == "PROVISIONING"
    assert column(db, job_id, "phase_started_at") != 1000.0


def test_a_claim_takes_a_running_job_on_as_it_is(db: Database, make_job: Make) -> None:
    job_id = make_job(phase="RUNNING")
    claim(db, job_id)
    assert column(db, job_id, "phase") == "RUNNING"
    assert column(db, job_id, "phase_started_at") == 1000.0


def test_a_cancelled_queued_job_goes_to_teardown_at_once(db: Database, make_job: Make) -> None:
    job_id = make_job(target="DELETE", not_before=10**12)
    claim(db, job_id)
    assert column(db, job_id, "phase") == "TEARDOWN"


def test_an_expired_lease_can_be_taken_and_the_old_owner_is_fenced(db: Database, make_job: Make) -> None:
    job_id = make_job()
    assert claim(db, job_id, "w1") == 1
    expire(db, job_id)
    assert claim(db, job_id, "w2") is None, "a lease that has expired is taken over on purpose only"
    with db.write() as session:
        assert leases.expired(session, 10) == [job_id]
        assert leases.claim(session, job_id, "w2", 60, take_over=True) == 2
        assert leases.claim(session, job_id, "w3", 60, take_over=True) is None
    with db.write() as session, pytest.raises(exception.LeaseLost):
        leases.write(session, job_id, 1, {"progress": 50})
    with db.write() as session:
        leases.write(session, job_id, 2, {"progress": 20})
    assert column(db, job_id, "progress") == 20


def test_a_job_that_pauses_is_not_to_be_had(db: Database, make_job: Make) -> None:
    job_id = make_job(not_before=10**12)
    assert claim(db, job_id) is None
    with db.read() as session:
        assert leases.claimable(session, 10) == []


def test_a_done_job_is_not_to_be_had(db: Database, make_job: Make) -> None:
    assert claim(db, make_job(phase="DONE", outcome="SUCCEEDED")) is None


def test_claimable_jobs_come_by_what_they_hold_then_priority_then_age(db: Database, make_job: Make) -> None:
    young = make_job(created_at=3.0)
    old = make_job(created_at=2.0)
    urgent = make_job(created_at=4.0, priority=5)
    running = make_job(created_at=5.0, phase="RUNNING")
    with db.read() as session:
        assert leases.claimable(session, 10) == [running, urgent, old, young]


def test_renewal_lists_what_is_the_workers_and_renews_only_what_it_knows(db: Database, make_job: Make) -> None:
    known, unknown, foreign = make_job(), make_job(), make_job(target="DELETE", phase="RUNNING")
    for job_id in (known, unknown):
        claim(db, job_id, "w1", lease_time=1)
    claim(db, foreign, "w2")
    before = column(db, unknown, "lease_expires_at")
    with db.write() as session:
        found = leases.renew(session, "w1", {known: 1, foreign: 1}, 1000)
    assert {(h.job_id, h.generation, h.changed) for h in found} == {(known, 1, False), (unknown, 1, False)}
    assert column(db, unknown, "lease_expires_at") == before
    assert column(db, known, "lease_expires_at") > before + 900  # type: ignore[operator]


def test_renewal_says_that_the_user_wants_a_job_gone(db: Database, make_job: Make) -> None:
    job_id = make_job(phase="RUNNING", target="DELETE")
    claim(db, job_id)
    with db.write() as session:
        assert leases.renew(session, "w1", {job_id: 1}, 60)[0].changed


def test_goodbye_frees_every_job(db: Database, make_job: Make) -> None:
    job_id = make_job()
    claim(db, job_id, "w1")
    with db.write() as session:
        leases.release_all(session, "w1")
    assert claim(db, job_id, "w2") == 2


def test_the_idlest_live_worker_with_a_place_is_picked(db: Database, make_job: Make, make_worker: Callable[..., None]) -> None:
    make_worker("busy")
    make_worker("full", capacity=0)
    make_worker("silent", seen_at=1.0)
    make_worker("leaving", draining=True)
    claim(db, make_job(), "busy")
    with db.read() as session:
        assert leases.idlest_worker(session, 30) == "busy"
    make_worker("idle")
    with db.read() as session:
        assert leases.idlest_worker(session, 30) == "idle"


def test_silent_are_workers_not_heard_of_that_hold_nothing(db: Database, make_job: Make, make_worker: Callable[..., None]) -> None:
    make_worker("silent", seen_at=1.0)
    make_worker("alive")
    claim(db, make_job(), "silent")
    with db.write() as session:
        assert leases.silent(session, 60) == []
        leases.release_all(session, "silent")
        assert leases.silent(session, 60) == ["silent"]


def test_a_silent_worker_that_came_back_is_not_forgotten(db: Database, make_job: Make, make_worker: Callable[..., None]) -> None:
    """It may have been heard of, or been given a job, since it was found silent."""
    make_worker("silent", seen_at=1.0)
    make_worker("holder", seen_at=1.0)
    make_worker("back")
    claim(db, make_job(), "holder")
    with db.write() as session:
        for worker_id in ("silent", "holder", "back"):
            leases.forget_silent(session, worker_id, 60)
        assert sorted(session.scalars(select(Worker.id))) == ["back", "holder"]


def test_only_the_first_of_those_that_wait_for_room_is_woken(db: Database, make_job: Make) -> None:
    first = make_job(cause="NO_CAPACITY", not_before=10**12, created_at=1.0)
    second = make_job(cause="QUOTA", not_before=10**12, created_at=2.0)
    make_job(cause=None, not_before=10**12, created_at=0.5)
    with db.write() as session:
        assert leases.wake_next_waiting(session) == first
    assert column(db, first, "not_before") is None
    assert column(db, second, "not_before") == 10**12


def test_time_limits(db: Database, make_job: Make) -> None:
    limits = {"max_wait_time": 10, "max_run_time": 10}
    waited = make_job(spec=limits)
    short = [make_job(spec=limits, cause=cause) for cause in ("NO_CAPACITY", "QUOTA")]
    again = make_job(spec=limits, started_at=1001.0, waiting_since=10.0**12)
    ran = make_job(spec=limits, phase="RUNNING", started_at=1.0)
    preparing = make_job(spec=limits, phase="BOOTSTRAPPING")
    patient = make_job()
    with db.write() as session:
        assert sorted(leases.end_overdue_waits(session)) == sorted([waited, *short])
        assert leases.end_overdue_runs(session) == [ran]
        assert leases.end_overdue_runs(session) == []
    assert [column(db, waited, n) for n in ("outcome", "target", "cause")] == ["TIMED_OUT", "DELETE", "TIMEOUT"]
    assert [column(db, job_id, "cause") for job_id in short] == ["NO_CAPACITY", "QUOTA"], "what it waited for"
    assert column(db, again, "outcome") is None, "the wait counts anew for a job that has run"
    assert [column(db, ran, n) for n in ("outcome", "target")] == ["TIMED_OUT", "RUN"]
    assert column(db, preparing, "outcome") is None and column(db, patient, "outcome") is None
