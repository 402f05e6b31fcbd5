"""What Prometheus is told of how things stand."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import prometheus_client
from prometheus_client.core import CollectorRegistry

from cml_nova import exception
from cml_nova.conductor.metrics import Standing
from cml_nova.db.engine import Database


def scrape(db: Any) -> dict[str, float]:
    registry = CollectorRegistry()
    registry.register(Standing(db, 30, 300))
    text = prometheus_client.generate_latest(registry).decode()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))}


def test_the_database_says_how_things_stand(db: Database, make_job: Callable[..., str], make_worker: Callable[..., None]) -> None:
    make_worker("alive")
    make_worker("dead", seen_at=1.0)
    for _ in range(2):
        make_job()
    make_job(phase="RUNNING", worker_id="dead", lease_expires_at=1.0)
    make_job(phase="TEARDOWN", worker_id="alive", lease_expires_at=10**12, phase_started_at=1.0)
    make_job(phase="TEARDOWN", worker_id="alive", lease_expires_at=10**12, phase_started_at=10**12)
    make_job(phase="DONE", outcome="SUCCEEDED")
    found = scrape(db)
    assert {name: value for name, value in found.items() if value} == {
        "cml_nova_database_up": 1, 'cml_nova_jobs{phase="QUEUED"}': 2, 'cml_nova_jobs{phase="RUNNING"}': 1,
        'cml_nova_jobs{phase="TEARDOWN"}': 2, "cml_nova_leases_expired": 1, "cml_nova_leak_suspects": 1, "cml_nova_workers_alive": 1}
    assert found['cml_nova_jobs{phase="BOOTSTRAPPING"}'] == 0


def test_a_database_that_is_away_is_a_number_too() -> None:
    class Away:
        @contextmanager
        def read(self) -> Any:
            raise exception.DatabaseUnavailable("away")
            yield

    assert scrape(Away()) == {"cml_nova_database_up": 0}
