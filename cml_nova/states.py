"""The life of a job in one table: phases, outcomes, targets, causes, and what may follow what.

Three small columns instead of one long enumeration: a job that failed and is still being cleaned up is
phase TEARDOWN with outcome FAILED. The status that users see is derived from them.
"""

from __future__ import annotations

from enum import StrEnum


class Phase(StrEnum):
    """What is being done with the job now."""

    QUEUED = "QUEUED"
    PROVISIONING = "PROVISIONING"
    BOOTSTRAPPING = "BOOTSTRAPPING"
    RUNNING = "RUNNING"
    COLLECTING = "COLLECTING"
    TEARDOWN = "TEARDOWN"
    DONE = "DONE"


class Outcome(StrEnum):
    """How the job ended; unknown (null) until it is decided, then never changed."""

    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    TIMED_OUT = "TIMED_OUT"


class Target(StrEnum):
    """What the user wants of the job."""

    RUN = "RUN"
    DELETE = "DELETE"


class Cause(StrEnum):
    """Whose doing it is that a job waits, restarts or fails."""

    USER_ERROR = "USER_ERROR"
    SETUP_ERROR = "SETUP_ERROR"
    PRECHECK = "PRECHECK"
    INFRA_LOST = "INFRA_LOST"
    PREEMPTED = "PREEMPTED"
    NO_CAPACITY = "NO_CAPACITY"
    QUOTA = "QUOTA"
    TIMEOUT = "TIMEOUT"
    CONFIG = "CONFIG"
    PLATFORM = "PLATFORM"


#: phase -> the phases that may follow it. Going back means: to QUEUED when the cloud has no room, to PROVISIONING
#: when a node was lost (also with outputs that were not collected yet), to BOOTSTRAPPING when the processes start anew on the same nodes.
TRANSITIONS: dict[Phase, frozenset[Phase]] = {
    Phase.QUEUED: frozenset({Phase.PROVISIONING, Phase.TEARDOWN}),
    Phase.PROVISIONING: frozenset({Phase.QUEUED, Phase.BOOTSTRAPPING, Phase.TEARDOWN}),
    Phase.BOOTSTRAPPING: frozenset({Phase.PROVISIONING, Phase.RUNNING, Phase.TEARDOWN}),
    Phase.RUNNING: frozenset({Phase.PROVISIONING, Phase.BOOTSTRAPPING, Phase.COLLECTING, Phase.TEARDOWN}),
    Phase.COLLECTING: frozenset({Phase.PROVISIONING, Phase.TEARDOWN}),
    Phase.TEARDOWN: frozenset({Phase.DONE}),
    Phase.DONE: frozenset(),
}

_STATUS = {
    Phase.QUEUED: "QUEUED",
    Phase.PROVISIONING: "BUILDING",
    Phase.BOOTSTRAPPING: "PREPARING",
    Phase.RUNNING: "RUNNING",
    Phase.COLLECTING: "COLLECTING",
    Phase.TEARDOWN: "CLEANING",
}

#: the other way round, for the statuses that are not outcomes
PHASE_OF_STATUS = {status: phase for phase, status in _STATUS.items()}

#: every value that ``status_of`` can give, in the order of a job's life
STATUSES = (*_STATUS.values(), *(str(o) for o in Outcome))


def status_of(phase: str, outcome: str | None) -> str:
    """Derive the user-visible status; a terminal one means that nothing of the job is left in the cloud."""
    if phase == Phase.DONE:
        return str(outcome)
    return _STATUS[Phase(phase)]


def may_follow(before: str, after: str) -> bool:
    """Tell whether a job in phase ``before`` may enter ``after`` (staying where it is always may)."""
    return before == after or Phase(after) in TRANSITIONS[Phase(before)]
