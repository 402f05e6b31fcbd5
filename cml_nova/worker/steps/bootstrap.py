"""BOOTSTRAPPING: every node answers, has the code, has run its setup; and the next attempt has its rank table."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, TimeoutError
from typing import Any, TypeVar

from oslo_log import log as logging

from cml_nova import exception
from cml_nova.remote import Leave, Machine, ProcessSpec, ProcessState
from cml_nova.states import Cause, Outcome, Phase
from cml_nova.worker import losses
from cml_nova.worker.beside import beside
from cml_nova.worker.crew import Crew
from cml_nova.worker.logs import LogSaver
from cml_nova.worker.processes import SETUP_ATTEMPT, user_environment, working_directory
from cml_nova.worker.saving import adopt, restore, told_of_restore
from cml_nova.worker.work import Work

LOG = logging.getLogger(__name__)

T = TypeVar("T")

_TICK = 0.5


class _NotReady(Exception):
    """The nodes can't be made ready; the arguments are cause, reason, and more columns of the job."""

    def __init__(self, cause: Cause, reason: str, **columns: Any) -> None:
        super().__init__(reason)
        self.columns = {"cause": cause, "status_reason": reason, **columns}


class _Lost(Exception):
    """Nodes are lost; the arguments say which, and why, and what is to be kept of it in the job's ``runtime``."""

    def __init__(self, nodes: dict[int, str], **runtime: Any) -> None:
        super().__init__(nodes)
        self.nodes = nodes
        self.runtime = runtime


def run(work: Work, crew: Crew) -> None:
    """Bring the job to RUNNING with a new attempt, to PROVISIONING where it has lost nodes, or to its end if they can't be made ready."""
    try:
        with work.tools.watch.watch(work.job.id, wake=work.lease.wake):
            _prepare(work, crew)
    except _Lost as lost:
        losses.replace(work, crew, lost.nodes, **lost.runtime)
    except _NotReady as problem:
        if work.ended_early():
            return work.report(phase=Phase.TEARDOWN)
        work.report(phase=Phase.TEARDOWN, outcome=Outcome.FAILED, **problem.columns,
                    events=[("failed", problem.columns["status_reason"], {"cause": str(problem.columns["cause"])})])


def _prepare(work: Work, crew: Crew) -> None:
    began = time.monotonic()
    for node in work.job.nodes:
        _await(work, crew.expect(node["rank"], work.access(node)), node, began)
    if work.ended_early():
        return work.report(phase=Phase.TEARDOWN)
    if work.job.spec.get("setup"):
        _set_up(work, crew)
    if work.ended_early():
        return work.report(phase=Phase.TEARDOWN)
    _make_attempt(work, crew)


def _ranks(work: Work) -> range:
    return range(len(work.job.nodes))


def _await(work: Work, connecting: Future[Machine], node: dict[str, Any], began: float) -> None:
    """Wait for a node's connection, and for the code to be there, while there is time, and the job is wanted and has its servers."""
    limit = work.conf.conductor.bootstrap_timeout
    while not work.ended_early():
        try:
            connecting.result(timeout=_TICK)
            return
        except TimeoutError:
            lost = losses.find(work, work.tools.watch.latest(work.job.id, newer_than=began), {})
            if lost:
                raise _Lost(lost) from None
            if work.job.phase_seconds > limit:
                if work.job.attempt:
                    # It did answer once, so it is the machine that has failed, and not the image or the network.
                    raise _Lost({node["rank"]: f"it has not answered by SSH for {limit} s"}) from None
                raise _NotReady(Cause.INFRA_LOST, f"{_name(node)} did not answer by SSH within {limit} s.") from None
        except (exception.HostKeyRefused, exception.NodeUnfit, exception.NodeCommandFailed) as error:
            replaced = work.job.runtime.get("unfit", [])
            if not isinstance(error, exception.NodeCommandFailed) and (work.job.attempt or node["rank"] not in replaced):
                # Another machine has the address, or this one is broken. Where its replacement is no better, it may be for the image.
                raise _Lost({node["rank"]: error.message}, unfit=[*replaced, node["rank"]]) from error
            # Found before anything of the job has run: its image or its flavor is not what it takes, unless it is the path that is not.
            early = not work.job.attempt and not isinstance(error, exception.HostKeyRefused)
            raise _NotReady(Cause.PRECHECK if early else Cause.PLATFORM, f"{_name(node)}: {error.message}") from error


