"""What jobs want and have of each flavor now: all that the service itself knows of the room in the cloud."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import case, distinct, func, select
from sqlalchemy.orm import Session

from cml_nova.db.models import Job, Node
from cml_nova.states import Cause, Phase


@dataclass(frozen=True)
class Demand:
    """Jobs for which the cloud had no room when it was asked last, and nodes that others have."""

    waiting: int = 0
    held: int = 0


def by_flavor(session: Session) -> dict[str, Demand]:
    """Count for each flavor (by id) that a job wants or has; of all projects, since they share the cloud."""
    # Also those that are tried again just now, with servers that may come to nothing.
    waits = Job.phase.in_((Phase.QUEUED, Phase.PROVISIONING)) & func.coalesce(Job.cause, "").in_((Cause.NO_CAPACITY, Cause.QUOTA))
    rows = session.execute(
        select(Node.flavor_id, func.count(distinct(case((waits, Job.id)))), func.count(case((~waits, Node.server_id))))
        .join(Job, Job.id == Node.job_id).where(Job.phase.in_([phase for phase in Phase if phase != Phase.DONE])).group_by(Node.flavor_id))
    return {flavor_id: Demand(waiting, held) for flavor_id, waiting, held in rows}


def queued_before(session: Session, priority: int) -> int:
    """Count the jobs in the queue that would come before a new one."""
    query = select(func.count()).select_from(Job).where(Job.phase == Phase.QUEUED, Job.priority >= priority)
    return int(session.scalar(query) or 0)
