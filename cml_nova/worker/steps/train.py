"""RUNNING: the processes of the attempt run by themselves on the nodes; we start them once, watch, and judge.

Nothing hangs on our being here: after a crash the next worker starts what was not started, and reads on where the saved logs end.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from oslo_log import log as logging

from cml_nova.states import Cause, Outcome, Phase, Target
from cml_nova.worker import losses
from cml_nova.worker.attempt import Attempt
from cml_nova.worker.crew import Crew
from cml_nova.worker.diagnosis import LINES, Diagnosis, diagnose, exit_codes
from cml_nova.worker.hang import Hang
from cml_nova.worker.restarts import Counter, next_attempt
from cml_nova.worker.work import CANCELLED, Work

LOG = logging.getLogger(__name__)

#: seconds between looks when nothing wakes us: what is new on a node, at the servers or in the job's row does
_TICK = 2.0
_LAST_LINES = 5
#: seconds in which the loss of a node, or the failure of a process, shows that another one failed of
_SETTLE = 5.0
#: between looks for that
_LOOK = 0.5


def run(work: Work, crew: Crew) -> None:
    """Bring the job to COLLECTING, to a new attempt, or to TEARDOWN where it was cancelled."""
    attempt = Attempt(work, crew)
    try:
        with work.tools.watch.watch(work.job.id, wake=work.lease.wake):
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
        attempt.look()
        if verdict.outcome == Outcome.SUCCEEDED:
            return _succeed(work, attempt)
        if verdict.outcome == Outcome.FAILED:
            return _fail(work, attempt)
        hang = attempt.hang()
        if hang:
            return _end_hang(work, attempt, hang)
        work.lease.wake.wait(attempt.pause(_TICK))
        # The cloud's API being away says nothing about the training: only an answer that lacks a server does.
        lost = attempt.refused() or losses.find(work, work.tools.watch.latest(work.job.id, newer_than=began), attempt.silent())
        if lost:
            return _lose(work, attempt, lost)
        if attempt.unstartable():
            return _give_up_start(work, attempt)
        if not attempt.started() and time.monotonic() - began > work.conf.conductor.start_timeout:
            return _start_anew(work, attempt, Phase.BOOTSTRAPPING, Cause.TIMEOUT,
                               f"The processes had not all started after {work.conf.conductor.start_timeout} s.")


def _end_early(work: Work, attempt: Attempt) -> None:
    """The user wants the job gone, or its time is up. Its checkpoint is saved, for a restart to go on from."""
    if work.job.target == Target.DELETE:
        _save_of_cancelled(work, attempt)
        return attempt.report(phase=Phase.TEARDOWN, **CANCELLED)
    attempt.stop(work.conf.remote.stop_grace)
    attempt.save_last()
    attempt.report(phase=Phase.COLLECTING, events=[("phase", "The processes were stopped.", {"phase": str(Phase.COLLECTING)})])


def _save_of_cancelled(work: Work, attempt: Attempt) -> None:
    """Let processes that make checkpoints end in good order, and save what they leave; nobody waits for those that make none."""
    if not work.conf.remote.last_save_timeout or not attempt.has_checkpoints():
        return
    attempt.report(events=[("checkpoint", "The processes are stopped, and their checkpoint is saved.", {"attempt": work.job.attempt})])
    if not work.forgotten:
        attempt.stop(work.conf.remote.stop_grace)
        attempt.save_last()


def _succeed(work: Work, attempt: Attempt) -> None:
    """All that matters has ended well; helpers that never end by themselves are stopped."""
    attempt.stop(work.conf.remote.stop_grace)
    # The outcome is known when the model is here, not before: a node may still be lost with it.
    attempt.report(
        phase=Phase.COLLECTING, runtime={**work.job.runtime, "trained": True},
        events=[("phase", "The training has ended; outputs are collected.", {"phase": str(Phase.COLLECTING)})],
    )


def _fail(work: Work, attempt: Attempt) -> None:
    """A process failed: the others are stopped; the attempt is repeated as far as the user, or the limit for losses, allows it."""
    lost = _await_cause(work, attempt)
    if lost:
        return _lose(work, attempt, lost)
    attempt.stop(work.conf.remote.stop_grace)
    attempt.save_last()
    culprit, diagnosis = _culprit(work, attempt)
    state = attempt.states()[culprit]
    if diagnosis.broken_node:
        node = next(task.node for task in work.job.layout.tasks if task.name == culprit)
        return _lose(work, attempt, {node: f"task {culprit} {diagnosis.what}"})
    reason = f"Task {culprit} {diagnosis.what}. {diagnosis.hint}".rstrip()
    tail = "\n".join(attempt.saver.last_lines(work.job.attempt, culprit, _LAST_LINES))
    reason += f"\nLast lines of its log:\n{tail}" if tail else " It has logged nothing."
    recovers = exit_codes(state) & set(work.job.spec.get("recover_on_exit_codes", ()))
    kind: Counter = "infra_restarts" if recovers or diagnosis.cause == Cause.INFRA_LOST else "error_restarts"
    _restart_or_end(work, attempt, kind, Phase.BOOTSTRAPPING, diagnosis.cause, reason, kind="task",
                    task=culprit, exit_code=state.exit_code, signal=state.signal)


def _give_up_start(work: Work, attempt: Attempt) -> None:
    """Nodes refuse to start their processes: that the disk is full is the job's own doing, anything else is not."""
    reason = "The processes can't be started: " + "; ".join(f"node {rank}: {why}" for rank, why in sorted(attempt.unstartable().items()))
    attempt.stop(work.conf.remote.stop_grace)
    if os.strerror(errno.ENOSPC) in reason:
        return _restart_or_end(work, attempt, "error_restarts", Phase.BOOTSTRAPPING, Cause.USER_ERROR, reason, kind="task")
    _restart_or_end(work, attempt, "infra_restarts", Phase.BOOTSTRAPPING, Cause.PLATFORM, reason, kind="task")


