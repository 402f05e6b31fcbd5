"""Values that trainings report in their logs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Insert, insert, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from cml_nova.db.models import Metric


def record(session: Session, rows: Sequence[Mapping[str, Any]]) -> None:
    """Keep values; those already kept (same job, attempt, task, offset, name) are left as they are.

    :param rows: the columns of ``Metric``; ``at`` in seconds since 1970 UTC. A value may be NaN or infinite: it is kept as null.
    """
    if rows:
        session.execute(_insert_new(session), [{**row, "value": row["value"] if math.isfinite(row["value"]) else None} for row in rows])


def _insert_new(session: Session) -> Insert:
    """INSERT that skips rows which are there: each database has its own word for it."""
    match session.get_bind().dialect.name:
        case "sqlite":
            return sqlite.insert(Metric).on_conflict_do_nothing()
        case "postgresql":
            return postgresql.insert(Metric).on_conflict_do_nothing()
        case _:
            return insert(Metric).prefix_with("IGNORE")


def select_points(
    session: Session, job_id: str, *, name: str | None = None, task: str | None = None, since: float | None = None, limit: int = 10000
) -> Sequence[Metric]:
    """Give the values of a job in the order of series (name, task) and, in each, of the lines that told of them.

    :param since: seconds since 1970 UTC; only values reported later.
    """
    query = select(Metric).where(Metric.job_id == job_id)
    if name is not None:
        query = query.where(Metric.name == name)
    if task is not None:
        query = query.where(Metric.task == task)
    if since is not None:
        query = query.where(Metric.at > since)
    return session.scalars(query.order_by(Metric.name, Metric.task, Metric.attempt, Metric.offset).limit(limit)).all()
