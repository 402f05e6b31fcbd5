"""COLLECTING: outputs and checkpoints of every node are brought into the storage."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from functools import partial

from oslo_log import log as logging

from cml_nova import exception
from cml_nova.remote import Machine, archive
from cml_nova.states import Cause, Outcome, Phase, Target
from cml_nova.storage.base import artifact_prefix
from cml_nova.worker import losses
from cml_nova.worker.beside import beside
from cml_nova.worker.crew import Crew
from cml_nova.worker.saving import Event, rescue
from cml_nova.worker.silence import Silence
from cml_nova.worker.work import Work

LOG = logging.getLogger(__name__)

#: what is collected: the directories behind $CML_OUTPUT_DIR and $CML_CHECKPOINT_DIR
_PARTS = ("output", "checkpoints")


def run(work: Work, crew: Crew) -> None:
    """Bring the job to TEARDOWN, with its outcome; or to PROVISIONING where a node was lost with outputs of a training that succeeded."""
    trained = work.job.runtime.get("trained", False)
    collection = _Collection(work, crew, trained)
    with work.tools.watch.watch(work.job.id, wake=work.lease.wake):
        failures = collection.run()
    lost = collection.lost
    if work.job.outcome is None and work.job.target == Target.DELETE:
        return work.report(phase=Phase.TEARDOWN)
    gone = {rank: lost[rank] for rank in failures if rank in lost}
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


class _Collection:
    """Outputs on their way from all nodes.

    Those of a training that succeeded are waited for as long as their nodes may yet answer; those of a job that fails for a limited time.

    :ivar lost: nodes that are given up, and why.
    """

    def __init__(self, work: Work, crew: Crew, trained: bool) -> None:
        self.lost: dict[int, str] = {}
        self._work = work
        self._crew = crew
        self._fails = not trained
        self._silence = Silence(work, "its outputs are waited for")
        self._stop = threading.Event()
        self._pending = {node["rank"] for node in work.job.nodes}
        self._collected: set[int] = set()
        self._began = time.monotonic()

    def run(self) -> dict[int, exception.RemoteError]:
        """Collect from all nodes in parallel; give the ranks that failed for good, with the reason."""
        try:
            results = beside("collect", lambda: self._crew.each(self._collect, sorted(self._pending)), self._look)
        finally:
            self._stop.set()  # whoever still waits for a node must not go on when the job is another's
        self._tell()
        return {rank: result for rank, result in results.items() if isinstance(result, exception.RemoteError)}

    def _look(self) -> None:
        limit: int = self._work.conf.conductor.collect_timeout
        if _unwanted(self._work) or (self._fails and time.monotonic() - self._began > limit):
            self._stop.set()
        self._tell()
        servers = self._work.tools.watch.latest(self._work.job.id, newer_than=self._began)
        self.lost.update(losses.find(self._work, servers, self._silence.seconds()))
        self.lost.update({rank: f"it answers, but has sent nothing of its outputs for {limit} s"
                          for rank, seconds in self._silence.waited().items() if seconds > limit})
        if not self._fails and self._is_repeated():
            self._stop.set()
        for rank in self._pending.copy():
            if self._stop.is_set() or rank in self.lost:
                self._crew.drop(rank)  # nobody waits for its next word any longer

    def _is_repeated(self) -> bool:
        """Tell whether the training is done again, because outputs are lost: then nobody needs the others."""
        return not self._collected.issuperset(self.lost) and self._work.job.infra_restarts < self._work.conf.conductor.max_infra_restarts

    def _tell(self) -> None:
        news = self._silence.news()
        if news:
            self._work.report(**news)

    def _collect(self, rank: int, machine: Machine) -> None:
        try:
            self._silence.insist(rank, machine, partial(self._fetch, rank), self._stop, self.lost)
            self._collected.add(rank)
        except exception.HostKeyRefused as error:
            self.lost[rank] = error.message
            raise
        except exception.NodeCommandFailed:
            self._fails = True
            raise
        finally:
            self._pending.discard(rank)
            self._silence.end(rank)

    def _fetch(self, rank: int, machine: Machine) -> None:
        node = self._work.job.nodes[rank]
        for part in _PARTS:
            _save(self._work, f"{part}/{node['role']}-{node['index']}", self._arriving(rank, machine.fetch(part)))

    def _arriving(self, rank: int, pieces: Iterator[bytes]) -> Iterator[bytes]:
        """Pass on what comes, and count for how long nothing does. :raises RemoteError: the outputs are not waited for any longer."""
        self._silence.begin(rank)
        for piece in pieces:
            self._silence.end(rank)
            if self._stop.is_set():
                raise exception.RemoteError("the outputs are not waited for any longer")
            yield piece
            self._silence.begin(rank)


def _save(work: Work, where: str, pieces: Iterator[bytes]) -> None:
    """Unpack what a tenant's machine sends, trusting none of it, into storage."""
    began = time.monotonic()
    conf = work.conf.remote
    for path, _size, content in archive.unpack(pieces, limit=conf.max_output_bytes, most_files=conf.max_output_files):
        work.tools.storage.put(f"{artifact_prefix(work.job.id)}/{where}/{path}", content)
    LOG.debug("Job %s: %s took %.1f s", work.job.id, where, time.monotonic() - began)
