"""COLLECTING: outputs and checkpoints of every node are brought into the storage."""

from __future__ import annotations

import threading
import time
from collections.abc import Container, Iterator

from oslo_log import log as logging

from cml_nova import exception
from cml_nova.remote import Machine, archive
from cml_nova.states import Cause, Outcome, Phase, Target
from cml_nova.storage.base import artifact_prefix
from cml_nova.worker import losses
from cml_nova.worker.beside import beside
from cml_nova.worker.crew import Crew
from cml_nova.worker.saving import Event, rescue
from cml_nova.worker.work import Work

LOG = logging.getLogger(__name__)

#: what is collected: the directories behind $CML_OUTPUT_DIR and $CML_CHECKPOINT_DIR
_PARTS = ("output", "checkpoints")
_RETRY_PAUSE = 1.0


def run(work: Work, crew: Crew) -> None:
    """Bring the job to TEARDOWN, with its outcome; or to PROVISIONING where a node was lost with outputs of a training that succeeded."""
    stop, lost, began = threading.Event(), dict[int, str](), time.monotonic()

    def look() -> None:
        lost.update(losses.find(work, work.tools.watch.latest(work.job.id, newer_than=began), {}))
        if _unwanted(work) or work.job.phase_seconds > work.conf.conductor.collect_timeout:
            stop.set()

    with work.tools.watch.watch(work.job.id, wake=work.lease.wake):
        failures = beside("collect", lambda: _collect_all(work, crew, stop, lost), look)
    trained = work.job.runtime.get("trained", False)
    if work.job.outcome is None and work.job.target == Target.DELETE:
        return work.report(phase=Phase.TEARDOWN)
    gone = {rank: lost.get(rank, error.message) for rank, error in failures.items()
            if rank in lost or isinstance(error, exception.HostKeyRefused)}
    if trained and work.job.outcome is None and gone:
        return losses.replace(work, crew, gone)
    # What a node refuses, or sends amiss, is of the job's own making: too many files, too many bytes.
    own = any(isinstance(error, exception.NodeCommandFailed) for error in failures.values())
    _end(work, trained, {rank: lost.get(rank, error.message) for rank, error in failures.items()},
         Cause.USER_ERROR if own else Cause.INFRA_LOST)


def _end(work: Work, trained: bool, failures: dict[int, str], cause: Cause) -> None:
    instead = rescue(work, sorted(failures))
    what = "; ".join(f"node {rank}: {why}" for rank, why in sorted(failures.items()))
    told: list[Event] = [("collect", f"Outputs are missing: {what} {instead}".strip(), {})] if failures else []
    if trained and failures:
        return work.report(phase=Phase.TEARDOWN, outcome=Outcome.FAILED, cause=cause, events=told,
                           status_reason=f"The training succeeded, but its outputs could not be brought back: {what}")
    outcome = {"outcome": Outcome.SUCCEEDED, "progress": 100, "cause": None, "status_reason": None} if trained else {}
    work.report(phase=Phase.TEARDOWN, **outcome,
                events=[*told, ("phase", "The servers are deleted now.", {"phase": str(Phase.TEARDOWN)})])


def _unwanted(work: Work) -> bool:
    """A cancelled job's outputs are not waited for."""
    work.lease.check()
    if work.lease.nudged.is_set():
        work.lease.nudged.clear()
        work.refresh()
    return work.job.target == Target.DELETE


def _collect_all(work: Work, crew: Crew, stop: threading.Event, lost: Container[int]) -> dict[int, exception.RemoteError]:
    """Collect from all nodes in parallel; return the ranks that failed for good, with the reason."""
    results = crew.each(lambda rank, machine: _collect(work, rank, machine, stop, lost), range(len(work.job.nodes)))
    return {rank: result for rank, result in results.items() if isinstance(result, exception.RemoteError)}


def _collect(work: Work, rank: int, machine: Machine, stop: threading.Event, lost: Container[int]) -> None:
    node = work.job.nodes[rank]
    while True:
        try:
            machine.connect(work.conf.remote.connect_timeout)
            for part in _PARTS:
                _save(work, f"{part}/{node['role']}-{node['index']}", _while_wanted(machine.fetch(part), stop))
            return
        except (exception.HostKeyRefused, exception.NodeCommandFailed):
            raise
        except exception.RemoteError as error:
            LOG.warning("Job %s: collecting from node %d goes on after: %s", work.job.id, rank, error.message)
            if stop.is_set() or rank in lost or node["status"] == "LOST":
                raise
            stop.wait(_RETRY_PAUSE)


def _while_wanted(pieces: Iterator[bytes], stop: threading.Event) -> Iterator[bytes]:
    """:raises RemoteError: the outputs are not waited for any longer."""
    for piece in pieces:
        if stop.is_set():
            raise exception.RemoteError("the outputs are not waited for any longer")
        yield piece


def _save(work: Work, where: str, pieces: Iterator[bytes]) -> None:
    """Unpack what a tenant's machine sends, trusting none of it, into storage."""
    began = time.monotonic()
    conf = work.conf.remote
    for path, _size, content in archive.unpack(pieces, limit=conf.max_output_bytes, most_files=conf.max_output_files):
        work.tools.storage.put(f"{artifact_prefix(work.job.id)}/{where}/{path}", content)
    LOG.debug("Job %s: %s took %.1f s", work.job.id, where, time.monotonic() - began)
