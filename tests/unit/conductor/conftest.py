"""A database with the schema, a recording bus, and jobs to make."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from oslo_config import cfg

from cml_nova import conf as cml_conf
from cml_nova.conductor.dispatch import Dispatcher
from cml_nova.conductor.health import Health, Part
from cml_nova.db.engine import Database
from cml_nova.db.models import Base, Job, Node, Worker


@pytest.fixture
def conf(tmp_path: Path) -> cfg.ConfigOpts:
    conf = cfg.ConfigOpts()
    cml_conf.register_opts(conf)
    conf([])
    conf.set_override("connection", f"sqlite:///{tmp_path}/db", "database")
    conf.set_override("path", str(tmp_path / "storage"), "storage")
    return conf


@pytest.fixture
def db(conf: cfg.ConfigOpts) -> Database:
    db = Database(conf)
    Base.metadata.create_all(db.engine)
    return db


class Bus:
    """Stands where WorkerClient stands, and remembers what was sent."""

    def __init__(self) -> None:
        self.sent: list[tuple[Any, ...]] = []
        self.found: list[dict[str, Any]] = []
        self.away = False

    def ping(self, timeout: float) -> None:
        if self.away:
            raise ConnectionRefusedError

    def run(self, context: object, worker_id: str, job_id: str, generation: int) -> None:
        self.sent.append(("run", worker_id, job_id, generation))

    def nudge(self, context: object, worker_id: str, job_id: str) -> None:
        self.sent.append(("nudge", worker_id, job_id))

    def inventory(self, context: object, worker_id: str) -> list[dict[str, Any]]:
        return self.found

    def reap(self, context: object, worker_id: str, job_id: str) -> None:
        self.sent.append(("reap", worker_id, job_id))

    def delete_queue(self, worker_id: str) -> None:
        if self.away:
            raise ConnectionRefusedError
        self.sent.append(("delete_queue", worker_id))


@pytest.fixture
def bus() -> Bus:
    return Bus()


class Clock:
    """Stands still until it is set."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def health(conf: cfg.ConfigOpts, clock: Clock) -> Health:
    """Of a conductor that has seen database and bus at work for one lease time."""
    made = Health(conf.conductor.lease_time, conf.conductor.sweep_interval, clock)
    look_at_both(made, clock, conf.conductor.lease_time)
    return made


def look_at_both(health: Health, clock: Clock, seconds: float, interval: float = 5) -> None:
    """Let time go by in which all is well."""
    end = clock.now + seconds
    while True:
        for part in Part:
            health.good(part)
        if clock.now >= end:
            return
        clock.now = min(end, clock.now + interval)


@pytest.fixture
def dispatcher(conf: cfg.ConfigOpts, db: Database, bus: Bus, health: Health) -> Dispatcher:
    return Dispatcher(conf, db, bus, health)  # type: ignore[arg-type]


NOW = 10_000_000_000.0  # later than any clock that runs a test


@pytest.fixture
def make_job(db: Database) -> Callable[..., str]:
    def make(**columns: Any) -> str:
        job_id = str(uuid.uuid4())
        values: dict[str, Any] = {
            "id": job_id, "project_id": "p", "user_id": "u", "name": "job", "phase": "QUEUED", "target": "RUN",
            "spec": {"max_wait_time": 10**10, "max_run_time": 10**10}, "keys": {}, "sealed": "", "runtime": {}, "meta": {},
            "created_at": 1000.0, "updated_at": 1000.0, "phase_started_at": 1000.0, **columns,
        }
        with db.write() as session:
            session.add(Job(**values))
            session.flush()
            session.add(Node(job_id=job_id, rank=0, role="worker", role_index=0, flavor_id="f", status="PLANNED", updated_at=1000.0))
        return job_id
    return make


@pytest.fixture
def make_worker(db: Database) -> Callable[..., None]:
    def make(worker_id: str, capacity: int = 10, seen_at: float = NOW, draining: bool = False) -> None:
        with db.write() as session:
            session.add(Worker(id=worker_id, host="h", capacity=capacity, draining=draining, started_at=1.0, seen_at=seen_at))
    return make
