"""What workers see of a job, and how what they report gets into the database."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from oslo_config import cfg
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from cml_nova import exception
from cml_nova.backoff import growing_pause
from cml_nova.db import events, leases, metrics, nodes, usage
from cml_nova.db.clock import now
from cml_nova.db.models import Job, Node, Task
from cml_nova.states import Phase, may_follow

#: columns that a worker sets as they are
_PLAIN = ("outcome", "cause", "status_reason", "progress", "exit_code", "failed_task", "attempt", "error_restarts", "infra_restarts",
          "runtime")


def view(session: Session, job_id: str, generation: int) -> dict[str, Any]:
    """Give a job as its worker needs it: a plain dict for the bus.

    ``age`` is in seconds since creation, ``phase_age`` since entry into the phase, both by the database's clock. Keys and secrets stay
    sealed.

    :raises LeaseLost: ``generation`` is not the job's.
    """
    row = session.execute(
        select(Job, (now() - Job.created_at).label("age"), (now() - Job.phase_started_at).label("phase_age"))
        .where(Job.id == job_id, Job.generation == generation, Job.worker_id.is_not(None))
    ).one_or_none()
    if row is None:
        raise exception.LeaseLost(f"job {job_id} is no longer held in generation {generation}")
    job: Job = row.Job
    columns = ("id", "project_id", "name", "request_id", "spec", "keys", "sealed", "phase", "outcome", "target", "cause", "status_reason",
               "attempt", "error_restarts", "infra_restarts", "runtime", "generation")
    found = session.scalars(select(Node).where(Node.job_id == job_id).order_by(Node.rank))
    tasks = session.scalars(select(Task).where(Task.job_id == job_id, Task.attempt == job.attempt))
    return {
        **{name: getattr(job, name) for name in columns},
        "age": row.age,
        "phase_age": row.phase_age,
        "nodes": [{"rank": n.rank, "role": n.role, "index": n.role_index, "flavor_id": n.flavor_id, "server_id": n.server_id,
                   "address": n.address, "status": n.status, "unreachable_since": n.unreachable_since} for n in found],
        "tasks": [{"name": t.name, "state": t.state, "exit_code": t.exit_code, "signal": t.signal} for t in tasks],
    }


def apply(session: Session, job_id: str, generation: int, report: dict[str, Any], conf: cfg.ConfigOpts.GroupAttr) -> dict[str, Any]:
    """Apply a worker's report in one transaction.

    :param report: ``id``, which sorts after that of each earlier report in this generation (one that comes twice, or after a later one,
        changes nothing), and any of: the columns ``outcome, cause, status_reason, progress, exit_code,
        failed_task, attempt, error_restarts, infra_restarts, runtime``; ``phase``; ``nodes`` and ``tasks`` (dicts of changed columns with
        their keys); ``events`` ([kind, message, detail]); ``metrics``; ``pause`` (give the job back, to be taken again after this many
        seconds, or None for a pause that grows with the number of tries).
    :param conf: the group [conductor].
    :returns: target, outcome and forget of the row now.
    :raises LeaseLost: ``generation`` is not the job's.
    :raises InvalidTransition: the phase may not follow the job's.
    """
    # The write comes first: it locks the row and proves the lease before anything else is read.
    leases.write(session, job_id, generation, {})
    job = session.scalars(select(Job).where(Job.id == job_id)).one()
    result = {"target": job.target, "outcome": job.outcome, "forget": job.forget}
    if job.last_report is not None and report["id"] <= job.last_report:
        return result
    values = _columns(job, report, conf)
    leases.write(session, job_id, generation, {**values, "last_report": report["id"]})
    for node in report.get("nodes", ()):
        nodes.change_node(session, job_id, node["rank"], {name: value for name, value in node.items() if name != "rank"})
    usage.follow(session, job_id, job.project_id, report.get("nodes", ()))
    for task in report.get("tasks", ()):
        nodes.put_task(session, job_id, task)
    for kind, message, detail in report.get("events", ()):
        events.add(session, job_id, kind, message, detail)
    metrics.record(session, _dated(session, job_id, report.get("metrics", ())))
    if values.get("phase") == Phase.DONE and job.forget:
        session.execute(delete(Job).where(Job.id == job_id))
    return {**result, "outcome": values.get("outcome", job.outcome)}


def _dated(session: Session, job_id: str, values: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Give values of metrics their times by the database's clock: the newest has come just now, the others as long before as is said."""
    if not values:
        return []
    came, newest = session.scalars(select(now())).one(), max(value["at"] for value in values)
    return [{"job_id": job_id, **value, "at": came - (newest - value["at"])} for value in values]


def _columns(job: Job, report: dict[str, Any], conf: cfg.ConfigOpts.GroupAttr) -> dict[str, Any]:
    """Work out the new values of the job's columns."""
    values = {name: report[name] for name in _PLAIN if name in report}
    if job.outcome is not None:
        # Known is known: neither a late cancel nor trouble in the clean-up makes another end of it.
        for name in ("outcome", "cause", "status_reason", "exit_code", "failed_task"):
            values.pop(name, None)
    phase = report.get("phase", job.phase)
    if phase != job.phase:
        if not may_follow(job.phase, phase):
            raise exception.InvalidTransition(f"job {job.id} can't go from {job.phase} to {phase}")
        values.update(_entry(job, phase))
    if "pause" in report:
        pause = report["pause"]
        if pause is None:
            pause = growing_pause(job.capacity_tries, conf.queue_retry_min, conf.queue_retry_max)
        values.update(worker_id=None, lease_expires_at=None, not_before=now() + pause)
        if "phase_started_at" in values:
            # The pause is not part of the time that the phase may take.
            values["phase_started_at"] = now() + pause
    return values


def _entry(job: Job, phase: str) -> dict[str, Any]:
    """Give what columns get when a job enters a phase."""
    values: dict[str, Any] = {"phase": phase, "phase_started_at": now()}
    if phase == Phase.RUNNING and job.started_at is None:
        values["started_at"] = now()
    if phase == Phase.QUEUED:
        values["capacity_tries"] = job.capacity_tries + 1
        if job.started_at is not None and job.waiting_since is None:
            values["waiting_since"] = now()
    if phase == Phase.BOOTSTRAPPING:
        values["waiting_since"] = None
    if phase == Phase.DONE:
        values.update(finished_at=now(), worker_id=None, lease_expires_at=None)
    return values
