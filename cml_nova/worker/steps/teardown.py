"""TEARDOWN: nothing of the job is left in the cloud. Deleted means gone; there is no time-out into 'deleted'."""

from __future__ import annotations

import contextlib
import time

from oslo_log import log as logging

from cml_nova import exception
from cml_nova.compute import remains
from cml_nova.states import Cause, Outcome, Phase
from cml_nova.storage.base import checkpoint_prefix
from cml_nova.worker.crew import Crew
from cml_nova.worker.work import CANCELLED, Work

LOG = logging.getLogger(__name__)

#: seconds between rounds: first, and at most
_PAUSE_MIN, _PAUSE_MAX = 0.5, 30.0


def run(work: Work, crew: Crew) -> None:
    """Bring the job to DONE."""
    crew.close()
    if work.job.outcome is None:
        work.report(**CANCELLED)
    began, told, pause = time.monotonic(), False, _PAUSE_MIN
    with work.tools.watch.watch(work.job.id, expect_change=True):
        while not clean(work):
            if not told and time.monotonic() - began > work.conf.conductor.leak_suspect_after:
                _alarm(work)
                told = True
            work.lease.wake.wait(pause)
            work.lease.wake.clear()
            work.lease.check()
            pause = min(_PAUSE_MAX, pause * 1.5)
    # That of any other job may be wanted: it may be restarted, and a cancelled one's is in no artifact.
    if work.job.outcome == Outcome.SUCCEEDED:
        work.tools.storage.delete(checkpoint_prefix(work.job.id))
    work.report(
        phase=Phase.DONE,
        nodes=[{"rank": n["rank"], "status": "DELETED", "unreachable_since": None} for n in work.job.nodes],
        events=[("phase", "Nothing is left in the cloud.", {"phase": str(Phase.DONE)})],
    )


def clean(work: Work) -> bool:
    """Delete what there is; tell whether nothing was left at the end, and nothing can come into being any more."""
    job, fleet = work.job, work.tools.fleet
    gone = remains.clear(
        fleet, job.id, known={node["server_id"] for node in job.nodes if node["server_id"]}, asked=job.asked_for_servers,
        floating=fleet.floating.wanted or bool(job.runtime.get("floating")),
        wait=lambda: _await_end_of_servers(work))
    return gone and not job.unsettled


def _await_end_of_servers(work: Work) -> None:
    # Woken, or without an answer of the cloud: how the wait ends says nothing, since what is left is asked for after it.
    with contextlib.suppress(exception.CloudError):
        work.tools.watch.wait(work.job.id, lambda now: not now, timeout=_PAUSE_MAX, wake=work.lease.wake)


def _alarm(work: Work) -> None:
    LOG.error("Job %s: the cloud does not delete what is left of it; trying for ever", work.job.id)
    work.report(events=[("leak-suspect", "The cloud has not deleted the job's resources yet; this is tried until they are gone.",
                         {"cause": str(Cause.PLATFORM)})])
