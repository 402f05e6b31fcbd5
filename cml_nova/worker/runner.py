"""The loop that carries a job from phase to phase: load, run the phase's step, repeat."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from oslo_log import log as logging

from cml_nova import exception
from cml_nova.states import Phase
from cml_nova.worker.crew import Crew
from cml_nova.worker.steps import STEPS
from cml_nova.worker.work import Lease, Tools, Work

LOG = logging.getLogger(__name__)

#: seconds until a step that failed for a passing reason is run again: first, and at most
_PAUSE_MIN, _PAUSE_MAX = 0.5, 30.0


def run(tools: Tools, lease: Lease, stopping: Callable[[], bool]) -> None:
    """Carry a job on until it is done, given back, another's, or this worker stops.

    A fresh start, going on after a crash and a retry are the same: each step looks first at what there is.
    """
    try:
        work = Work(tools, lease, stopping)
    except exception.LeaseLost:
        return
    work.context.update_store()
    crew = Crew(work)
    try:
        _steps(work, crew)
    except exception.LeaseLost as lost:
        LOG.info("Dropping a job: %s", lost.message)
    finally:
        crew.close()


def _steps(work: Work, crew: Crew) -> None:
    pause = _PAUSE_MIN
    while work.job.phase != Phase.DONE and not work.given_back and not work.stopping():
        phase = work.job.phase
        try:
            STEPS[phase](work, crew)
            pause = _PAUSE_MIN
        except exception.LeaseLost:
            raise
        except Exception as error:
            _note(work, phase, error)
            asked = error.detail.get("retry_after", 0.0) if isinstance(error, exception.CloudError) else 0.0
            _rest(work, min(asked, _PAUSE_MAX), pause * random.uniform(0.5, 1.0))  # noqa: S311 -- no secret
            pause = min(_PAUSE_MAX, pause * 2)
            work.lease.check()
            work.refresh()


def _rest(work: Work, asked: float, pause: float) -> None:
    """Wait before a step is run again. News of the job ends that, if the job is wanted not before the seconds that the cloud asks for."""
    until = time.monotonic() + asked
    work.lease.wake.wait(max(asked, pause))
    while (left := until - time.monotonic()) > 0 and not work.stopping() and not work.ended_early():
        work.lease.wake.wait(left)


def _note(work: Work, phase: str, error: Exception) -> None:
    """Tell operators, and users where it is new to them, why a step is run again."""
    if isinstance(error, exception.CMLError):
        LOG.warning("Job %s: %s is tried again after: %s", work.job.id, phase, error.message)
        reason = f"{phase}: {error.message} This is tried again."
    else:
        LOG.exception("Job %s: %s is tried again after an unexpected error", work.job.id, phase)
        reason = f"{phase}: internal error of the service ({type(error).__name__}); its log says more. This is tried again."
    if reason != work.job.status_reason and work.job.outcome is None:
        work.report(status_reason=reason, events=[("retry", reason, {"phase": phase})])
