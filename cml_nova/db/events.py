"""What happened to a job, in order, for people to read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from cml_nova.db import clock
from cml_nova.db.models import Event


def add(session: Session, job_id: str, kind: str, message: str, detail: dict[str, Any] | None = None) -> None:
    """Note an event with the database server's time.

    :param kind: machine-readable word of at most 32 characters.
    """
    session.execute(insert(Event).values(job_id=job_id, at=clock.now(), kind=kind, message=message, detail=detail or {}))


def page(session: Session, job_id: str, limit: int, marker: int | None = None) -> Sequence[Event]:
    """List events of a job, oldest first, after the one with the id ``marker``."""
    query = select(Event).where(Event.job_id == job_id).order_by(Event.id).limit(limit)
    if marker is not None:
        query = query.where(Event.id > marker)
    return session.scalars(query).all()
