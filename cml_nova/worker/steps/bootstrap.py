"""BOOTSTRAPPING: every node answers, has the code, has run its setup; and the next attempt has its rank table."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any, TypeVar

from oslo_log import log as logging

from cml_nova import exception
from cml_nova.remote import Machine
from cml_nova.states import Cause, Outcome, Phase
from cml_nova.worker import losses
from cml_nova.worker.beside import beside
from cml_nova.worker.consoles import with_last_words
from cml_nova.worker.crew import Crew
from cml_nova.worker.readiness import Lost, NotReady, give_up, look, name_of, raise_first
from cml_nova.worker.saving import adopt, restore, told_of_restore
from cml_nova.worker.setup import Setup
from cml_nova.worker.silence import Silence
from cml_nova.worker.work import Work

LOG = logging.getLogger(__name__)

T = TypeVar("T")

#: seconds between looks at nodes that are waited for; at least, where one that fails at once has others tried anew
_TICK, _PAUSE = 0.5, 0.05
_HINT = "See whether its image starts an SSH server and cloud-init, and whether the workers get to the network of the nodes."


def run(work: Work, crew: Crew) -> None:
    """Bring the job to RUNNING with a new attempt, to PROVISIONING where it has lost nodes, or to its end if they can't be made ready."""
    try:
        with work.tools.watch.watch(work.job.id, wake=work.lease.wake):
            _prepare(work, crew)
    except Lost as lost:
        losses.replace(work, crew, lost.nodes, **lost.runtime)
    except NotReady as problem:
        if work.ended_early():
            return work.report(phase=Phase.TEARDOWN)
        work.report(phase=Phase.TEARDOWN, outcome=Outcome.FAILED, **problem.columns,
                    events=[("failed", problem.columns["status_reason"], {"cause": str(problem.columns["cause"])})])


def _prepare(work: Work, crew: Crew) -> None:
    silence = Silence(work, "it is waited for")
    _await(work, crew, silence)
    if work.ended_early():
        return work.report(phase=Phase.TEARDOWN)
    if work.job.spec.get("setup"):
        Setup(work, crew, silence).run()
    if work.ended_early():
        return work.report(phase=Phase.TEARDOWN)
    _make_attempt(work, crew)


def _ranks(work: Work) -> range:
    return range(len(work.job.nodes))


def _await(work: Work, crew: Crew, silence: Silence) -> None:
    """Wait until all nodes are connected and have the code, while the job is wanted and has its servers."""
    began = time.monotonic()
    while not work.ended_early():
        coming = {node["rank"]: crew.expect(node["rank"], work.access(node)) for node in work.job.nodes}
        wait(coming.values(), _TICK)
        waiting = [rank for rank, connecting in coming.items() if not _is_ready(work, rank, connecting)]
        for rank in _ranks(work):
            _note(work, crew, silence, rank, ready=rank not in waiting)
        look(work, silence, began)
        if not waiting:
            return
        _check_late(work, crew, silence)
        work.lease.pause(_PAUSE)


def _is_ready(work: Work, rank: int, connecting: Future[Machine]) -> bool:
    """:raises Lost, NotReady: the node is none on which the job could run."""
    if not connecting.done():
        return False
    try:
        connecting.result()
    except exception.NodeCommandFailed as error:
        cause = Cause.PLATFORM if work.job.attempt else Cause.PRECHECK
        raise NotReady(cause, f"{name_of(work.job.nodes[rank])}: {error.message}") from error
    except exception.HostKeyRefused as error:
        give_up(work, {rank: error.message}, Cause.PLATFORM)
    except exception.NodeUnfit as error:
        # Found before anything of the job has run: its image or its flavor is not what it takes.
        give_up(work, {rank: error.message}, Cause.PRECHECK)
    except exception.RemoteError as error:
        LOG.info("Job %s: node %d is connected to anew after: %s", work.job.id, rank, error.message)
        return False
    return True


