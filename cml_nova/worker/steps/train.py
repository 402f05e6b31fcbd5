"""RUNNING: the processes of the attempt run by themselves on the nodes; we start them once, watch, and judge.

Nothing hangs on our being here: after a crash the next worker starts what was not started, and reads on where the saved logs end.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from oslo_log import log as logging

from cml_nova.compute.fleet import Server
from cml_nova.frameworks import TaskState, Verdict
from cml_nova.states import Cause, Outcome, Phase, Target
from cml_nova.worker.attempt import Attempt
from cml_nova.worker.crew import Crew
from cml_nova.worker.work import Work

LOG = logging.getLogger(__name__)

#: seconds between looks when nothing wakes us; also the longest delay of metrics
_TICK = 0.5
#: what Nova calls servers whose processes are gone
_DEAD = ("ERROR", "SHUTOFF", "DELETED", "SOFT_DELETED")
_LAST_LINES = 5


def run(work: Work, crew: Crew) -> None:
    """Bring the job to COLLECTING, to a new attempt, or to TEARDOWN where it was cancelled."""
    attempt = Attempt(work, crew)
    try:
        with work.tools.watch.watch(work.job.id, expect_change=False):
            _observe(work, attempt)
    finally:
        attempt.leave()


def _observe(work: Work, attempt: Attempt) -> None:
    """Watch the attempt until it has come to some end, and report that end; or until another worker is to watch it."""
    began = time.monotonic()
    while not work.stopping():
        if work.ended_early():
            return _end_early(work, attempt)
        verdict = work.job.framework.verdict(work.job.layout, attempt.states())
        attempt.report()
        if verdict.outcome == Outcome.SUCCEEDED:
            return _succeed(work, attempt)
        if verdict.outcome == Outcome.FAILED:
            return _fail(work, attempt, verdict)
        work.lease.wake.wait(_TICK)
        # The cloud's API being away says nothing about the training: only an answer that lacks a server does.
        lost = attempt.refused() or _lost(work, work.tools.watch.latest(work.job.id, newer_than=began), attempt.silent())
        if lost:
            return _lose(work, attempt, lost)
        if not attempt.started() and time.monotonic() - began > work.conf.conductor.start_timeout:
            return _start_anew(work, attempt, Phase.BOOTSTRAPPING, Cause.TIMEOUT,
                               f"The processes had not all started after {work.conf.conductor.start_timeout} s.")


def _lost(work: Work, servers: Sequence[Server] | None, silent: Mapping[int, float]) -> dict[int, str]:
    """Say which nodes are gone for good, and why; none if the cloud gave no answer.

    :param silent: seconds for which nodes have not answered, by rank. That alone says little: the path may be cut, and the training go on.
    """
    if servers is None:
        return {}
    known = {s.id: s for s in servers}
    reasons = {node["rank"]: _why_lost(work, known.get(node["server_id"]), silent.get(node["rank"])) for node in work.job.nodes}
    return {rank: why for rank, why in reasons.items() if why}


def _why_lost(work: Work, server: Server | None, silent: float | None) -> str | None:
    if server is None:
        return "its server is gone from the cloud"
    if server.status in _DEAD:
        return f"its server is {server.status}"
    if silent is None:
        return None
    if server.host_down:
        return "it does not answer, and the host of its server is down"
    limit = work.conf.conductor.unreachable_timeout
    return f"it has not answered for {limit} s" if limit and silent > limit else None


def _end_early(work: Work, attempt: Attempt) -> None:
    """The user wants the job gone, or its time is up."""
    if work.job.target == Target.DELETE:
        return work.report(phase=Phase.TEARDOWN)
    attempt.stop(work.conf.remote.stop_grace)
    attempt.report(phase=Phase.COLLECTING, events=[("phase", "The processes were stopped.", {"phase": str(Phase.COLLECTING)})])


def _succeed(work: Work, attempt: Attempt) -> None:
    """All that matters has ended well; helpers that never end by themselves are stopped."""
    attempt.stop(work.conf.remote.stop_grace)
    # The outcome is known when the model is here, not before: a node may still be lost with it.
    attempt.report(
        phase=Phase.COLLECTING, runtime={**work.job.runtime, "trained": True},
        events=[("phase", "The training has ended; outputs are collected.", {"phase": str(Phase.COLLECTING)})],
    )


def _fail(work: Work, attempt: Attempt, verdict: Verdict) -> None:
    """A process failed: the others are stopped; the attempt is repeated if the user wants that."""
    culprit = verdict.culprit or ""
    state = attempt.states()[culprit]
    if state.state == "LOST":
        return _start_anew(work, attempt, Phase.BOOTSTRAPPING, Cause.INFRA_LOST,
                           f"Task {culprit} vanished: its node was restarted, or lost the process that watches over it.")
    attempt.stop(work.conf.remote.stop_grace)
    how = _how_it_ended(state)
    tail = "\n".join(attempt.saver.last_lines(work.job.attempt, culprit, _LAST_LINES))
    reason = f"Task {culprit} {how}. Last lines of its log:\n{tail}" if tail else f"Task {culprit} {how}; it has logged nothing."
    event = ("task", reason, {"task": culprit, "exit_code": state.exit_code, "signal": state.signal, "attempt": work.job.attempt})
    spec = work.job.spec
    if state.exit_code in spec.get("recover_on_exit_codes", ()) and work.job.infra_restarts < work.conf.conductor.max_infra_restarts:
        attempt.report(phase=Phase.BOOTSTRAPPING, infra_restarts=work.job.infra_restarts + 1, events=[event])
    elif work.job.error_restarts < spec.get("max_restarts", 0):
        attempt.report(phase=Phase.BOOTSTRAPPING, error_restarts=work.job.error_restarts + 1, events=[event])
    else:
        attempt.report(phase=Phase.COLLECTING, outcome=Outcome.FAILED, cause=Cause.USER_ERROR, status_reason=reason,
                       exit_code=state.exit_code, failed_task=culprit, events=[event])


def _how_it_ended(state: TaskState) -> str:
    if state.signal is not None:
        return f"was killed by signal {state.signal}"
    return f"exited with code {state.exit_code}"


def _lose(work: Work, attempt: Attempt, lost: dict[int, str]) -> None:
    """Nodes are gone: they are replaced, the others kept, and a new attempt starts on all."""
    slots = work.job.layout.nodes
    reason = "; ".join(f"node {rank} ({slots[rank].role}:{slots[rank].index}): {why}" for rank, why in sorted(lost.items()))
    attempt.forget(lost)
    empty = {"server_id": None, "server_name": None, "address": None, "status": "LOST"}
    changes: list[dict[str, Any]] = [{"rank": rank, "fault": why, **empty} for rank, why in lost.items()]
    doomed = [work.job.nodes[rank]["server_id"] for rank in lost]
    _start_anew(work, attempt, Phase.PROVISIONING, Cause.INFRA_LOST, f"Lost {reason}.", nodes=changes, doomed=doomed)


def _start_anew(work: Work, attempt: Attempt, phase: Phase, cause: Cause, reason: str, *,
                nodes: Sequence[dict[str, Any]] = (), doomed: Sequence[str] = ()) -> None:
    """Stop what runs and start another attempt, unless there were too many."""
    attempt.stop(work.conf.remote.stop_grace)
    events = [("node" if nodes else "task", reason, {"cause": str(cause), "attempt": work.job.attempt})]
    if work.job.infra_restarts >= work.conf.conductor.max_infra_restarts:
        return attempt.report(phase=Phase.COLLECTING, outcome=Outcome.FAILED, cause=cause, status_reason=reason, events=events,
                              nodes=list(nodes))
    if doomed:
        # A lost server may be alive and only shut off or taken for another: it must not stay beside its replacement.
        work.tools.fleet.delete(doomed)
    attempt.report(phase=phase, infra_restarts=work.job.infra_restarts + 1, cause=cause, status_reason=reason, events=events,
                   nodes=list(nodes))