def _end_hang(work: Work, attempt: Attempt, hang: Hang) -> None:
    """No sign of life for too long: the processes are stopped, with word of where they are in their logs. That counts as an error."""
    last = attempt.saver.last_lines(work.job.attempt, hang.task, 1)
    attempt.stop(work.conf.remote.stop_grace, dump=True)
    attempt.save_last()
    reason = (f"{hang} (hang_timeout is {work.job.spec['hang_timeout']} s). "
              + (f"Its last line:\n{last[0]}" if last else "It has logged nothing."))
    _restart_or_end(work, attempt, "error_restarts", Phase.BOOTSTRAPPING, Cause.TIMEOUT, reason, kind="hang", task=hang.task)


def _await_cause(work: Work, attempt: Attempt) -> dict[int, str]:
    """Where a process failed because it missed another one, give what became of that one a while to show; give nodes that are lost."""
    began = time.monotonic()
    with work.tools.watch.watch(work.job.id, expect_change=True):
        while _culprit(work, attempt)[1].peer_lost and time.monotonic() - began < _SETTLE and not work.stopping():
            lost = losses.find(work, work.tools.watch.latest(work.job.id, newer_than=began), attempt.silent())
            if lost or work.ended_early():
                return lost
            work.lease.wake.wait(_LOOK)
    return {}


def _culprit(work: Work, attempt: Attempt) -> tuple[str, Diagnosis]:
    """Of the tasks that failed, pick the first one that did not only miss another one."""
    states = attempt.states()
    found = [(name, diagnose(states[name], attempt.saver.last_lines(work.job.attempt, name, LINES))) for name in attempt.failed()]
    name, diagnosis = next(((name, d) for name, d in found if not d.peer_lost), found[0])
    gone = next((task for task, state in states.items() if state.state == "EXITED" and not state.failed), None)
    if diagnosis.peer_lost and gone:
        diagnosis = replace(diagnosis, cause=Cause.USER_ERROR, hint=f"Task {gone} had ended before it, with success.")
    return name, diagnosis


def _restart_or_end(work: Work, attempt: Attempt, counter: Counter, phase: Phase, cause: Cause, reason: str, *, kind: str,
                    nodes: Sequence[dict[str, Any]] = (), **detail: Any) -> None:
    """Report that another attempt starts, or, where there were too many, that the job has failed.

    :param kind: of the event that tells of it; ``detail`` goes with it.
    """
    event = (kind, reason, {"cause": str(cause), "attempt": work.job.attempt, **detail})
    again = next_attempt(work, counter, phase, reason)
    if again:
        return attempt.report(**{**again, "events": [event, *again["events"]]}, cause=cause, nodes=list(nodes))
    attempt.report(phase=Phase.COLLECTING, outcome=Outcome.FAILED, cause=cause, status_reason=reason, events=[event], nodes=list(nodes),
                   exit_code=detail.get("exit_code"), failed_task=detail.get("task"))


def _lose(work: Work, attempt: Attempt, lost: dict[int, str]) -> None:
    """Nodes are gone: they are replaced, the others kept, and a new attempt starts on all."""
    attempt.forget(lost)
    _start_anew(work, attempt, Phase.PROVISIONING, Cause.INFRA_LOST, losses.reason(work, lost), lost)


def _start_anew(work: Work, attempt: Attempt, phase: Phase, cause: Cause, reason: str,
                lost: Mapping[int, str] = MappingProxyType({})) -> None:
    """Stop what runs and start another attempt, unless there were too many."""
    attempt.stop(work.conf.remote.stop_grace)
    attempt.save_last()
    if lost and work.job.infra_restarts < work.conf.conductor.max_infra_restarts:
        losses.delete_servers(work, lost)
    _restart_or_end(work, attempt, "infra_restarts", phase, cause, reason, kind="node" if lost else "task", nodes=losses.rows(lost))
