"""Client of the workers, used by conductors."""

from __future__ import annotations

from typing import Any

import oslo_messaging as messaging
from oslo_log import log as logging

from cml_nova import context as cml_context
from cml_nova import rpc

LOG = logging.getLogger(__name__)


class WorkerClient:
    """Casts and calls to one worker, by its id.

    :param timeout: seconds that a call may take.
    """

    def __init__(self, transport: messaging.Transport, timeout: float = 60) -> None:
        self._conf = transport.conf
        self._client = rpc.get_client(transport, rpc.WORKER_TOPIC, timeout)

    def run(self, context: cml_context.RequestContext, worker_id: str, job_id: str, generation: int) -> None:
        """Tell a worker that a job is its own now. If that is lost, the answer to its next heartbeat says it again."""
        self._cast(context, worker_id, "run", job_id=job_id, generation=generation)

    def nudge(self, context: cml_context.RequestContext, worker_id: str, job_id: str) -> None:
        """Tell a worker that its job's row has changed. If that is lost, the answer to its next heartbeat says it again."""
        self._cast(context, worker_id, "nudge", job_id=job_id)

    def inventory(self, context: cml_context.RequestContext, worker_id: str) -> list[dict[str, Any]]:
        """List everything in the cloud that carries this deployment's tag; see ``WorkerManager.inventory``."""
        return self._client.prepare(server=worker_id).call(context, "inventory")

    def reap(self, context: cml_context.RequestContext, worker_id: str, job_id: str) -> None:
        """Delete what is left in the cloud of a job that does not exist or is done."""
        self._cast(context, worker_id, "reap", job_id=job_id)

    def delete_queue(self, worker_id: str) -> None:
        """Delete the queue of a worker that is gone. :raises BUS_ERRORS: the bus did not answer."""
        rpc.delete_queue(self._conf, rpc.WORKER_TOPIC, worker_id)

    def _cast(self, context: cml_context.RequestContext, worker_id: str, method: str, **arguments: Any) -> None:
        try:
            self._client.prepare(server=worker_id).cast(context, method, **arguments)
        except rpc.BUS_ERRORS:
            LOG.warning("Could not send %s to worker %s", method, worker_id, exc_info=True)
