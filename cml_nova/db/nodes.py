"""Nodes and tasks of a job."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from cml_nova.db.models import Node, Task, Worker


def nodes_of(session: Session, job_id: str) -> Sequence[Node]:
    """List a job's nodes by rank."""
    return session.scalars(select(Node).where(Node.job_id == job_id).order_by(Node.rank)).all()


def tasks_of(session: Session, job_id: str, attempt: int) -> Sequence[Task]:
    """List the tasks of one attempt by the rank of their node."""
    query = select(Task).where(Task.job_id == job_id, Task.attempt == attempt)
    return session.scalars(query.order_by(Task.node_rank, Task.name)).all()


def workers(session: Session) -> Sequence[Worker]:
    """List the worker processes that are known."""
    return session.scalars(select(Worker).order_by(Worker.id)).all()
