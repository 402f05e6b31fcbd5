"""What the real steps of a worker report. ``choice`` is what happens to them; "well" is what brings a job to a good end."""

from __future__ import annotations

from collections.abc import Callable

from cml_nova.states import Cause, Outcome, Phase, Target
from cml_nova.worker.restarts import Counter, next_attempt
from cml_nova.worker.work import Work

CHOICES = ("well",) * 4 + ("error", "loss", "no room", "refused", "metrics")


def _provision(work: Work, choice: str) -> None:
    if work.ended_early():
        work.report(phase=Phase.TEARDOWN)
    elif choice == "no room":
        work.report(phase=Phase.QUEUED, pause=None, cause=Cause.NO_CAPACITY, status_reason="No valid host was found.",
                    nodes=[{"rank": 0, "server_id": None, "status": "PLANNED"}])
    elif choice == "refused":
        work.report(phase=Phase.TEARDOWN, outcome=Outcome.FAILED, cause=Cause.CONFIG, status_reason="no such flavor")
    elif choice == "loss":
        work.report(runtime={**work.job.runtime, "unsettled_until": 1.0})
    else:
        work.report(phase=Phase.BOOTSTRAPPING, cause=None, status_reason=None, nodes=[{"rank": 0, "status": "ACTIVE", "server_id": "s"}])


def _bootstrap(work: Work, choice: str) -> None:
    if work.ended_early():
        work.report(phase=Phase.TEARDOWN)
    elif choice == "error":
        work.report(phase=Phase.TEARDOWN, outcome=Outcome.FAILED, cause=Cause.USER_ERROR, status_reason="setup", exit_code=7)
    else:
        attempt = work.job.attempt + 1
        work.report(phase=Phase.RUNNING, attempt=attempt, runtime={**work.job.runtime, "table": []},
                    tasks=[{"attempt": attempt, "name": "worker:0", "node_rank": 0, "state": "PENDING"}],
                    events=[("phase", f"attempt {attempt} starts", {})])


def _train(work: Work, choice: str) -> None:
    if work.ended_early():
        work.report(phase=Phase.TEARDOWN if work.job.target == Target.DELETE else Phase.COLLECTING)
    elif choice in ("error", "loss"):
        _restart(work, choice)
    elif choice == "metrics":
        metric = {"attempt": work.job.attempt, "task": "worker:0", "offset": 1, "name": "loss", "value": 0.5, "at": 1.0}
        work.report(progress=50, metrics=[metric])
    else:
        work.report(phase=Phase.COLLECTING, runtime={**work.job.runtime, "trained": True})


def _restart(work: Work, choice: str) -> None:
    counter: Counter = "error_restarts" if choice == "error" else "infra_restarts"
    cause, phase = (Cause.USER_ERROR, Phase.BOOTSTRAPPING) if choice == "error" else (Cause.INFRA_LOST, Phase.PROVISIONING)
    again = next_attempt(work, counter, phase, choice)
    if again:
        work.report(**again, cause=cause)
    else:
        work.report(phase=Phase.COLLECTING, outcome=Outcome.FAILED, cause=cause, status_reason=choice)


def _collect(work: Work, choice: str) -> None:
    if work.ended_early() and work.job.target == Target.DELETE and work.job.outcome is None:
        work.report(phase=Phase.TEARDOWN)
    elif choice == "loss" and work.job.runtime.get("trained"):
        work.report(phase=Phase.TEARDOWN, outcome=Outcome.FAILED, cause=Cause.INFRA_LOST, status_reason="outputs lost")
    else:
        trained = {"outcome": Outcome.SUCCEEDED, "progress": 100} if work.job.runtime.get("trained") else {}
        work.report(phase=Phase.TEARDOWN, **trained)


def _tear_down(work: Work, choice: str) -> None:
    if work.job.outcome is None:
        work.report(outcome=Outcome.CANCELLED, status_reason="The job was cancelled.")
    work.report(phase=Phase.DONE, nodes=[{"rank": 0, "status": "DELETED"}], events=[("phase", "Nothing is left in the cloud.", {})])


STEPS: dict[str, Callable[[Work, str], None]] = {
    Phase.PROVISIONING: _provision, Phase.BOOTSTRAPPING: _bootstrap, Phase.RUNNING: _train, Phase.COLLECTING: _collect,
    Phase.TEARDOWN: _tear_down,
}
