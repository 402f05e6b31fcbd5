"""Client of the conductor, used by api (hints) and worker (reports)."""

from __future__ import annotations

from typing import Any

import oslo_messaging as messaging
from oslo_log import log as logging

from cml_nova import context as cml_context
from cml_nova import rpc

LOG = logging.getLogger(__name__)


class ConductorClient:
    """Calls and casts to any conductor.

    :param timeout: seconds that a call may take.
    """

    def __init__(self, transport: messaging.Transport, timeout: float = 20) -> None:
        self._client = rpc.get_client(transport, rpc.CONDUCTOR_TOPIC, timeout)

    def ping(self, timeout: float) -> None:
        """Have any conductor answer, over the bus both ways. :raises BUS_ERRORS: there is no answer.

        :param timeout: seconds.
        """
        self._client.prepare(timeout=timeout).call(cml_context.service_context(), "ping")

    def job_wake(self, context: cml_context.RequestContext, job_id: str) -> None:
        """Hint that a job wants attention. It is lost without harm: the sweep finds the job too."""
        try:
            self._client.cast(context, "job_wake", job_id=job_id)
        except rpc.BUS_ERRORS:
            LOG.warning("Could not hint the conductor at job %s; its sweep will find it", job_id, exc_info=True)

    def job_get(self, context: cml_context.RequestContext, job_id: str, generation: int) -> dict[str, Any]:
        """Get all that a worker needs to know of a job. :raises LeaseLost: the generation is not the job's."""
        return self._client.call(context, "job_get", job_id=job_id, generation=generation)

    def job_report(self, context: cml_context.RequestContext, job_id: str, generation: int, report: dict[str, Any]) -> dict[str, Any]:
        """Report progress; see ``reports.apply``. :raises LeaseLost: the generation is not the job's."""
        return self._client.call(context, "job_report", job_id=job_id, generation=generation, report=report)

    def worker_heartbeat(self, context: cml_context.RequestContext, worker: dict[str, Any], held: dict[str, int],
                         timeout: float | None = None) -> list[dict[str, Any]]:
        """Say that a worker is alive and renew its leases; see ``ConductorManager.worker_heartbeat``.

        :param timeout: seconds, where they are to be others than usual.
        """
        client = self._client.prepare(timeout=timeout) if timeout else self._client
        return client.call(context, "worker_heartbeat", worker=worker, held=held)

    def tunnel_opens(self, context: cml_context.RequestContext, ticket: dict[str, Any]) -> dict[str, Any]:
        """Ask how the node of a ticket is reached; see ``conductor.access.let_through``."""
        return self._client.call(context, "tunnel_opens", ticket=ticket)

    def tunnels_over(self, context: cml_context.RequestContext, nodes: list[tuple[str, int, str]]) -> list[str | None]:
        """Ask of each node (job, rank, server) why a tunnel to it is over; None where it is not."""
        return self._client.call(context, "tunnels_over", nodes=nodes)

    def worker_goodbye(self, context: cml_context.RequestContext, worker_id: str) -> None:
        """Hand all leases of a worker back."""
        self._client.call(context, "worker_goodbye", worker_id=worker_id)