def _name(node: dict[str, Any]) -> str:
    return f"Node {node['rank']} ({node['role']}:{node['index']}, {node['address']})"


def _raise_first(work: Work, results: dict[int, Any]) -> None:
    """:raises RemoteError: one of the nodes failed for a reason that may pass; the step is run again."""
    for rank, result in results.items():
        if isinstance(result, exception.NodeCommandFailed):
            raise _NotReady(Cause.PLATFORM, f"{_name(work.job.nodes[rank])}: {result.message}")
        if isinstance(result, exception.RemoteError):
            raise result


def _set_up(work: Work, crew: Crew) -> None:
    """Run the setup command once a node, and save its log as attempt 0."""
    saver = LogSaver(work.tools.storage, work.job.id)
    slots = work.job.layout.nodes

    def on_node(rank: int, machine: Machine) -> ProcessState:
        task = f"{slots[rank].role}:{slots[rank].index}"
        done: dict[str, ProcessState] = {s.task: s for s in machine.processes() if s.attempt == SETUP_ATTEMPT}
        over = task in done and done[task].state in ("EXITED", "STOPPED")
        if not over:
            machine.start(ProcessSpec(attempt=SETUP_ATTEMPT, task=task, command=work.job.spec["setup"], env=user_environment(work),
                                      cwd=working_directory(work)))
        # The command may have ended while no worker was there to save its log.
        saved = saver.resume(SETUP_ATTEMPT, task)
        if not over or saved < done[task].log_size:
            machine.follow({(SETUP_ATTEMPT, task): saved}, on_log=saver.add, on_state=lambda state: done.update({state.task: state}),
                           stop=ended)
            saver.finish(SETUP_ATTEMPT, task)
        return done[task]

    def look() -> None:
        if work.ended_early() or work.job.phase_seconds > work.conf.conductor.bootstrap_timeout:
            ended.set()

    ended = Leave()
    results = beside("setup", lambda: crew.each(on_node, _ranks(work)), look)
    if work.job.phase_seconds > work.conf.conductor.bootstrap_timeout:
        raise _NotReady(Cause.SETUP_ERROR, f"The setup command did not end within {work.conf.conductor.bootstrap_timeout} s.")
    if work.ended_early():
        return
    _raise_first(work, results)
    states = {rank: state for rank, state in results.items() if isinstance(state, ProcessState)}
    for rank, state in states.items():
        if state.state != "LOST" and state.exit_code != 0:
            task = f"{slots[rank].role}:{slots[rank].index}"
            tail = "\n".join(saver.last_lines(SETUP_ATTEMPT, task, 5))
            raise _NotReady(
                Cause.SETUP_ERROR, f"The setup command failed on {task} with exit code {state.exit_code} (its log is attempt 0). "
                f"Last lines:\n{tail}", exit_code=state.exit_code, failed_task=task)
    # How far it came can't be told, so it begins anew, on a machine on which nothing was done yet.
    lost = {rank: f"its setup was cut off: {state.reason}" for rank, state in states.items() if state.state == "LOST"}
    if lost:
        raise _Lost(lost)


def _make_attempt(work: Work, crew: Crew) -> None:
    """Ask each node for free ports and write the rank table of the next attempt; the attempt's start is the next phase's."""
    layout = work.job.layout
    if work.job.attempt:
        # A node that was out of reach when the last attempt was stopped may still run it.
        _raise_first(work, crew.each(lambda rank, machine: machine.stop(work.job.attempt, 0), _ranks(work)))
    attempt = work.job.attempt + 1
    _adopt(work)
    given = _restore(work, crew, attempt)
    if work.ended_early():
        return work.report(phase=Phase.TEARDOWN)
    _raise_first(work, given)
    needed = {rank: sum(t.ports for t in layout.tasks if t.node == rank) for rank in _ranks(work)}
    results = crew.each(lambda rank, machine: machine.free_ports(needed[rank]), _ranks(work))
    _raise_first(work, results)
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
        raise _NotReady(Cause.USER_ERROR, f"The checkpoint to go on from is gone: the job {work.job.spec['restart']['job']} "
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
