"""Compares the cloud with the database, both ways. Everything found is a bug, or somebody's hand, to look into."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from oslo_config import cfg
from oslo_log import log as logging

from cml_nova import context as cml_context
from cml_nova import exception, rpc
from cml_nova.conductor import metrics
from cml_nova.db import leases, orphans
from cml_nova.db.engine import Database, retried
from cml_nova.worker.rpcapi import WorkerClient

LOG = logging.getLogger(__name__)

#: kind and id of a resource
Key = tuple[str, str]


class Orphans:
    """Looks for resources without a living job, and for living jobs without their servers; remembers from look to look.

    :param clock: monotonic seconds.
    """

    def __init__(self, conf: cfg.ConfigOpts, db: Database, workers: WorkerClient, clock: Callable[[], float] = time.monotonic) -> None:
        self._conf = conf.conductor
        self._db = db
        self._workers = workers
        self._clock = clock
        self._since: dict[Key, float] = {}
        self._told: set[Key] = set()
        self._missing: set[orphans.Placed] = set()

    def look(self) -> None:
        """Compare, and act on what has been so for long enough."""
        context = cml_context.service_context()
        with self._db.read() as session:
            worker_id = leases.idlest_worker(session, alive_within=self._conf.lease_time / 2, even_full=True)
            living, placed = orphans.living(session), orphans.placed(session)
        if worker_id is None:
            return
        try:
            found = self._workers.inventory(context, worker_id)
        except (*rpc.BUS_ERRORS, exception.CMLError) as error:
            LOG.warning("The cloud can't be compared with the database now: %s", error)
            return
        # Alive before or after the look: a job may have been made, or have ended, while the cloud answered.
        with self._db.read() as session:
            living |= orphans.living(session, {r["job_id"] for r in found})
        old = self._old({(r["kind"], r["id"]): r for r in found if r["job_id"] not in living})
        self._deal_with(context, worker_id, old)
        self._deal_with_missing(context, placed, {r["id"] for r in found if r["kind"] == "server"})

    def _old(self, unowned: Mapping[Key, dict[str, Any]]) -> dict[Key, dict[str, Any]]:
        """Keep those that are old by the cloud's clock, or by ours since we first saw them; count what is gone since the last look."""
        now = self._clock()
        for kind, _ in self._told - set(unowned):
            metrics.ORPHANS_DELETED.labels(kind).inc()
        self._told &= set(unowned)
        self._since = {key: self._since.get(key, now) for key in unowned}
        return {key: r for key, r in unowned.items() if max(r["age"], now - self._since[key]) > self._conf.orphan_grace}

    def _deal_with(self, context: cml_context.RequestContext, worker_id: str, old: Mapping[Key, dict[str, Any]]) -> None:
        action = self._conf.orphan_action
        by_job: dict[str, list[Key]] = {}
        for key, resource in old.items():
            by_job.setdefault(resource["job_id"], []).append(key)
        for job_id, keys in sorted(by_job.items()):
            what = ", ".join(f"{kind} {id_}" for kind, id_ in sorted(keys))
            if not job_id:
                LOG.error("Orphans in the cloud that name no job: %s; look at them, and delete them by hand", what)
            else:
                LOG.error("Orphans in the cloud: job %s is gone or done, but this is left of it: %s; action: %s", job_id, what, action)
                if action == "delete":
                    self._workers.reap(context, worker_id, job_id)
                for kind, id_ in keys:
                    self._tell(job_id, kind, id_, f"The job had ended, but the {kind} {id_} was left in the cloud.")
            for key in set(keys) - self._told:
                metrics.ORPHANS_FOUND.labels(key[0]).inc()
        self._told |= set(old)

    def _deal_with_missing(self, context: cml_context.RequestContext, placed: set[orphans.Placed], listed: set[str]) -> None:
        """Have owners look for servers that two looks in a row have not found. It may only be that a part of the cloud is down."""
        missing = {server for server in placed if server.server_id not in listed}
        for server in missing & self._missing:
            LOG.warning("Job %s: the cloud does not list the server %s of node %d", server.job_id, server.server_id, server.rank)
            metrics.SERVERS_MISSING.inc()
            self._tell(server.job_id, "server", server.server_id, f"The cloud does not list the server of node {server.rank} any more.")
            if server.worker_id is not None:
                self._workers.nudge(context, server.worker_id, server.job_id)
        self._missing = missing

    @retried
    def _tell(self, job_id: str, kind: str, resource_id: str, message: str) -> None:
        with self._db.write() as session:
            orphans.tell(session, job_id, kind, resource_id, message)
