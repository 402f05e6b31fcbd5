"""Gives jobs to workers: the only place that leases."""

from __future__ import annotations

from oslo_config import cfg
from oslo_log import log as logging
from sqlalchemy import select

from cml_nova import context as cml_context
from cml_nova.conductor import metrics
from cml_nova.conductor.health import Allowance, Health
from cml_nova.db import events, leases
from cml_nova.db.engine import Database, retried
from cml_nova.db.models import Job
from cml_nova.states import Phase
from cml_nova.worker.rpcapi import WorkerClient

LOG = logging.getLogger(__name__)

#: jobs given out in one sweep; the next one follows soon
_BATCH = 200


class Dispatcher:
    """Assigns jobs that nobody holds, or whose lease has expired, to the idlest live worker.

    :param health: what take-overs depend on; other jobs are given out whatever it says.
    """

    def __init__(self, conf: cfg.ConfigOpts, db: Database, workers: WorkerClient, health: Health) -> None:
        self._conf = conf
        self._db = db
        self._workers = workers
        self._health = health
        self._take_overs = Allowance(conf.conductor.take_overs_per_minute)
        # A worker is dead to new jobs as soon as its heartbeats are late; its old ones stay its own for the whole lease.
        self._alive_within: float = conf.conductor.lease_time / 2

    def attend(self, context: cml_context.RequestContext, job_id: str) -> None:
        """Nudge the worker that holds the job, or give the job to one."""
        with self._db.read() as session:
            row = session.execute(select(Job.worker_id, Job.phase).where(Job.id == job_id)).one_or_none()
        if row is None or row.phase == Phase.DONE:
            return
        if not self.assign(context, job_id) and row.worker_id is not None:
            self._workers.nudge(context, row.worker_id, job_id)

    @retried
    def assign(self, context: cml_context.RequestContext, job_id: str) -> bool:
        """Lease a job to a worker and tell it; False if the job is not to be had or no worker is free."""
        with self._db.write() as session:
            before = session.execute(
                select(Job.phase, Job.generation, Job.worker_id, Job.not_before, leases.EXPIRED.label("expired"))
                .where(Job.id == job_id)).one_or_none()
            if before is not None and before.worker_id is not None and (not before.expired or self._held_back()):
                return False
            worker_id = leases.idlest_worker(session, self._alive_within)
            if before is None or worker_id is None:
                return False
            generation = leases.claim(session, job_id, worker_id, self._conf.conductor.lease_time, take_over=before.worker_id is not None)
            if generation is None:
                return False
            if before.phase == Phase.QUEUED:
                events.add(session, job_id, "phase", "Left the queue.", {"phase": str(Phase.PROVISIONING), "worker": worker_id})
            elif before.not_before is not None:
                events.add(session, job_id, "restart", "The pause is over.", {"worker": worker_id})
            elif before.generation > 0:
                events.add(session, job_id, "lease", "Another worker took the job over.", {"worker": worker_id, "generation": generation})
        if before.worker_id is not None:
            self._take_overs.take()
            metrics.TAKE_OVERS.inc()
        LOG.info("Job %s goes to worker %s in generation %d", job_id, worker_id, generation)
        self._workers.run(context, worker_id, job_id, generation)
        return True

    def sweep(self, context: cml_context.RequestContext) -> None:
        """Assign every job that needs an owner, until the workers are full."""
        with self._db.read() as session:
            expired, free = leases.expired(session, _BATCH), leases.claimable(session, _BATCH)
            # Each that is tried in vain costs a transaction, and a queue may be long.
            places = leases.free_places(session, self._alive_within)
        for place, job_id in enumerate(expired):
            reason = self._held_back()
            if reason:
                LOG.warning("%d jobs with expired leases are not taken over yet: %s", len(expired) - place, reason)
                metrics.HELD_BACK.labels(reason).inc()
                break
            self.assign(context, job_id)
        for job_id in free[:places]:
            self.assign(context, job_id)

    def _held_back(self) -> str | None:
        """Say why no job may be taken over now; None if one may."""
        wanting = self._health.wanting()
        if wanting:
            return f"{' and '.join(wanting)} not healthy for one lease time"
        return None if self._take_overs.any_left else "take_overs_per_minute"

    @retried
    def _wake_next(self) -> str | None:
        with self._db.write() as session:
            return leases.wake_next_waiting(session)

    def room_came_free(self, context: cml_context.RequestContext) -> None:
        """Let the next job that waits for room try."""
        job_id = self._wake_next()
        if job_id is not None:
            self.assign(context, job_id)
