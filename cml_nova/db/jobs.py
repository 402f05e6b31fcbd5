"""Jobs as users see them: create, find, list, change, ask to end, remove. Who may write a running one: see ``leases``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnElement, and_, delete, func, or_, select, true, update
from sqlalchemy.orm import Session, defer

from cml_nova import exception
from cml_nova.db import clock
from cml_nova.db.models import Job, Node
from cml_nova.states import PHASE_OF_STATUS, Phase, Target

#: columns that lists may be sorted by: those that are never null, so that paging by key is exact
SORT_KEYS = ("created_at", "updated_at", "name", "priority")
_INTERNAL = (Job.sealed, Job.keys, Job.runtime, Job.document)
#: what lists give: everything but what showing a job does not need
_LISTED = [getattr(Job, attr.key) for attr in Job.__mapper__.column_attrs if attr.key not in {column.key for column in _INTERNAL}]


@dataclass(frozen=True)
class Page:
    """Which part of a list is wanted, and in which order. ``marker`` is the id of the last job of the page before."""

    limit: int
    marker: str | None = None
    sort_key: str = "created_at"
    descending: bool = True


@dataclass(frozen=True)
class Filters:
    """What jobs are wanted; None means any."""

    project_id: str | None = None
    user_id: str | None = None
    name: str | None = None
    framework: str | None = None
    statuses: Sequence[str] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    #: seconds since 1970 UTC
    changed_since: float | None = None


def create(session: Session, job: Job, nodes: Sequence[Node]) -> Job:
    """Write a new job with its planned nodes, and the time of the database server in it.

    :raises DBDuplicateEntry: the project has a job with this client_token (from oslo.db).
    """
    at = server_time(session)
    job.created_at = job.updated_at = job.phase_started_at = at
    session.add(job)
    session.flush()
    for node in nodes:
        node.job_id, node.updated_at = job.id, at
    session.add_all(nodes)
    session.flush()
    return job


def server_time(session: Session) -> float:
    """Give the database server's time, in seconds since 1970 UTC."""
    return float(session.execute(select(clock.now())).scalar_one())


def get(session: Session, job_id: str, project_id: str | None = None, *, with_sealed: bool = False) -> Job | None:
    """Find a job by id; with ``project_id`` only within that project.

    :param with_sealed: also with what showing a job does not need, such as its sealed secrets and its document.
    """
    query = select(Job).where(Job.id == job_id)
    if project_id is not None:
        query = query.where(Job.project_id == project_id)
    if not with_sealed:
        query = query.options(*(defer(column, raiseload=True) for column in _INTERNAL))
    return session.scalars(query).one_or_none()


def checkpoint(session: Session, job_id: str) -> dict[str, Any] | None:
    """Give what is known of a job's last checkpoint (see ``worker.checkpoints.Checkpoint.summary``)."""
    runtime = session.scalar(select(Job.runtime).where(Job.id == job_id))
    return (runtime or {}).get("checkpoint")


def get_by_client_token(session: Session, project_id: str, client_token: str) -> Job | None:
    """Find the job that a project made with this client_token."""
    return session.scalars(select(Job).where(Job.project_id == project_id, Job.client_token == client_token)).one_or_none()


def page(session: Session, filters: Filters, wanted: Page) -> Sequence[Any]:
    """List jobs, as rows with a job's attributes: making an object of each would take half of the time of a long list.

    :raises BadRequest: the marker is no job that the filter's project has.
    """
    column = getattr(Job, wanted.sort_key)
    query = select(*_LISTED).where(*_conditions(filters))
    if wanted.marker is not None:
        last = session.execute(
            select(column, Job.id).where(Job.id == wanted.marker, _own(filters.project_id))).one_or_none()
        if last is None:
            raise exception.BadRequest(f"marker: there is no job {wanted.marker!r}; give the id of the last job of the page before.")
        query = query.where(_beyond(column, last[0], last[1], wanted.descending))
    order = (column.desc(), Job.id.desc()) if wanted.descending else (column, Job.id)
    return session.execute(query.order_by(*order).limit(wanted.limit)).all()


def queue_positions(session: Session, job_ids: Sequence[str]) -> dict[str, int]:
    """Give the places of those jobs that are in the queue; 1 is the next. All projects' jobs are in one."""
    if not job_ids:
        return {}
    place = func.row_number().over(order_by=(Job.priority.desc(), Job.created_at, Job.id)).label("place")
    queue = select(Job.id, place).where(Job.phase == Phase.QUEUED).subquery()
    return {job_id: int(number) for job_id, number in session.execute(select(queue).where(queue.c.id.in_(job_ids)))}


def change(session: Session, job_id: str, values: Mapping[str, Any]) -> None:
    """Set columns that belong to the user: name, description, priority, meta."""
    _update(session, Job.id == job_id, dict(values))


def request_end(session: Session, job_id: str, *, forget: bool = False) -> bool:
    """Ask for the end of a job that is not done; tell whether this changed anything.

    :param forget: the job's record is to go, too, as soon as nothing of it is left in the cloud.
    """
    news = [Job.target != Target.DELETE]
    if forget:
        news.append(Job.forget.is_(False))
    values: dict[str, Any] = {"target": Target.DELETE} | ({"forget": True} if forget else {})
    return _update(session, and_(Job.id == job_id, Job.phase != Phase.DONE, or_(*news)), values)


def remove(session: Session, job_id: str) -> bool:
    """Remove the record of a job that is done, with all that hangs on it; tell whether it was there and done."""
    statement = delete(Job).where(Job.id == job_id, Job.phase == Phase.DONE)
    result = session.execute(statement, execution_options={"synchronize_session": False})
    return bool(result.rowcount)  # type: ignore[attr-defined]


def _update(session: Session, condition: ColumnElement[bool], values: dict[str, Any]) -> bool:
    statement = update(Job).where(condition).values(updated_at=clock.now(), **values)
    result = session.execute(statement, execution_options={"synchronize_session": False})
    return bool(result.rowcount)  # type: ignore[attr-defined]


def _own(project_id: str | None) -> ColumnElement[bool]:
    return true() if project_id is None else Job.project_id == project_id


def _conditions(filters: Filters) -> list[ColumnElement[bool]]:
    conditions = [_own(filters.project_id)]
    for name in ("user_id", "name", "framework"):
        value = getattr(filters, name)
        if value is not None:
            conditions.append(getattr(Job, name) == value)
    if filters.statuses:
        conditions.append(or_(*(_has_status(status) for status in filters.statuses)))
    conditions += [Job.meta[key].as_string() == value for key, value in filters.metadata.items()]
    if filters.changed_since is not None:
        conditions.append(Job.updated_at >= filters.changed_since)
    return conditions


def _has_status(status: str) -> ColumnElement[bool]:
    if status in PHASE_OF_STATUS:
        return Job.phase == PHASE_OF_STATUS[status]
    return and_(Job.phase == Phase.DONE, Job.outcome == status)


def _beyond(column: Any, value: Any, job_id: str, descending: bool) -> ColumnElement[bool]:
    if descending:
        return or_(column < value, and_(column == value, Job.id < job_id))
    return or_(column > value, and_(column == value, Job.id > job_id))
