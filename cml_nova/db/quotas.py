"""Quotas of projects: their own limits, and what they have, counted from the rows of jobs and nodes whenever it is asked for."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

from sqlalchemy import distinct, func, select, update
from sqlalchemy.orm import Session

from cml_nova.db.models import Job, Node, Quota, QuotaLock
from cml_nova.states import Phase

#: what is counted: jobs that have not ended, their nodes, and what accelerators these have
RESOURCES = ("jobs", "nodes", "accelerators")
_UNFINISHED = [phase for phase in Phase if phase != Phase.DONE]
#: rows that the migration has made
_SLOTS = 64


def lock(session: Session, project_id: str) -> None:
    """Make whoever else adds to this project wait for the end of this transaction, which must have read nothing yet.

    That is a row that each of them changes first. SQLite lets one transaction write at a time. MariaDB and PostgreSQL let the second one
    wait for the row; what it reads afterwards is of a time after the first one's end: MariaDB's snapshot is that of the first read,
    which an UPDATE is not, and PostgreSQL's that of each statement. Projects that share a row wait for each other for no reason, and
    briefly; in return nobody has to make a row for a new project, at which two could collide.
    """
    slot = zlib.crc32(project_id.encode()) % _SLOTS
    session.execute(update(QuotaLock).where(QuotaLock.slot == slot).values(taken=QuotaLock.taken + 1),
                    execution_options={"synchronize_session": False})


def in_use(session: Session, project_id: str) -> dict[str, int]:
    """Count what a project has."""
    row = session.execute(
        select(func.count(distinct(Job.id)), func.count(Node.rank), func.coalesce(func.sum(Node.accelerators), 0))
        .select_from(Job).outerjoin(Node, Node.job_id == Job.id)
        .where(Job.project_id == project_id, Job.phase.in_(_UNFINISHED))).one()
    return {name: int(count) for name, count in zip(RESOURCES, row, strict=True)}


def limits(session: Session, project_id: str) -> dict[str, int | None]:
    """Give a project's own limits; None where it has none."""
    found = session.get(Quota, project_id)
    return {name: getattr(found, name, None) for name in RESOURCES}


def set_limits(session: Session, project_id: str, values: Mapping[str, int | None]) -> None:
    """Set limits of a project; None takes one away."""
    lock(session, project_id)
    session.merge(Quota(project_id=project_id, **values))
