"""Nodes and tasks of a job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from cml_nova.db.clock import now
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


def change_node(session: Session, job_id: str, rank: int, values: Mapping[str, Any]) -> None:
    """Change columns of a node. Since when it has not been reached is noted once, by the database's clock: a worker's may be wrong."""
    if values.get("unreachable_since") is not None:
        values = {**values, "unreachable_since": func.coalesce(Node.unreachable_since, now())}
    session.execute(update(Node).where(Node.job_id == job_id, Node.rank == rank).values(updated_at=now(), **values),
                    execution_options={"synchronize_session": False})


def put_task(session: Session, job_id: str, values: Mapping[str, Any]) -> None:
    """Write a task of an attempt, new or changed; ``values`` are its columns, with attempt and name."""
    session.merge(Task(job_id=job_id, **values))
