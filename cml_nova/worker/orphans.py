"""What is in the cloud under this deployment's tag, and the deletion of what belongs to no job, at a conductor's word."""

from __future__ import annotations

import time
from typing import Any

from oslo_log import log as logging

from cml_nova.compute import remains
from cml_nova.compute.fleet import Fleet

LOG = logging.getLogger(__name__)


def inventory(fleet: Fleet) -> list[dict[str, Any]]:
    """List kind, id, job_id and age (seconds; 0 where the cloud doesn't say) of everything with the deployment's tag."""
    now = time.time()
    return [{"kind": r.kind, "id": r.id, "job_id": r.job_id, "age": now - r.created_at if r.created_at else 0.0} for r in fleet.inventory()]


def reap(fleet: Fleet, job_id: str) -> None:
    """Delete what a job has in the cloud. What fails now is found again at the next look."""
    if not remains.clear(fleet, job_id):
        LOG.warning("Orphans of job %s are not gone yet", job_id)
