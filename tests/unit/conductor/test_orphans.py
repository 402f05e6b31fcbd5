"""The comparison of cloud and database, both ways."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from oslo_config import cfg
from sqlalchemy import select, update

from cml_nova import exception
from cml_nova.conductor import metrics
from cml_nova.conductor.orphans import Orphans
from cml_nova.db.engine import Database
from cml_nova.db.models import Event, Job, Node, Worker
from tests.unit.conductor.conftest import Bus, Clock

Make = Callable[..., str]


@pytest.fixture
def orphans(conf: cfg.ConfigOpts, db: Database, bus: Bus, clock: Clock, make_worker: Callable[..., None]) -> Orphans:
    make_worker("w1")
    return Orphans(conf, db, bus, clock)  # type: ignore[arg-type]


def resource(job_id: str, age: float = 9999, kind: str = "server", id_: str = "") -> dict[str, Any]:
    return {"kind": kind, "id": id_ or f"{kind}-of-{job_id}", "job_id": job_id, "age": age}


def told(db: Database) -> list[tuple[str, str]]:
    with db.read() as session:
        rows = session.execute(select(Event.job_id, Event.detail).where(Event.kind == "orphan")).all()
    return sorted((job_id, detail["id"]) for job_id, detail in rows)


def counted(counter: Any, kind: str) -> float:
    return float(counter.labels(kind)._value.get())


def test_only_old_things_without_a_living_job_are_orphans(orphans: Orphans, db: Database, bus: Bus, make_job: Make) -> None:
    alive, done = make_job(phase="RUNNING", worker_id="w1", lease_expires_at=10**12), make_job(phase="DONE", outcome="FAILED")
    bus.found = [resource(alive), resource(done), resource(done, kind="port"), resource("unknown"), resource("unknown", kind="group"),
                 resource("young", age=1.0)]
    for _ in range(2):
        orphans.look()
    assert sorted(bus.sent) == sorted(2 * [("reap", "w1", done), ("reap", "w1", "unknown")])
    assert told(db) == [(done, f"port-of-{done}"), (done, f"server-of-{done}")], "each is told once"


def test_what_has_no_age_in_the_cloud_gets_old_before_our_eyes(orphans: Orphans, bus: Bus, clock: Clock) -> None:
    bus.found = [resource("gone", age=0.0)]
    orphans.look()
    assert bus.sent == []
    clock.now = 301
    orphans.look()
    assert bus.sent == [("reap", "w1", "gone")]


def test_a_worker_that_is_full_may_look_for_orphans(conf: cfg.ConfigOpts, orphans: Orphans, db: Database, bus: Bus, make_job: Make) -> None:
    with db.write() as session:
        session.execute(update(Worker).values(capacity=1))
    make_job(phase="RUNNING", worker_id="w1", lease_expires_at=10**12)
    bus.found = [resource("gone")]
    orphans.look()
    assert bus.sent == [("reap", "w1", "gone")]


def test_a_second_conductor_tells_nothing_again(
        conf: cfg.ConfigOpts, orphans: Orphans, db: Database, bus: Bus, clock: Clock, make_job: Make) -> None:
    done = make_job(phase="DONE", outcome="FAILED")
    bus.found = [resource(done)]
    orphans.look()
    Orphans(conf, db, bus, clock).look()  # type: ignore[arg-type]
    assert told(db) == [(done, f"server-of-{done}")]


def test_orphans_may_only_be_told_of(conf: cfg.ConfigOpts, orphans: Orphans, db: Database, bus: Bus, make_job: Make) -> None:
    conf.set_override("orphan_action", "log", "conductor")
    done = make_job(phase="DONE", outcome="FAILED")
    bus.found = [resource(done)]
    orphans.look()
    assert bus.sent == []
    assert told(db) == [(done, f"server-of-{done}")]


def test_what_names_no_job_is_left_to_the_operator(orphans: Orphans, bus: Bus) -> None:
    """A deletion by job whose job is nobody would be one of all there is."""
    bus.found = [resource("", id_="stray")]
    orphans.look()
    assert bus.sent == []


def test_a_job_that_ends_while_the_cloud_answers_has_left_nothing(
        orphans: Orphans, db: Database, bus: Bus, make_job: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = make_job(phase="TEARDOWN", worker_id="w1", lease_expires_at=10**12)

    def inventory(*_: object) -> list[dict[str, Any]]:
        with db.write() as session:
            session.execute(update(Job).values(phase="DONE"))
        return [resource(job_id)]

    monkeypatch.setattr(bus, "inventory", inventory)
    orphans.look()
    assert bus.sent == []


def test_what_is_found_and_what_is_gone_is_counted_once(orphans: Orphans, bus: Bus) -> None:
    found, deleted = counted(metrics.ORPHANS_FOUND, "floating"), counted(metrics.ORPHANS_DELETED, "floating")
    bus.found = [resource("x", kind="floating")]
    for _ in range(2):
        orphans.look()
    bus.found = []
    for _ in range(2):
        orphans.look()
    assert counted(metrics.ORPHANS_FOUND, "floating") - found == 1
    assert counted(metrics.ORPHANS_DELETED, "floating") - deleted == 1


def test_the_owner_looks_for_a_server_that_two_looks_have_not_found(orphans: Orphans, db: Database, bus: Bus, make_job: Make) -> None:
    running = make_job(phase="RUNNING", worker_id="w1", lease_expires_at=10**12)
    ending = make_job(phase="TEARDOWN", worker_id="w1", lease_expires_at=10**12)
    with db.write() as session:
        for job_id in (running, ending):
            session.execute(update(Node).where(Node.job_id == job_id).values(server_id=f"s-{job_id[:8]}"))
    orphans.look()
    assert bus.sent == [], "once may be the moment in which it was made"
    orphans.look()
    assert bus.sent == [("nudge", "w1", running)]
    assert told(db) == [(running, f"s-{running[:8]}")]
    bus.found = [resource(running, id_=f"s-{running[:8]}")]
    orphans.look()
    bus.found = []
    orphans.look()
    assert len(bus.sent) == 1, "it was there in between"


def test_a_cloud_that_does_not_answer_says_nothing_about_anybody(
        orphans: Orphans, db: Database, bus: Bus, make_job: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = make_job(phase="RUNNING", worker_id="w1", lease_expires_at=10**12)
    with db.write() as session:
        session.execute(update(Node).where(Node.job_id == job_id).values(server_id="s"))

    def inventory(*_: object) -> list[dict[str, Any]]:
        raise exception.CloudError("503")

    monkeypatch.setattr(bus, "inventory", inventory)
    for _ in range(3):
        orphans.look()
    assert bus.sent == []
