"""cml-nova-manage orphans: what the deployment has in the cloud that belongs to no living job. Needs no daemon."""

from __future__ import annotations

import json
import sys
import time

from oslo_config import cfg

from cml_nova import exception
from cml_nova.compute import remains
from cml_nova.compute import session as cloud_session
from cml_nova.compute.fleet import Fleet, Resource
from cml_nova.db import orphans
from cml_nova.db.engine import Database

#: how often, and how many seconds apart, a job's remains are looked at until they must be gone
_ROUNDS, _PAUSE = 60, 2.0


def list_all(conf: cfg.ConfigOpts, format: str) -> int:
    """List servers, ports, security groups and floating addresses of jobs that have ended; the exit status is 1 if there are any."""
    found = sorted(_find(conf, _fleet(conf)), key=lambda r: (r.job_id, r.kind, r.id))
    if format == "json":
        print(json.dumps([{"kind": r.kind, "id": r.id, "job_id": r.job_id or None, "created_at": r.created_at} for r in found], indent=2))
    else:
        for resource in found:
            print(f"{resource.kind:<8}  {resource.id:<36}  job {resource.job_id or 'unknown'}")
    return 1 if found else 0


def reap(conf: cfg.ConfigOpts, job: str | None) -> int:
    """Delete servers, ports, security groups and floating addresses of jobs that have ended, and wait until they are gone."""
    fleet = _fleet(conf)
    if job is not None:
        with Database(conf).read() as session:
            if orphans.living(session, [job]):
                raise exception.Conflict(f"The job {job} has not ended: cancel it, or, where that does not help, use "
                                         f"cml-nova-manage job reset {job}.")
        return 0 if _clear(fleet, job) else 1
    found = _find(conf, fleet)
    left = [job_id for job_id in sorted({r.job_id for r in found if r.job_id}) if not _clear(fleet, job_id)]
    strays = [r for r in found if not r.job_id]
    for resource in strays:
        print(f"The {resource.kind} {resource.id} names no job; look at it, and delete it by hand.", file=sys.stderr)
    return 1 if left or strays else 0


def _fleet(conf: cfg.ConfigOpts) -> Fleet:
    return Fleet(conf, cloud_session.service_connection(conf))


def _find(conf: cfg.ConfigOpts, fleet: Fleet) -> list[Resource]:
    """List what belongs to no job that was alive before the look or is after it: one may end, or be made, meanwhile."""
    db = Database(conf)
    with db.read() as session:
        living = orphans.living(session)
    found = fleet.inventory()
    with db.read() as session:
        living |= orphans.living(session, {r.job_id for r in found})
    return [r for r in found if r.job_id not in living]


def _clear(fleet: Fleet, job_id: str) -> bool:
    for _ in range(_ROUNDS):
        if remains.clear(fleet, job_id):
            print(f"job {job_id}: nothing is left")
            return True
        time.sleep(_PAUSE)
    print(f"job {job_id}: something is left; the log says why. Try again.", file=sys.stderr)
    return False