def _note(work: Work, crew: Crew, silence: Silence, rank: int, *, ready: bool) -> None:
    """Note whether a node answers, and whether it keeps us waiting."""
    if crew.machine(rank).connected:
        silence.reached(rank)
    else:
        silence.missed(rank, "the connection is lost", tell=_is_known(work, crew, rank))
    if ready:
        silence.end(rank)
    else:
        silence.begin(rank)


def _is_known(work: Work, crew: Crew, rank: int) -> bool:
    """Tell whether a node has ever answered, as far as that is known here."""
    return crew.has_answered(rank) or work.job.nodes[rank]["unreachable_since"] is not None


def _check_late(work: Work, crew: Crew, silence: Silence) -> None:
    """Give up nodes that had their time and are not ready; for those that have answered before it stands still while they are silent.

    :raises Lost, NotReady: there are some.
    """
    limit: int = work.conf.conductor.bootstrap_timeout
    late = with_last_words(work, {rank: f"it did not answer by SSH within {limit} s" for rank, seconds in silence.seconds().items()
                                  if seconds > limit and not _is_known(work, crew, rank)})
    late |= {rank: f"it answers, but was not ready within {limit} s" for rank, seconds in silence.waited().items() if seconds > limit}
    if late:
        give_up(work, late, Cause.INFRA_LOST, _HINT)


def _make_attempt(work: Work, crew: Crew) -> None:
    """Ask each node for free ports and write the rank table of the next attempt; the attempt's start is the next phase's."""
    layout = work.job.layout
    if work.job.attempt:
        # A node that was out of reach when the last attempt was stopped may still run it.
        raise_first(work, crew.each(lambda rank, machine: machine.stop(work.job.attempt, 0), _ranks(work)))
    attempt = work.job.attempt + 1
    _adopt(work)
    given = _restore(work, crew, attempt)
    if work.ended_early():
        return work.report(phase=Phase.TEARDOWN)
    raise_first(work, given)
    needed = {rank: sum(t.ports for t in layout.tasks if t.node == rank) for rank in _ranks(work)}
    results = crew.each(lambda rank, machine: machine.free_ports(needed[rank]), _ranks(work))
    raise_first(work, results)
    ports = {rank: list(found) for rank, found in results.items() if not isinstance(found, exception.RemoteError)}
    table = []
    for task in layout.tasks:
        mine, ports[task.node] = ports[task.node][:task.ports], ports[task.node][task.ports:]
        table.append({"task": task.name, "address": work.job.nodes[task.node]["address"], "ports": mine})
    told = [told_of_restore(work, attempt, given)] if work.job.attempt or work.job.runtime.get("checkpoint") else []
    work.report(
        phase=Phase.RUNNING, attempt=attempt, runtime={**work.job.runtime, "table": table},
        tasks=[{"attempt": attempt, "name": t.name, "node_rank": t.node, "state": "PENDING"} for t in layout.tasks],
        events=[*told, ("phase", f"All nodes are ready; attempt {attempt} starts.", {"phase": str(Phase.RUNNING), "attempt": attempt})],
    )


def _adopt(work: Work) -> None:
    """Make the checkpoint of the job of which this is a restart its own."""
    try:
        adopted = _while_wanted(work, "adopt", lambda stop: adopt(work, stop))
    except FileNotFoundError:
        raise NotReady(Cause.USER_ERROR, f"The checkpoint to go on from is gone: the job {work.job.spec['restart']['job']} "
                                          "was deleted meanwhile.") from None
    if adopted:
        work.report(runtime={**work.job.runtime, "checkpoint": adopted.summary()})


def _restore(work: Work, crew: Crew, attempt: int) -> dict[int, Any]:
    """Give every node the job's checkpoint."""
    return _while_wanted(work, "restore", lambda stop: restore(work, crew, attempt, stop))


def _while_wanted(work: Work, name: str, action: Callable[[threading.Event], T]) -> T:
    """Do something that ends early, with a RemoteError, when the event is set: the job is not wanted any more."""
    def look() -> None:
        if work.ended_early():
            stop.set()

    stop = threading.Event()
    return beside(name, lambda: action(stop), look)
