"""What workers report, and what becomes of it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from oslo_config import cfg
from sqlalchemy import select

from cml_nova import exception
from cml_nova.conductor import reports
from cml_nova.db import leases
from cml_nova.db.clock import now
from cml_nova.db.engine import Database
from cml_nova.db.models import Event, Job, Metric, Node, Task

Make = Callable[..., str]

numbers = itertools.count(1)


@pytest.fixture
def report(db: Database, conf: cfg.ConfigOpts) -> Callable[..., dict[str, Any]]:
    def send(job_id: str, generation: int = 1, **changes: Any) -> dict[str, Any]:
        with db.write() as session:
            return reports.apply(session, job_id, generation, {"id": f"{next(numbers):04d}", **changes}, conf.conductor)
    return send


@pytest.fixture
def held(db: Database, make_job: Make) -> Make:
    def make(**columns: Any) -> str:
        job_id = make_job(**columns)
        with db.write() as session:
            leases.claim(session, job_id, "w1", 60)
        return job_id
    return make


def load(db: Database, job_id: str) -> Job:
    with db.read() as session:
        return session.scalars(select(Job).where(Job.id == job_id)).one()


def test_the_view_is_for_the_holder_only(db: Database, held: Make) -> None:
    job_id = held(phase="RUNNING", attempt=1)
    with db.read() as session:
        seen = reports.view(session, job_id, 1)
        assert (seen["id"], seen["phase"], seen["nodes"][0]["rank"]) == (job_id, "RUNNING", 0)
        assert seen["phase_age"] > 0
        with pytest.raises(exception.LeaseLost):
            reports.view(session, job_id, 2)


def test_a_report_changes_job_nodes_tasks_events_and_metrics(db: Database, held: Make, report: Callable[..., dict[str, Any]]) -> None:
    job_id = held()
    metric = {"attempt": 1, "task": "worker:0", "offset": 5, "name": "loss", "step": 1, "value": 0.5, "at": 2.0}
    task = {"attempt": 1, "name": "worker:0", "node_rank": 0, "state": "RUNNING"}
    for _ in range(2):  # metrics and tasks may come twice in different reports
        report(job_id, phase="BOOTSTRAPPING", progress=10, nodes=[{"rank": 0, "status": "ACTIVE", "address": "a"}],
               tasks=[task], events=[["node", "up", {"rank": 0}]], metrics=[metric])
    job = load(db, job_id)
    assert (job.phase, job.progress) == ("BOOTSTRAPPING", 10)
    with db.read() as session:
        assert session.scalars(select(Node.status)).all() == ["ACTIVE"]
        assert session.scalars(select(Task.state)).all() == ["RUNNING"]
        assert session.scalars(select(Metric.value)).all() == [0.5]
        assert set(session.scalars(select(Event.message))) == {"up"}


def test_values_get_their_times_by_the_databases_clock(db: Database, held: Make, report: Callable[..., dict[str, Any]]) -> None:
    """Workers' clocks may differ by hours. Only how far values are apart is theirs to say."""
    job_id = held()
    value = {"attempt": 1, "task": "worker:0", "name": "loss", "step": None, "value": 0.5}
    report(job_id, metrics=[{**value, "offset": 0, "at": 7.0}, {**value, "offset": 9, "at": 10.0}])
    with db.read() as session:
        first, second = session.scalars(select(Metric.at).order_by(Metric.offset))
        assert second - first == pytest.approx(3)
        assert 0 <= session.scalars(select(now())).one() - second < 600


def test_the_same_report_twice_is_one(db: Database, conf: cfg.ConfigOpts, held: Make) -> None:
    job_id = held()
    twice = {"id": "0001", "events": [["node", "once", {}]]}
    with db.write() as session:
        first = reports.apply(session, job_id, 1, twice, conf.conductor)
        assert reports.apply(session, job_id, 1, twice, conf.conductor) == first
        assert len(session.scalars(select(Event)).all()) == 1


def test_a_doubled_report_that_later_ones_overtook_changes_nothing(db: Database, conf: cfg.ConfigOpts, held: Make) -> None:
    """Its first copy was answered; the second one hung in another conductor."""
    job_id = held(phase="RUNNING")
    early, late = {"id": "0001", "runtime": {"a": 1}, "progress": 10}, {"id": "0002", "runtime": {"b": 2}, "progress": 20}
    for document in (early, late, early):
        with db.write() as session:
            reports.apply(session, job_id, 1, document, conf.conductor)
    job = load(db, job_id)
    assert (job.runtime, job.progress) == ({"b": 2}, 20)


