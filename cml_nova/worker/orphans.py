"""What is in the cloud under this deployment's tag, and the deletion of what belongs to no job."""

from __future__ import annotations

import time
from typing import Any

from oslo_log import log as logging

from cml_nova import exception
from cml_nova.compute.fleet import Fleet

LOG = logging.getLogger(__name__)


def inventory(fleet: Fleet) -> list[dict[str, Any]]:
    """List kind, id, job_id and age (seconds; 0 where the cloud doesn't say) of everything with the deployment's tag."""
    now = time.time()
    return [{"kind": r.kind, "id": r.id, "job_id": r.job_id, "age": now - r.created_at if r.created_at else 0.0} for r in fleet.inventory()]


def reap(fleet: Fleet, job_id: str) -> None:
    """Delete the servers, ports, floating addresses and groups of a job. What fails now is found again at the next look."""
    try:
        fleet.delete([server.id for server in fleet.servers(job_id)])
        if not fleet.servers(job_id):
            fleet.delete_ports(fleet.leftover_ports(job_id))
            fleet.floating.delete(job_id)
            fleet.delete_groups(job_id)
    except exception.CloudError as error:
        LOG.warning("Orphans of job %s are not gone yet: %s", job_id, error.message)
