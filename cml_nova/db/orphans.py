"""The database's side of the comparison with the cloud: who owns what, and what is said about it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from sqlalchemy import select
from sqlalchemy.orm import Session

from cml_nova.db import events
from cml_nova.db.models import Event, Job, Node
from cml_nova.states import Phase

#: phases in which the servers that a job's rows name are to be there
_WITH_SERVERS = (Phase.PROVISIONING, Phase.BOOTSTRAPPING, Phase.RUNNING, Phase.COLLECTING)
_KIND = "orphan"


@dataclass(frozen=True)
class Placed:
    """A server that a living job's row names."""

    job_id: str
    rank: int
    server_id: str
    worker_id: str | None = field(compare=False)


def living(session: Session, job_ids: Collection[str] | None = None) -> set[str]:
    """List the jobs that have not ended; with ``job_ids``, those of them."""
    query = select(Job.id).where(Job.phase != Phase.DONE)
    if job_ids is not None:
        query = query.where(Job.id.in_(job_ids))
    return set(session.scalars(query))


def placed(session: Session) -> set[Placed]:
    """List the servers that should be there."""
    query = (select(Node.job_id, Node.rank, Node.server_id, Job.worker_id).join(Job, Job.id == Node.job_id)
             .where(Job.phase.in_(_WITH_SERVERS), Node.server_id.is_not(None)))
    return {Placed(job_id, rank, str(server_id), worker_id) for job_id, rank, server_id, worker_id in session.execute(query)}


def tell(session: Session, job_id: str, kind: str, resource_id: str, message: str) -> None:
    """Note an event about a resource, unless the job's row is gone, or it was said before (maybe by another conductor)."""
    if session.scalar(select(Job.id).where(Job.id == job_id)) is None:
        return
    said = {detail.get("id") for detail in session.scalars(select(Event.detail).where(Event.job_id == job_id, Event.kind == _KIND))}
    if resource_id not in said:
        events.add(session, job_id, _KIND, message, {"kind": kind, "id": resource_id})
