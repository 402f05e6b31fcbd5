"""For how long servers were nodes of jobs, and what that comes to: by job, by project and day."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import func, insert, or_, select, update
from sqlalchemy.orm import Session

from cml_nova.db.clock import now
from cml_nova.db.models import Node, NodeTime

HOUR, DAY = 3600, 86400
#: of which the price of a row is none, too, where its flavor has none
_COST = (func.coalesce(NodeTime.ended_at, now()) - NodeTime.started_at) * NodeTime.price / HOUR


def follow(session: Session, job_id: str, project_id: str, changes: Iterable[Mapping[str, Any]]) -> None:
    """Note by what a worker reports of nodes which servers are there from now on, and which are not any more.

    :param changes: changed columns of nodes, with their rank.
    """
    servers = {node["rank"]: None if node.get("status") == "DELETED" else node["server_id"]
               for node in changes if "server_id" in node or node.get("status") == "DELETED"}
    if not servers:
        return
    known = session.execute(select(NodeTime.id, NodeTime.rank, NodeTime.server_id, NodeTime.ended_at)
                            .where(NodeTime.job_id == job_id, NodeTime.rank.in_(list(servers)))).all()
    over = [row.id for row in known if row.ended_at is None and row.server_id != servers[row.rank]]
    if over:
        session.execute(update(NodeTime).where(NodeTime.id.in_(over)).values(ended_at=now()),
                        execution_options={"synchronize_session": False})
    new = {(rank, server_id) for rank, server_id in servers.items() if server_id} - {(row.rank, row.server_id) for row in known}
    if new:
        _begin(session, job_id, project_id, dict(new))


def _begin(session: Session, job_id: str, project_id: str, servers: Mapping[int, str]) -> None:
    nodes = session.execute(select(Node.rank, Node.accelerators, Node.price).where(Node.job_id == job_id, Node.rank.in_(list(servers))))
    rows = [{"project_id": project_id, "job_id": job_id, "rank": node.rank, "server_id": servers[node.rank],
             "accelerators": node.accelerators, "price": node.price, "started_at": now()} for node in nodes]
    if rows:
        session.execute(insert(NodeTime).values(rows))


@dataclass(frozen=True)
class Cost:
    """What a job costs: ``amount`` up to now, ``per_hour`` while it has all its nodes."""

    amount: float
    per_hour: float


def costs(session: Session, job_ids: Sequence[str]) -> dict[str, Cost]:
    """Give what jobs cost; those of which a node has no price are left out."""
    hourly = session.execute(select(Node.job_id, func.sum(Node.price)).where(Node.job_id.in_(job_ids)).group_by(Node.job_id)
                             .having(func.count(Node.price) == func.count()))
    amounts = session.execute(select(NodeTime.job_id, func.sum(_COST)).where(NodeTime.job_id.in_(job_ids)).group_by(NodeTime.job_id))
    so_far: dict[str, float] = {job_id: amount or 0.0 for job_id, amount in amounts}
    return {job_id: Cost(so_far.get(job_id, 0.0), per_hour) for job_id, per_hour in hourly if per_hour is not None}


@dataclass
class DayOfProject:
    """What a project had on one day (UTC); ``cost`` is None where nothing has a price."""

    jobs: set[str] = field(default_factory=set)
    node_seconds: float = 0
    accelerator_seconds: float = 0
    cost: float | None = None

    def add(self, row: Any, seconds: float) -> None:
        self.jobs.add(row.job_id)
        self.node_seconds += seconds
        self.accelerator_seconds += seconds * row.accelerators
        if row.price is not None:
            self.cost = (self.cost or 0) + seconds * row.price / HOUR


def by_day(session: Session, project_id: str | None, first: int, last: int) -> dict[tuple[str, int], DayOfProject]:
    """Add up what projects had on each day, by project and day.

    :param project_id: None for all.
    :param first: day, counted from 1970-01-01 UTC.
    :param last: the same; it is included.
    """
    start, end = float(first * DAY), float((last + 1) * DAY)
    query = select(NodeTime.project_id, NodeTime.job_id, NodeTime.accelerators, NodeTime.price, NodeTime.started_at,
                   func.coalesce(NodeTime.ended_at, now()).label("until"))
    query = query.where(NodeTime.started_at < end, or_(NodeTime.ended_at.is_(None), NodeTime.ended_at > start))
    if project_id is not None:
        query = query.where(NodeTime.project_id == project_id)
    days: dict[tuple[str, int], DayOfProject] = {}
    for row in session.execute(query):
        since, until = max(row.started_at, start), min(row.until, end)
        for day in range(int(since // DAY), int(until // DAY) + 1):
            seconds = min(until, (day + 1) * DAY) - max(since, day * DAY)
            if seconds > 0:
                days.setdefault((row.project_id, day), DayOfProject()).add(row, seconds)
    return days
