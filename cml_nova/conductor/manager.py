"""RPC endpoint of the conductor. Every method returns at once; what takes time happens in workers."""

from __future__ import annotations

from typing import Any

import oslo_messaging as messaging
from oslo_config import cfg
from oslo_log import log as logging

from cml_nova import context as cml_context
from cml_nova import rpc
from cml_nova.conductor import access, reports
from cml_nova.conductor.dispatch import Dispatcher
from cml_nova.db import leases
from cml_nova.db.engine import Database, retried
from cml_nova.states import Phase
from cml_nova.storage import Storage
from cml_nova.storage.base import job_prefix

LOG = logging.getLogger(__name__)


class ConductorManager:
    """What api and workers may ask of a conductor.

    Documents may come to have more in them in later releases; whoever reads one leaves out what it does not know.
    """

    target = messaging.Target(version=rpc.VERSIONS[rpc.CONDUCTOR_TOPIC])

    def __init__(self, conf: cfg.ConfigOpts, db: Database, storage: Storage, dispatcher: Dispatcher) -> None:
        self._conf = conf
        self._db = db
        self._storage = storage
        self._dispatcher = dispatcher

    def ping(self, context: cml_context.RequestContext) -> None:
        """Answer: that is all that the one who asks wants to know."""

    def job_wake(self, context: cml_context.RequestContext, job_id: str) -> None:
        """See that somebody attends to a job: its owner, or a new one."""
        self._dispatcher.attend(context, job_id)

    def job_get(self, context: cml_context.RequestContext, job_id: str, generation: int) -> dict[str, Any]:
        """Give a worker its job; see ``reports.view``."""
        with self._db.read() as session:
            return reports.view(session, job_id, generation)

    def job_report(self, context: cml_context.RequestContext, job_id: str, generation: int, report: dict[str, Any]) -> dict[str, Any]:
        """Write what a worker reports; see ``reports.apply``."""
        result = self._apply(job_id, generation, report)
        if report.get("phase") == Phase.DONE:
            if result["forget"]:
                self._storage.delete(job_prefix(job_id))
            self._dispatcher.room_came_free(context)
        elif report.get("phase") == Phase.BOOTSTRAPPING:
            # The job got its room; if there is more, the next one may try.
            self._dispatcher.room_came_free(context)
        return result

    @retried
    def _apply(self, job_id: str, generation: int, report: dict[str, Any]) -> dict[str, Any]:
        with self._db.write() as session:
            return reports.apply(session, job_id, generation, report, self._conf.conductor)

    @retried
    def worker_heartbeat(self, context: cml_context.RequestContext, worker: dict[str, Any], held: dict[str, int]) -> list[dict[str, Any]]:
        """Note that a worker is alive, renew the leases of the jobs it holds, and list all that are its own.

        :param worker: id, host, capacity (jobs), draining.
        :param held: job id -> generation.
        :returns: job_id, generation, changed of each job that is the worker's by the database: one it holds and that is not
            listed is lost to it; one listed that it does not hold was given to it in a message that never came.
        """
        with self._db.write() as session:
            leases.register(session, worker["id"], worker["host"], worker["capacity"], worker["draining"])
            holdings = leases.renew(session, worker["id"], held, self._conf.conductor.lease_time)
        return [{"job_id": h.job_id, "generation": h.generation, "changed": h.changed} for h in holdings]

    @retried
    def tunnel_opens(self, context: cml_context.RequestContext, ticket: dict[str, Any]) -> dict[str, Any]:
        """Let a worker through to a node for whom a ticket was made, and note that; see ``access.let_through``."""
        with self._db.write() as session:
            return access.let_through(session, ticket)

    def tunnels_over(self, context: cml_context.RequestContext, nodes: list[tuple[str, int, str]]) -> list[str | None]:
        """Say of each node (job, rank, server) why a tunnel to it is over; None where it is not."""
        with self._db.read() as session:
            return access.over(session, nodes)

    def worker_goodbye(self, context: cml_context.RequestContext, worker_id: str) -> None:
        """Take all jobs from a worker that stops, and give them to others."""
        self._release(worker_id)
        LOG.info("Worker %s handed its jobs back", worker_id)
        self._dispatcher.sweep(context)

    @retried
    def _release(self, worker_id: str) -> None:
        with self._db.write() as session:
            leases.release_all(session, worker_id)
            leases.unregister(session, worker_id)
