"""What conductors do by the clock. Several of them may do all of it at once: each effect is a conditional UPDATE or idempotent."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from oslo_config import cfg
from oslo_log import log as logging

from cml_nova import context as cml_context
from cml_nova import exception, rpc
from cml_nova.conductor.dispatch import Dispatcher
from cml_nova.conductor.health import Health, Part
from cml_nova.conductor.orphans import Orphans
from cml_nova.conductor.rpcapi import ConductorClient
from cml_nova.db import events, leases
from cml_nova.db.engine import Database, retried
from cml_nova.worker.rpcapi import WorkerClient

LOG = logging.getLogger(__name__)

#: seconds that the bus has for an answer where a quarter of the lease time is less
_PROBE_TIMEOUT_MIN = 5.0


class Periodics:
    """The periodic duties of a conductor; ``jobs`` lists them with their intervals in seconds."""

    def __init__(self, conf: cfg.ConfigOpts, db: Database, dispatcher: Dispatcher, workers: WorkerClient, conductors: ConductorClient,
                 health: Health) -> None:
        self._conf = conf.conductor
        self._db = db
        self._dispatcher = dispatcher
        self._workers = workers
        self._conductors = conductors
        self._health = health
        self._orphans = Orphans(conf, db, workers)
        self._forgotten_after = 10 * self._conf.lease_time

    def jobs(self) -> list[tuple[float, Callable[[], None]]]:
        often = self._conf.sweep_interval
        return [(often, self.sweep), (often, self.probe_bus), (self._conf.orphan_interval, self.find_orphans)]

    def sweep(self) -> None:
        """Find what no message told of: jobs without an owner, passed deadlines, dead workers' leases."""
        context = cml_context.service_context()
        try:
            overdue, silent = self._look()
            self._health.good(Part.DATABASE)
            for job_id in overdue:
                self._dispatcher.attend(context, job_id)
            self._dispatcher.sweep(context)
            self._forget(silent)
            self._health.good(Part.DATABASE)
        except exception.DatabaseUnavailable as error:
            self._health.bad(Part.DATABASE)
            LOG.error("The database can't be used; nothing is taken over until it has been there for one lease time: %s", error.__cause__)

    @retried
    def _look(self) -> tuple[Sequence[str], Sequence[str]]:
        """End what is overdue; give the ids of these jobs, and of the workers that are silent."""
        with self._db.write() as session:
            leases.change_nothing(session)  # or leases might run out for want of writes while all looks well
            overdue = [*leases.end_overdue_waits(session), *leases.end_overdue_runs(session)]
            for job_id in overdue:
                events.add(session, job_id, "deadline", "A time limit of the job has passed.", {})
            return overdue, leases.silent(session, self._forgotten_after)

    def probe_bus(self) -> None:
        """See whether calls are answered. In a beat of its own: a driver whose broker is away may hold us for long."""
        try:
            self._conductors.ping(max(_PROBE_TIMEOUT_MIN, self._conf.lease_time / 4))
            self._health.good(Part.BUS)
        except rpc.BUS_ERRORS as error:
            self._health.bad(Part.BUS)
            LOG.error("The bus does not answer; nothing is taken over until it has for one lease time: %s", error)

    def _forget(self, worker_ids: Sequence[str]) -> None:
        """Forget workers that are gone: their queues first, or nobody would know of these any more."""
        for worker_id in worker_ids:
            try:
                self._workers.delete_queue(worker_id)
            except rpc.BUS_ERRORS as error:
                LOG.warning("Silent workers are forgotten when the bus answers: %s", error)
                return
            self._forget_one(worker_id)

    @retried
    def _forget_one(self, worker_id: str) -> None:
        with self._db.write() as session:
            leases.forget_silent(session, worker_id, self._forgotten_after)

    def find_orphans(self) -> None:
        """Compare the cloud with the database; see ``orphans``."""
        self._orphans.look()
