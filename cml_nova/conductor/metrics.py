"""What a conductor tells Prometheus: counters of what it did itself, and, at each scrape, how things stand in the database."""

from __future__ import annotations

from collections.abc import Iterator

import prometheus_client
from oslo_config import cfg
from oslo_log import log as logging
from prometheus_client.core import GaugeMetricFamily, Metric

from cml_nova import exception
from cml_nova.db import census
from cml_nova.db.engine import Database

LOG = logging.getLogger(__name__)

TAKE_OVERS = prometheus_client.Counter("cml_nova_take_overs", "Jobs given to another worker because their lease had expired.")
HELD_BACK = prometheus_client.Counter("cml_nova_take_overs_held_back", "Sweeps in which take-overs had to wait.", ["reason"])
ORPHANS_FOUND = prometheus_client.Counter("cml_nova_orphans_found", "Resources in the cloud that belonged to no living job.", ["kind"])
ORPHANS_DELETED = prometheus_client.Counter("cml_nova_orphans_deleted", "Such resources that were gone after their deletion was asked for.",
                                            ["kind"])
SERVERS_MISSING = prometheus_client.Counter("cml_nova_servers_missing", "Servers of living jobs that two looks in a row did not find.")


class Standing:
    """Collector of what the database says.

    :param alive_within: seconds since its last heartbeat for which a worker counts as alive.
    :param slow_after: seconds after which a clean-up that has not ended may be a leak.
    """

    def __init__(self, db: Database, alive_within: float, slow_after: float) -> None:
        self._db = db
        self._alive_within = alive_within
        self._slow_after = slow_after

    def describe(self) -> list[Metric]:
        """Nothing: without this, the registry would ask the database already when it is told of us."""
        return []

    def collect(self) -> Iterator[Metric]:
        try:
            with self._db.read() as session:
                found = census.take(session, self._alive_within, self._slow_after)
        except exception.DatabaseUnavailable as error:
            LOG.warning("The database has no numbers for Prometheus: %s", error.__cause__)
            yield GaugeMetricFamily("cml_nova_database_up", "Whether the database could be asked.", 0)
            return
        yield GaugeMetricFamily("cml_nova_database_up", "Whether the database could be asked.", 1)
        phases = GaugeMetricFamily("cml_nova_jobs", "Unfinished jobs by phase; QUEUED is the length of the queue.", labels=["phase"])
        for phase, count in found.jobs.items():
            phases.add_metric([phase], count)
        yield phases
        yield GaugeMetricFamily("cml_nova_leases_expired", "Jobs whose worker has let the lease expire.", found.leases_expired)
        yield GaugeMetricFamily("cml_nova_leak_suspects", "Jobs whose clean-up takes longer than leak_suspect_after.", found.slow_teardowns)
        yield GaugeMetricFamily("cml_nova_workers_alive", "Workers whose heartbeats come in time.", found.workers_alive)


def serve(conf: cfg.ConfigOpts, db: Database) -> None:
    """Answer scrapes in a thread of its own, if ``[conductor] metrics_port`` is set. Without the port, jobs are seen to all the same."""
    options = conf.conductor
    if not options.metrics_port:
        return
    try:
        prometheus_client.start_http_server(options.metrics_port, options.metrics_host)
    except OSError as error:
        LOG.error("Nobody gets metrics at %s:%d: %s", options.metrics_host, options.metrics_port, error)
        return
    prometheus_client.REGISTRY.register(Standing(db, options.lease_time / 2, options.leak_suspect_after))
    LOG.info("Metrics are at http://%s:%d/metrics", options.metrics_host, options.metrics_port)
