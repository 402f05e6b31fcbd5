"""Who may be let through to which node now, as far as that is a matter of the job's state."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import select, tuple_
from sqlalchemy.orm import Session, load_only

from cml_nova.db import events
from cml_nova.db.clock import now
from cml_nova.db.models import Event, Job, Node
from cml_nova.states import Phase, Target

#: phases in which a job has nodes that are its own
_ALIVE = (Phase.PROVISIONING, Phase.BOOTSTRAPPING, Phase.RUNNING, Phase.COLLECTING)
_KIND = "access"
#: seconds for which the same access of the same user is one event: a browser opens many connections
_ONCE_IN = 600


def refusal(job: Job, node: Node) -> str | None:
    """Say why nobody can be let through to a node, and what to do; None if one can."""
    if job.phase == Phase.QUEUED:
        return f"The job {job.id} waits in the queue and has no machines yet; try again when it is RUNNING."
    if job.phase not in _ALIVE:
        ended = f"ended ({job.outcome})" if job.phase == Phase.DONE else "come to its end"
        return f"The job {job.id} has {ended}, and its machines go with it; its log, metrics and artifacts stay."
    if job.target == Target.DELETE:
        return f"The job {job.id} is being cancelled; its log, metrics and artifacts stay."
    if node.status != "ACTIVE" or not node.server_id or not node.address:
        return (f"Node {node.rank} of the job {job.id} is not up ({node.status}); "
                f"try again when GET /v1/jobs/{job.id}/nodes calls it ACTIVE.")
    return None


def find(session: Session, job_id: str, rank: int) -> tuple[Job, Node] | None:
    """Give a job, with what is sealed, and one of its nodes; None where there is no such job or node."""
    query = select(Job, Node).join(Node, Node.job_id == Job.id).where(Job.id == job_id, Node.rank == rank)
    found = session.execute(query).one_or_none()
    return None if found is None else (found.Job, found.Node)


def standing(session: Session, nodes: Collection[tuple[str, int]]) -> dict[tuple[str, int], tuple[Job, Node]]:
    """Give jobs and their nodes by (job, rank), with no more of them than ``refusal`` looks at: one query."""
    query = select(Job, Node).join(Node, Node.job_id == Job.id).where(tuple_(Node.job_id, Node.rank).in_(nodes)).options(
        load_only(Job.phase, Job.outcome, Job.target, raiseload=True),
        load_only(Node.job_id, Node.rank, Node.status, Node.server_id, Node.address, raiseload=True))
    return {(row.Node.job_id, row.Node.rank): (row.Job, row.Node) for row in session.execute(query)}


def note(session: Session, job_id: str, message: str, detail: Mapping[str, Any]) -> None:
    """Note that somebody was let through, unless that was noted of the same access (``detail``) a short time ago."""
    query = select(Event.detail).where(Event.job_id == job_id, Event.kind == _KIND, Event.at > now() - _ONCE_IN)
    if dict(detail) not in session.scalars(query).all():
        events.add(session, job_id, _KIND, message, dict(detail))
