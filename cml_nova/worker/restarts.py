"""When a job may start anew, and when it does: the first restart of each kind at once, later ones after a pause that grows."""

from __future__ import annotations

from typing import Any, Literal

from cml_nova.backoff import growing_pause
from cml_nova.states import Phase
from cml_nova.worker.work import Work

#: errors of the program, and losses that are no fault of it: limited apart
Counter = Literal["error_restarts", "infra_restarts"]


def next_attempt(work: Work, counter: Counter, phase: Phase, reason: str) -> dict[str, Any] | None:
    """Give what a report of a new attempt has to say; None if there were as many of the kind as there may be.

    :param phase: where the way to the new attempt begins if it begins at once.
    :param reason: of the restart, for the job's ``status_reason``.
    """
    conf, done = work.conf.conductor, getattr(work.job, counter)
    most: int = conf.max_infra_restarts if counter == "infra_restarts" else work.job.spec.get("max_restarts", 0)
    if done >= most:
        return None
    pause = growing_pause(done - 1, conf.restart_pause_min, conf.restart_pause_max) if done else 0.0
    kind = "after a loss" if counter == "infra_restarts" else "after an error"
    when = f"in {pause:.1f} s" if pause else "at once"
    word = f"Attempt {work.job.attempt + 1} begins {when}: restart {done + 1} {kind}, of {most} at most."
    told = {counter: done + 1, "status_reason": f"{reason}\n{word}", "events": [("restart", word, {"pause": round(pause, 1)})]}
    if not pause:
        return {**told, "phase": phase}
    # The job is nobody's meanwhile, and nobody watches its servers: so these are looked at first.
    return {**told, "phase": Phase.PROVISIONING, "pause": pause}
