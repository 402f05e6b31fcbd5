"""What conductors do by the clock. Several of them may do all of it at once: each effect is a conditional UPDATE or idempotent."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from oslo_config import cfg
from oslo_log import log as logging
from sqlalchemy import select

from cml_nova import context as cml_context
from cml_nova import rpc
from cml_nova.conductor.dispatch import Dispatcher
from cml_nova.db import events, leases
from cml_nova.db.engine import Database
from cml_nova.db.models import Job
from cml_nova.states import Phase
from cml_nova.worker.rpcapi import WorkerClient

LOG = logging.getLogger(__name__)


class Periodics:
    """The periodic duties of a conductor; ``jobs`` lists them with their intervals in seconds."""

    def __init__(self, conf: cfg.ConfigOpts, db: Database, dispatcher: Dispatcher, workers: WorkerClient) -> None:
        self._conf = conf.conductor
        self._db = db
        self._dispatcher = dispatcher
        self._workers = workers
        self._forgotten_after = 10 * self._conf.lease_time

    def jobs(self) -> list[tuple[float, Callable[[], None]]]:
        return [(self._conf.sweep_interval, self.sweep), (self._conf.orphan_interval, self.find_orphans)]

    def sweep(self) -> None:
        """Find what no message told of: jobs without an owner, passed deadlines, dead workers' leases."""
        context = cml_context.service_context()
        with self._db.write() as session:
            overdue = [*leases.end_overdue_waits(session), *leases.end_overdue_runs(session)]
            for job_id in overdue:
                events.add(session, job_id, "deadline", "A time limit of the job has passed.", {})
            silent = leases.silent(session, self._forgotten_after)
        for job_id in overdue:
            self._dispatcher.attend(context, job_id)
        self._dispatcher.sweep(context)
        self._forget(silent)

    def _forget(self, worker_ids: Sequence[str]) -> None:
        """Forget workers that are gone: their queues first, or nobody would know of these any more."""
        for worker_id in worker_ids:
            try:
                self._workers.delete_queue(worker_id)
            except rpc.BUS_ERRORS as error:
                LOG.warning("Silent workers are forgotten when the bus answers: %s", error)
                return
            with self._db.write() as session:
                leases.forget_silent(session, worker_id, self._forgotten_after)

    def find_orphans(self) -> None:
        """Have resources deleted that carry this deployment's tag and belong to no job, or to a done one.

        Each one is a bug to look into.
        """
        context = cml_context.service_context()
        with self._db.read() as session:
            worker_id = leases.idlest_worker(session, alive_within=self._conf.lease_time / 2)
        if worker_id is None:
            return
        old = {r["job_id"] for r in self._workers.inventory(context, worker_id) if r["age"] > self._conf.orphan_grace}
        with self._db.read() as session:
            alive = set(session.scalars(select(Job.id).where(Job.id.in_(old), Job.phase != Phase.DONE)))
        for job_id in sorted(old - alive):
            LOG.error("Orphans in the cloud: job %s is gone or done, but something of it is left; it will be deleted", job_id)
            self._workers.reap(context, worker_id, job_id)
