"""Which servers were there for how long, by what workers report of nodes."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from oslo_config import cfg
from sqlalchemy import select, update

from cml_nova.conductor import reports
from cml_nova.db import leases
from cml_nova.db.engine import Database
from cml_nova.db.models import Node, NodeTime

Tell = Callable[..., None]

numbers = itertools.count(1)


@pytest.fixture
def tell(db: Database, conf: cfg.ConfigOpts, make_job: Callable[..., str]) -> Tell:
    """Report changes of node 0 of a job that is held."""
    job_id = make_job()
    with db.write() as session:
        leases.claim(session, job_id, "w1", 60)
        session.execute(update(Node).values(accelerators=4, price=2.5))

    def send(**columns: Any) -> None:
        with db.write() as session:
            reports.apply(session, job_id, 1, {"id": f"{next(numbers):04d}", "nodes": [{"rank": 0, **columns}]}, conf.conductor)

    return send


def found(db: Database) -> list[tuple[str, bool]]:
    """Give each server that was there, and whether it still is."""
    with db.read() as session:
        return [(row.server_id, row.ended_at is None) for row in session.scalars(select(NodeTime).order_by(NodeTime.id))]


def test_a_server_counts_from_its_appearance_to_its_deletion(db: Database, tell: Tell) -> None:
    tell(status="PLANNED", server_id=None)
    assert found(db) == []
    tell(server_id="a", status="BUILD")
    tell(server_id="a", status="ACTIVE", address="10.0.0.1")
    tell(status="ACTIVE", unreachable_since=1.0)
    assert found(db) == [("a", True)]
    tell(status="DELETED")
    tell(status="DELETED")
    assert found(db) == [("a", False)]
    with db.read() as session:
        row = session.scalars(select(NodeTime)).one()
        assert (row.project_id, row.rank, row.accelerators, row.price) == ("p", 0, 4, 2.5)
        assert row.started_at <= row.ended_at  # type: ignore[operator]


def test_a_replaced_server_counts_too(db: Database, tell: Tell) -> None:
    tell(server_id="a", status="ACTIVE")
    tell(server_id=None, status="LOST", fault="gone")
    assert found(db) == [("a", False)]
    tell(server_id="b", status="BUILD")
    assert found(db) == [("a", False), ("b", True)]
    tell(server_id="c", status="BUILD")  # b broke, and the report of that was lost
    assert found(db) == [("a", False), ("b", False), ("c", True)]
    tell(server_id=None, status="PLANNED")  # back into the queue
    assert found(db) == [("a", False), ("b", False), ("c", False)]


def test_a_server_that_is_reported_again_by_the_next_worker_is_one(db: Database, tell: Tell) -> None:
    for _ in range(2):
        tell(server_id="a", status="ACTIVE")
    assert found(db) == [("a", True)]
