"""COLLECTING: outputs and checkpoints of every node are brought into the storage."""

from __future__ import annotations

import threading
import time

from oslo_log import log as logging

from cml_nova import exception
from cml_nova.remote import Machine, archive
from cml_nova.states import Cause, Outcome, Phase, Target
from cml_nova.storage.base import artifact_prefix
from cml_nova.worker.beside import beside
from cml_nova.worker.crew import Crew
from cml_nova.worker.saving import Event, rescue
from cml_nova.worker.work import Work

LOG = logging.getLogger(__name__)

#: what is collected: the directories behind $CML_OUTPUT_DIR and $CML_CHECKPOINT_DIR
_PARTS = ("output", "checkpoints")
_RETRY_PAUSE = 1.0


def run(work: Work, crew: Crew) -> None:
    """Bring the job to TEARDOWN, with its outcome."""
    stop = threading.Event()

    def collect() -> tuple[dict[int, exception.RemoteError], str]:
        failures = _collect_all(work, crew, stop)
        return failures, rescue(work, sorted(failures))

    def look() -> None:
        if _unwanted(work) or work.job.phase_seconds > work.conf.conductor.collect_timeout:
            stop.set()

    failures, instead = beside("collect", collect, look)
    trained = work.job.runtime.get("trained", False)
    what = "; ".join(f"node {rank}: {error.message}" for rank, error in sorted(failures.items()))
    told: list[Event] = [("collect", f"Outputs are missing: {what} {instead}".strip(), {})] if failures else []
    if work.job.outcome is None and work.job.target == Target.DELETE:
        work.report(phase=Phase.TEARDOWN)
    elif trained and failures:
        # What a node refuses, or sends amiss, is of the job's own making: too many files, too many bytes.
        own = any(isinstance(error, exception.NodeCommandFailed) for error in failures.values())
        work.report(phase=Phase.TEARDOWN, outcome=Outcome.FAILED, cause=Cause.USER_ERROR if own else Cause.INFRA_LOST,
                    status_reason=f"The training succeeded, but its outputs could not be brought back: {what}",
                    events=told)
    else:
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


def _collect_all(work: Work, crew: Crew, stop: threading.Event) -> dict[int, exception.RemoteError]:
    """Collect from all nodes in parallel; return the ranks that failed for good, with the reason."""
    results = crew.each(lambda rank, machine: _collect(work, crew, rank, machine, stop), range(len(work.job.nodes)))
    return {rank: result for rank, result in results.items() if isinstance(result, exception.RemoteError)}


def _collect(work: Work, crew: Crew, rank: int, machine: Machine, stop: threading.Event) -> None:
    node = work.job.nodes[rank]
    while True:
        try:
            machine.connect(work.conf.remote.connect_timeout)
            for part in _PARTS:
                _save(work, f"{part}/{node['role']}-{node['index']}", machine, part)
            return
        except (exception.HostKeyRefused, exception.NodeCommandFailed):
            raise
        except exception.RemoteError as error:
            LOG.warning("Job %s: collecting from node %d goes on after: %s", work.job.id, rank, error.message)
            if stop.is_set() or node["status"] == "LOST":
                raise
            stop.wait(_RETRY_PAUSE)


def _save(work: Work, where: str, machine: Machine, part: str) -> None:
    """Unpack what a tenant's machine sends, trusting none of it, into storage."""
    began = time.monotonic()
    conf = work.conf.remote
    for path, _size, pieces in archive.unpack(machine.fetch(part), limit=conf.max_output_bytes, most_files=conf.max_output_files):
        work.tools.storage.put(f"{artifact_prefix(work.job.id)}/{where}/{path}", pieces)
    LOG.debug("Job %s: %s took %.1f s", work.job.id, where, time.monotonic() - began)
