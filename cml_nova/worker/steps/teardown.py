"""TEARDOWN: nothing of the job is left in the cloud. Deleted means gone; there is no time-out into 'deleted'."""

from __future__ import annotations

import time
from collections.abc import Callable

from oslo_log import log as logging

from cml_nova import exception
from cml_nova.states import Cause, Outcome, Phase
from cml_nova.worker.crew import Crew
from cml_nova.worker.work import Work

LOG = logging.getLogger(__name__)

#: seconds between rounds: first, and at most
_PAUSE_MIN, _PAUSE_MAX = 0.5, 30.0
#: seconds without success until users and operators are told: more than a restart of the cloud's API takes
_ALARM_AFTER = 300


def run(work: Work, crew: Crew) -> None:
    """Bring the job to DONE."""
    crew.close()
    if work.job.outcome is None:
        work.report(outcome=Outcome.CANCELLED, status_reason="The job was cancelled.")
    began, told, pause = time.monotonic(), False, _PAUSE_MIN
    with work.tools.watch.watch(work.job.id, expect_change=True):
        while not clean(work):
            if not told and time.monotonic() - began > _ALARM_AFTER:
                _alarm(work)
                told = True
            work.lease.wake.wait(pause)
            work.lease.wake.clear()
            work.lease.check()
            pause = min(_PAUSE_MAX, pause * 1.5)
    work.report(
        phase=Phase.DONE,
        nodes=[{"rank": n["rank"], "status": "DELETED", "unreachable_since": None} for n in work.job.nodes],
        events=[("phase", "Nothing is left in the cloud.", {"phase": str(Phase.DONE)})],
    )


def clean(work: Work) -> bool:
    """Delete what there is; tell whether nothing was left at the end. A failure in one part never skips the others."""
    gone = [_attempt(work, part) for part in (_servers, _ports, _floating, _groups)]
    return all(gone) and work.job.runtime.get("unsettled_until", 0) < time.time()


def _attempt(work: Work, part: Callable[[Work], bool]) -> bool:
    try:
        return part(work)
    except exception.CloudError as error:
        LOG.warning("Job %s: clean-up goes on after: %s", work.job.id, error.message)
        return False


def _servers(work: Work) -> bool:
    fleet, watch, job_id = work.tools.fleet, work.tools.watch, work.job.id
    known = {node["server_id"] for node in work.job.nodes if node["server_id"]}
    listed = fleet.servers(job_id)
    unlisted = fleet.remaining(known - {s.id for s in listed})
    fleet.delete(sorted({s.id for s in listed if not s.deleting} | unlisted))
    watch.wait(job_id, lambda now: not now, timeout=_PAUSE_MAX, wake=work.lease.wake)
    # No list by tag tells of servers in a part of the cloud that doesn't answer; the one without a filter does.
    return not fleet.servers(job_id) and not fleet.remaining(known)


def _ports(work: Work) -> bool:
    """Ports that Nova left behind; those it made carry no tag, so they are found by the job's security group."""
    fleet = work.tools.fleet
    left = fleet.leftover_ports(work.job.id)
    if left:
        fleet.delete_ports(left)
    return not left


def _floating(work: Work) -> bool:
    """Floating addresses stay when their ports go."""
    floating = work.tools.fleet.floating
    if not (floating.wanted or work.job.runtime.get("floating")):
        return True
    floating.delete(work.job.id)
    return not floating.ids(work.job.id)


def _groups(work: Work) -> bool:
    work.tools.fleet.delete_groups(work.job.id)
    return not work.tools.fleet.groups(work.job.id)


def _alarm(work: Work) -> None:
    LOG.error("Job %s: the cloud does not delete what is left of it; trying for ever", work.job.id)
    work.report(events=[("leak-suspect", "The cloud has not deleted the job's resources yet; this is tried until they are gone.",
                         {"cause": str(Cause.PLATFORM)})])