def test_reports_are_counted_anew_in_each_generation(db: Database, conf: cfg.ConfigOpts, held: Make) -> None:
    """Their ids come from the clock of the worker's host, which another one does not have."""
    job_id = held(phase="RUNNING")
    with db.write() as session:
        reports.apply(session, job_id, 1, {"id": "9999", "progress": 10}, conf.conductor)
        leases.release_all(session, "w1")
        assert leases.claim(session, job_id, "w2", 60) == 2
        reports.apply(session, job_id, 2, {"id": "0001", "progress": 20}, conf.conductor)
    assert load(db, job_id).progress == 20


def test_a_stale_owner_changes_nothing(db: Database, held: Make, report: Callable[..., dict[str, Any]]) -> None:
    job_id = held()
    with pytest.raises(exception.LeaseLost):
        report(job_id, generation=0, progress=99, events=[["x", "y", {}]])
    assert load(db, job_id).progress == 0
    with db.read() as session:
        assert session.scalars(select(Event)).all() == []


def test_a_phase_that_may_not_follow_is_refused(held: Make, report: Callable[..., dict[str, Any]]) -> None:
    with pytest.raises(exception.InvalidTransition):
        report(held(), phase="COLLECTING")


def test_a_known_outcome_stays(db: Database, held: Make, report: Callable[..., dict[str, Any]]) -> None:
    job_id = held(phase="COLLECTING")
    report(job_id, outcome="FAILED", cause="USER_ERROR", status_reason="exit 3", exit_code=3)
    result = report(job_id, phase="TEARDOWN", outcome="CANCELLED", status_reason="late")
    assert result["outcome"] == "FAILED"
    job = load(db, job_id)
    assert (job.outcome, job.status_reason, job.exit_code) == ("FAILED", "exit 3", 3)


def test_the_first_run_is_timed_from_its_start(db: Database, held: Make, report: Callable[..., dict[str, Any]]) -> None:
    job_id = held(phase="BOOTSTRAPPING")
    report(job_id, phase="RUNNING")
    started = load(db, job_id).started_at
    assert started is not None
    report(job_id, phase="BOOTSTRAPPING")
    report(job_id, phase="RUNNING")
    assert load(db, job_id).started_at == started


def test_a_job_short_of_room_goes_back_to_the_queue_for_longer_each_time(
        db: Database, conf: cfg.ConfigOpts, held: Make, report: Callable[..., dict[str, Any]]) -> None:
    conf.set_override("queue_retry_min", 100, "conductor")
    conf.set_override("queue_retry_max", 10000, "conductor")
    pauses = []
    job_id = held()
    for generation in range(1, 4):
        report(job_id, generation, phase="QUEUED", pause=None, cause="NO_CAPACITY", status_reason="No valid host")
        job = load(db, job_id)
        assert (job.phase, job.worker_id, job.cause) == ("QUEUED", None, "NO_CAPACITY")
        assert job.not_before is not None
        pauses.append(job.not_before - job.updated_at)
        with db.write() as session:
            leases.wake_next_waiting(session)
            assert leases.claim(session, job_id, "w1", 60) == generation + 1
    assert 50 <= pauses[0] <= 101 and 100 <= pauses[1] <= 201 and 200 <= pauses[2] <= 401


def test_the_wait_of_a_job_that_has_run_counts_from_when_it_lost_its_room(
        db: Database, held: Make, report: Callable[..., dict[str, Any]]) -> None:
    new, ran = held(), held(started_at=1001.0)
    for job_id in (new, ran):
        report(job_id, phase="QUEUED", pause=0.0)
    assert load(db, new).waiting_since is None
    since = load(db, ran).waiting_since
    assert since is not None and since > 1001
    with db.write() as session:
        assert leases.claim(session, ran, "w1", 60) == 2
    report(ran, 2, phase="QUEUED", pause=0.0)
    assert load(db, ran).waiting_since == since, "no room yet"
    with db.write() as session:
        assert leases.claim(session, ran, "w1", 60) == 3
    report(ran, 3, phase="BOOTSTRAPPING")
    assert load(db, ran).waiting_since is None


def test_done_frees_the_job_and_forgets_a_deleted_one(db: Database, held: Make, report: Callable[..., dict[str, Any]]) -> None:
    kept, deleted = held(phase="TEARDOWN", outcome="SUCCEEDED"), held(phase="TEARDOWN", outcome="CANCELLED", forget=True)
    assert report(kept, phase="DONE")["forget"] is False
    assert report(deleted, phase="DONE", events=[["phase", "gone", {}]])["forget"] is True
    job = load(db, kept)
    assert (job.phase, job.worker_id) == ("DONE", None) and job.finished_at
    with db.read() as session:
        assert session.scalar(select(Job.id).where(Job.id == deleted)) is None
        assert session.scalars(select(Event).where(Event.job_id == deleted)).all() == []
