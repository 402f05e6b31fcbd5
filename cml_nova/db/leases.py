"""Who may write a running job: conditional UPDATEs, compared with the database server's clock.

A job's owner is (worker_id, generation). Every claim raises the generation, so whoever held the job before can't write it any more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, and_, case, delete, false, func, literal, or_, select, update
from sqlalchemy.orm import Session

from cml_nova import exception
from cml_nova.db import events
from cml_nova.db.clock import now
from cml_nova.db.models import Job, Worker
from cml_nova.states import Cause, Outcome, Phase, Target

#: a job nobody holds: new, or handed back
_FREE = Job.worker_id.is_(None)
#: a job whose worker has not renewed its lease; not true where there is no owner
EXPIRED = Job.lease_expires_at < now()
#: a job that need not wait; a cancelled one never does
_DUE = or_(Job.not_before.is_(None), Job.not_before <= now(), Job.target == Target.DELETE)


def _change(session: Session, statement: Any) -> int:
    """Execute an UPDATE or DELETE on the server alone (no objects are kept in sessions) and count the rows it met."""
    result = session.execute(statement, execution_options={"synchronize_session": False})
    return int(result.rowcount)  # type: ignore[attr-defined]


def claimable(session: Session, limit: int) -> Sequence[str]:
    """List jobs that nobody holds and that need an owner now, in the order in which they are to get one."""
    return session.scalars(
        select(Job.id).where(Job.phase != Phase.DONE, _FREE, _DUE)
        # What holds nodes goes before what waits for some.
        .order_by((Job.phase == Phase.QUEUED), Job.priority.desc(), Job.created_at, Job.id).limit(limit)
    ).all()


def expired(session: Session, limit: int) -> Sequence[str]:
    """List jobs whose lease has expired, in the order in which they are to be taken over."""
    return session.scalars(
        select(Job.id).where(Job.phase != Phase.DONE, EXPIRED).order_by(Job.priority.desc(), Job.created_at).limit(limit)
    ).all()


def claim(session: Session, job_id: str, worker_id: str, lease_time: float, *, take_over: bool = False) -> int | None:
    """Give a job to a worker; return the new generation, or None if it is held, done or not due.

    Admission is part of it: a queued job enters PROVISIONING (its nodes' rows are the intent), a cancelled one TEARDOWN.

    :param lease_time: seconds.
    :param take_over: take the job from another worker whose lease has expired; without, take one that nobody holds.
    """
    to_be_had = EXPIRED if take_over else and_(_FREE, _DUE)
    admitted = case((Job.phase != Phase.QUEUED, Job.phase), (Job.target == Target.DELETE, Phase.TEARDOWN), else_=Phase.PROVISIONING)
    taken = _change(
        session,
        # MariaDB assigns from left to right: what reads the old phase stands before what sets the new one.
        update(Job).where(Job.id == job_id, Job.phase != Phase.DONE, to_be_had).ordered_values(
            (Job.phase_started_at, case((Job.phase == Phase.QUEUED, now()), else_=Job.phase_started_at)),
            (Job.phase, admitted),
            (Job.worker_id, worker_id),
            (Job.generation, Job.generation + 1),
            (Job.lease_expires_at, now() + lease_time),
            (Job.last_report, None),
            (Job.not_before, None),
            (Job.updated_at, now()),
        )
    )
    if not taken:
        return None
    return session.scalar(select(Job.generation).where(Job.id == job_id))


def write(session: Session, job_id: str, generation: int, values: Mapping[str, Any]) -> None:
    """Write columns of a job as its owner of this generation.

    :raises LeaseLost: the job belongs to another generation, or to nobody.
    """
    mine = update(Job).where(Job.id == job_id, Job.generation == generation, Job.worker_id.is_not(None))
    if not _change(session, mine.values(updated_at=now(), **values)):
        raise exception.LeaseLost(f"job {job_id} is no longer held in generation {generation}")


@dataclass(frozen=True)
class Holding:
    """A job as its worker holds it by the database."""

    job_id: str
    generation: int
    #: the user or the conductor wants something else than going on
    changed: bool


def renew(session: Session, worker_id: str, held: Mapping[str, int], lease_time: float) -> list[Holding]:
    """Renew a worker's leases and list every job that is its own by the database.

    :param held: job id -> generation, as the worker sees it. A job it does not know of is not renewed.
    """
    if held:
        mine = update(Job).where(Job.worker_id == worker_id, Job.id.in_(list(held)), Job.phase != Phase.DONE)
        _change(session, mine.values(lease_expires_at=now() + lease_time))
    rows = session.execute(
        select(Job.id, Job.generation, Job.target, Job.outcome).where(Job.worker_id == worker_id, Job.phase != Phase.DONE))
    return [Holding(r.id, r.generation, r.target == Target.DELETE or r.outcome is not None) for r in rows]


def release_all(session: Session, worker_id: str) -> None:
    """Take every job from a worker that says goodbye."""
    _change(session, update(Job).where(Job.worker_id == worker_id).values(worker_id=None, lease_expires_at=None, updated_at=now()))


def reset(session: Session, job_id: str, command: str) -> str:
    """Take a job that has not ended from whoever holds it, for it to be cleaned up by the next one; give its outcome.

    :param command: what the operator typed; it is told to the job's user.
    :raises NotFound: there is no such job.
    :raises Conflict: the job has ended.
    """
    unknown = Job.outcome.is_(None)
    reason = f"An operator ended the job by hand: {command}."
    taken = _change(session, update(Job).where(Job.id == job_id, Job.phase != Phase.DONE).ordered_values(
        # MariaDB assigns from left to right: what asks for the outcome and the phase stands before what sets them.
        (Job.cause, case((unknown, Cause.PLATFORM), else_=Job.cause)),
        (Job.status_reason, case((unknown, reason), else_=Job.status_reason)),
        (Job.outcome, func.coalesce(Job.outcome, Outcome.FAILED)),
        (Job.phase_started_at, case((Job.phase == Phase.TEARDOWN, Job.phase_started_at), else_=now())),
        (Job.phase, Phase.TEARDOWN),
        (Job.target, Target.DELETE),
        (Job.generation, Job.generation + 1),
        (Job.worker_id, None),
        (Job.lease_expires_at, None),
        (Job.not_before, None),
        (Job.updated_at, now()),
    ))
    row = session.execute(select(Job.phase, Job.outcome).where(Job.id == job_id)).one_or_none()
    if row is None:
        raise exception.NotFound(f"There is no job {job_id}.")
    if not taken:
        raise exception.Conflict(f"The job {job_id} has ended with {row.outcome}; there is nothing to reset. If the cloud still has "
                                 "something of it, cml-nova-manage orphans list shows that.")
    events.add(session, job_id, "reset", reason, {"phase": str(Phase.TEARDOWN)})
    return str(row.outcome)


def register(session: Session, worker_id: str, host: str, capacity: int, draining: bool) -> None:
    """Note that a worker is alive."""
    values = {"host": host, "capacity": capacity, "draining": draining, "seen_at": now()}
    if not _change(session, update(Worker).where(Worker.id == worker_id).values(**values)):
        session.add(Worker(id=worker_id, started_at=now(), **values))


def unregister(session: Session, worker_id: str) -> None:
    """Forget a worker."""
    _change(session, delete(Worker).where(Worker.id == worker_id))


def silent(session: Session, after: float) -> Sequence[str]:
    """List workers not heard of for ``after`` seconds that hold no job."""
    return session.scalars(select(Worker.id).where(_is_silent(after))).all()


def forget_silent(session: Session, worker_id: str, after: float) -> None:
    """Forget a worker, unless it has been heard of or given a job since it was listed by ``silent``."""
    _change(session, delete(Worker).where(Worker.id == worker_id, _is_silent(after)))


def _is_silent(after: float) -> ColumnElement[bool]:
    holders = select(Job.worker_id).where(Job.worker_id.is_not(None))
    return and_(Worker.seen_at < now() - after, Worker.id.not_in(holders))


def idlest_worker(session: Session, alive_within: float, *, even_full: bool = False) -> str | None:
    """Pick the worker with the fewest jobs among those heard of within ``alive_within`` seconds.

    :param even_full: it need not have a free place.
    """
    load = func.count(Job.id)
    return session.scalar(
        select(Worker.id)
        .outerjoin(Job, and_(Job.worker_id == Worker.id, Job.phase != Phase.DONE))
        .where(Worker.seen_at > now() - alive_within, Worker.draining.is_(False))
        .group_by(Worker.id, Worker.capacity)
        .having(or_(literal(even_full), load < Worker.capacity))
        .order_by(load, Worker.id)
        .limit(1)
    )


def free_places(session: Session, alive_within: float) -> int:
    """Count how many jobs the workers that ``idlest_worker`` picks from can take."""
    held = select(Job.worker_id, func.count().label("jobs")).where(Job.worker_id.is_not(None), Job.phase != Phase.DONE)
    load = held.group_by(Job.worker_id).subquery()
    free = Worker.capacity - func.coalesce(load.c.jobs, 0)
    total = session.scalar(
        select(func.sum(case((free > 0, free), else_=0))).select_from(Worker).outerjoin(load, load.c.worker_id == Worker.id)
        .where(Worker.seen_at > now() - alive_within, Worker.draining.is_(False)))
    return int(total or 0)


def wake_next_waiting(session: Session) -> str | None:
    """Let the first job that waits for room in the cloud be tried now; the others follow it or their own pause.

    One at a time: two jobs let go at once could each take half of what came free, and neither would start.
    """
    waiting = (Job.phase == Phase.QUEUED, Job.cause.in_((Cause.NO_CAPACITY, Cause.QUOTA)), Job.worker_id.is_(None))
    job_id = session.scalar(select(Job.id).where(*waiting).order_by(Job.priority.desc(), Job.created_at).limit(1))
    if job_id is not None:
        _change(session, update(Job).where(Job.id == job_id, *waiting).values(not_before=None))
    return job_id


def change_nothing(session: Session) -> None:
    """See whether changes are taken: a database that only reads, as in a failover, refuses this one, too."""
    _change(session, update(Job).where(false()).values(updated_at=now()))


def end_overdue_waits(session: Session) -> Sequence[str]:
    """Give up queued jobs past their max_wait_time, keeping the reason why they waited, and its cause; return their ids."""
    over = literal("The job waited in the queue for longer than its max_wait_time. ")
    return _time_out(
        session, Job.phase == Phase.QUEUED,
        Job.spec["max_wait_time"].as_float() + func.coalesce(Job.waiting_since, Job.created_at) < now(),
        target=Target.DELETE, status_reason=over.concat(func.coalesce(Job.status_reason, "")),
        cause=case((Job.cause.in_((Cause.NO_CAPACITY, Cause.QUOTA)), Job.cause), else_=Cause.TIMEOUT),
    )


def end_overdue_runs(session: Session) -> Sequence[str]:
    """Mark running jobs past their max_run_time, so that their owners stop them; return their ids."""
    return _time_out(
        session, Job.phase == Phase.RUNNING, Job.spec["max_run_time"].as_float() + Job.started_at < now(),
        cause=Cause.TIMEOUT, status_reason="The training ran for longer than its max_run_time and was stopped.",
    )


def _time_out(session: Session, *overdue: Any, **values: Any) -> Sequence[str]:
    ids = session.scalars(select(Job.id).where(Job.outcome.is_(None), *overdue)).all()
    return [
        job_id for job_id in ids
        if _change(session, update(Job).where(Job.id == job_id, Job.outcome.is_(None), *overdue)
                   .values(outcome=Outcome.TIMED_OUT, updated_at=now(), **values))
    ]
