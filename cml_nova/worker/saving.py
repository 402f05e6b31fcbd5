"""Saves the checkpoints of an attempt while it runs, and gives them to the nodes before the next one.

Saving runs in a thread of its own beside the watching. The job's main loop passes on what came of it, for the job's row is written by
one thread only; and with that report, under the worker's generation, a save becomes the job's checkpoint or does not.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from oslo_log import log as logging

from cml_nova import exception
from cml_nova.remote import Machine, Snapshot
from cml_nova.storage.base import artifact_prefix
from cml_nova.worker.checkpoints import Change, Checkpoint, File, Store, compare
from cml_nova.worker.crew import Crew
from cml_nova.worker.threads import Threads
from cml_nova.worker.work import Work

LOG = logging.getLogger(__name__)

#: the directory behind $CML_CHECKPOINT_DIR
PART = "checkpoints"
#: most nodes that one job asks, or takes files from, at a time
_PARALLEL = 8
#: how often the last save of an attempt is tried, and the seconds between
_LAST_TRIES, _LAST_PAUSE = 3, 1.0
_TICK = 0.2
#: seconds that the end of watching waits for a save under way to notice
_ABANDON_GRACE = 5.0

Event = tuple[str, str, dict[str, Any]]


class _Abandoned(Exception):
    """The save is not wanted any more."""


class _TooLarge(Exception):
    """The checkpoint is beyond a limit; the text says which."""


@dataclass(frozen=True)
class _Trouble:
    """Why there is no new checkpoint, for the user, who is told once of each kind."""

    kind: str
    text: str


def store_of(work: Work) -> Store:
    """Give the storage of the job's checkpoints."""
    return Store(work.tools.storage, work.job.id, work.lease.generation)


def last_checkpoint(work: Work) -> Checkpoint:
    """Read what is saved of the job, for the attempt it is at."""
    known = work.job.runtime.get("checkpoint")
    checkpoint = store_of(work).load(known["id"]) if known else Checkpoint("", work.job.attempt, time.time())
    return checkpoint.for_attempt(work.job.attempt)


class Saver:
    """Saves what has changed, every ``checkpoint_interval`` seconds. All methods are for the thread of the job's main loop.

    :param report: passes a report on to the conductor.
    """

    def __init__(self, work: Work, crew: Crew, report: Callable[..., None]) -> None:
        self._work = work
        self._crew = crew
        self._report = report
        self._store = store_of(work)
        self._interval: float = work.job.spec.get("checkpoint_interval") or work.conf.remote.checkpoint_interval
        # Jobs that were taken over together do not save together.
        self._due = time.monotonic() + self._interval * random.uniform(0.5, 1)  # noqa: S311 -- no secret
        self._known: Checkpoint | None = None
        self._abandoned = threading.Event()
        self._thread: threading.Thread | None = None
        self._busy = False
        self._saved: Checkpoint | None = None
        self._trouble: _Trouble | None = None
        self._incomplete = False
        self._told: set[str] = set()
        #: by when, by the monotonic clock, the last save of a job that was ended early must be over
        self._ends_at: float | None = None

    def look(self) -> None:
        """Pass on what a save has come to, and begin the next one when it is time."""
        if not self._busy:
            self._publish()
        if not self._busy and time.monotonic() >= self._due:
            self._due = time.monotonic() + self._interval
            self._begin(self._save, last=False, lost=())

    def has_saved(self) -> bool:
        """Tell whether a checkpoint with files was saved in this attempt."""
        known = self._work.job.runtime.get("checkpoint")
        return known is not None and known["attempt"] == self._work.job.attempt and known["files"] > 0

    def due_in(self) -> float:
        """Seconds until the next save is to begin, or, where one is under way, until it must have been looked at."""
        return self._interval if self._busy else max(0.0, self._due - time.monotonic())

    def save_last(self, lost: Iterable[int]) -> None:
        """Save what the processes have left, now that all have ended; for a limited time where the job was ended early.

        :param lost: nodes that can't be asked any more.
        """
        self._await()
        for _ in range(_LAST_TRIES):
            self._begin(self._save, last=True, lost=lost)
            self._await()
            if self._abandoned.is_set() or not self._incomplete:
                return
            self._work.lease.pause(_LAST_PAUSE)

    def close(self) -> None:
        """Give up a save under way."""
        self._abandoned.set()
        if self._thread:
            self._thread.join(_ABANDON_GRACE)

    def _await(self) -> None:
        """Wait for the thread, and pass on what it has come to; until nothing is left to do, or the job is not wanted."""
        while not self._abandoned.is_set():
            if self._thread and self._busy:
                self._thread.join(_TICK)
                if self._unwanted():
                    self._abandoned.set()
            elif self._saved or self._trouble:
                self._publish()
            else:
                return

    def _unwanted(self) -> bool:
        """Tell whether nothing more is to be saved: the job is deleted, or was ended early and has had its time for this."""
        if not self._work.ended_early():
            return False
        if self._ends_at is None:
            self._ends_at = time.monotonic() + self._work.conf.remote.last_save_timeout
        return self._work.forgotten or time.monotonic() > self._ends_at

    def _begin(self, action: Callable[..., None], **arguments: Any) -> None:
        def run() -> None:
            try:
                action(**arguments)
            except _Abandoned:
                LOG.debug("Job %s: a save was given up", self._work.job.id)
            except exception.RemoteError as error:
                self._incomplete = True
                self._note(error)
            except _TooLarge as error:
                self._trouble = _Trouble("limit", str(error))
            except Exception:
                LOG.exception("Job %s: saving the checkpoint failed", self._work.job.id)
                self._incomplete = True
                self._trouble = _Trouble(
                    "service", "The checkpoint could not be saved for an internal error of the service; its log says more.")
            self._busy = False
            self._work.lease.wake.set()

        self._busy = True
        self._thread = threading.Thread(target=run, name=f"checkpoint-{self._work.job.id[:8]}", daemon=True)
        self._thread.start()

    def _note(self, error: exception.RemoteError) -> None:
        LOG.warning("Job %s: its checkpoint is not saved: %s", self._work.job.id, error.message)
        if isinstance(error, exception.NodeCommandFailed):
            self._trouble = _Trouble("node", f"The checkpoint could not be saved: {error.message}")

    def _publish(self) -> None:
        """Make what was saved the job's checkpoint; what it replaces is deleted then."""
        saved, self._saved = self._saved, None
        trouble, self._trouble = self._trouble, None
        if saved:
            self._report(runtime={**self._work.job.runtime, "checkpoint": saved.summary()})
            self._known = saved
            self._told.discard("limit")
            self._begin(self._store.prune, current=saved, is_over=self._is_over)
        if trouble and trouble.kind not in self._told:
            self._told.add(trouble.kind)
            self._report(events=[("checkpoint", f"{trouble.text} {_what_stays(self._work)}", {"attempt": self._work.job.attempt})])

    def _is_over(self) -> bool:
        return self._abandoned.is_set() or self._work.lease.lost

    # in the thread

    def _save(self, last: bool, lost: Iterable[int]) -> None:
        self._incomplete = False
        if self._known is None:
            self._known = last_checkpoint(self._work)
        machines = self._machines(last, set(lost))
        threads = Threads(_PARALLEL, f"checkpoint-{self._work.job.id[:8]}")
        snapshots = self._ask(threads, machines)
        try:
            self._check_counts(snapshots)
            change = compare(self._known, snapshots)
            if change:
                self._check(change.result)
                self._saved = self._take(threads, machines, snapshots, change)
        finally:
            threads.each(self._release, [machines[rank] for rank, found in snapshots.items() if found.id])

    def _machines(self, last: bool, lost: set[int]) -> dict[int, Machine]:
        """Give the nodes to ask: those that are connected; at last those that can be."""
        found = {}
        for node in self._work.job.nodes:
            rank = node["rank"]
            if rank in lost or not self._work.access(node):
                continue
            machine = self._crew.machine(rank)
            if machine.connected or last:
                found[rank] = machine
        return found

    def _ask(self, threads: Threads, machines: dict[int, Machine]) -> dict[int, Snapshot]:
        most: int = self._work.conf.remote.max_checkpoint_files

        def ask(rank: int) -> Snapshot | None:
            try:
                machines[rank].connect(self._work.conf.remote.connect_timeout)
                return machines[rank].snapshot(PART, most)
            except exception.RemoteError as error:
                self._incomplete = True
                self._note(error)
                return None

        found = dict(zip(machines, threads.each(ask, machines), strict=True))
        return {rank: snapshot for rank, snapshot in found.items() if snapshot}

    def _check_counts(self, snapshots: dict[int, Snapshot]) -> None:
        most = self._work.conf.remote.max_checkpoint_files
        for rank, snapshot in snapshots.items():
            if len(snapshot.files) > most:
                raise _TooLarge(f"The checkpoint is not saved: node {rank} has more than {most} files in CML_CHECKPOINT_DIR, the most that "
                                f"are saved ([remote] max_checkpoint_files). Keep fewer files there, or pack them into one.")

    def _check(self, checkpoint: Checkpoint) -> None:
        conf, summary = self._work.conf.remote, checkpoint.summary()
        for name, limit in (("bytes", conf.max_checkpoint_bytes), ("files", conf.max_checkpoint_files)):
            if summary[name] > limit:
                raise _TooLarge(f"The checkpoint is not saved: CML_CHECKPOINT_DIR has {summary[name]} {name}, the most that are saved are "
                                f"{limit} ([remote] max_checkpoint_{name}). Keep fewer or smaller checkpoints there.")

    def _take(self, threads: Threads, machines: dict[int, Machine], snapshots: dict[int, Snapshot],
              change: Change) -> Checkpoint:
        """Bring the files that are new into the storage, and write the manifest."""
        checkpoint_id, began = self._store.new_id(), time.monotonic()

        def take(rank: int) -> tuple[int, dict[str, File]]:
            files, snapshot = dict(change.result.written[rank]), snapshots[rank]
            for number, pieces in machines[rank].pick(snapshot, change.wanted[rank]):
                key = f"{checkpoint_id}/{rank}-{number}"
                self._store.put(key, self._while_wanted(pieces))
                path = snapshot.files[number].path
                files[path] = replace(files[path], key=key)
            return rank, files

        taken = dict(threads.each(take, change.wanted))
        saved = replace(change.result, id=checkpoint_id, saved_at=time.time(), written={**change.result.written, **taken})
        self._store.save(saved)
        LOG.debug("Job %s: a checkpoint was saved in %.1f s: %s", self._work.job.id, time.monotonic() - began, saved.summary())
        return saved

    def _while_wanted(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            if self._is_over():
                raise _Abandoned
            yield piece

    def _release(self, machine: Machine) -> None:
        try:
            machine.release()
        except exception.RemoteError as error:
            LOG.debug("Job %s: a snapshot stays on its node until the next: %s", self._work.job.id, error.message)


def _what_stays(work: Work) -> str:
    known = work.job.runtime.get("checkpoint")
    return f"The last good one stays: {_describe(known)}." if known else "None has been saved yet."


def _describe(known: dict[str, Any]) -> str:
    files = f"{known['files']} file{'s' * (known['files'] != 1)}"
    where = f"in attempt {known['attempt']}" if known["attempt"] else "by the job that was restarted"
    return f"{files}, {known['bytes']} bytes, saved {_age(known):.0f} seconds ago {where}"


def _age(known: dict[str, Any]) -> float:
    """Seconds since a checkpoint was saved, perhaps by a worker whose clock differs."""
    return max(0.0, time.time() - float(known["saved_at"]))


def adopt(work: Work, stop: threading.Event) -> Checkpoint | None:
    """Copy the checkpoint of the job of which this is a restart; None where there is none to begin from, or no longer need.

    :raises FileNotFoundError: it was deleted meanwhile.
    :raises RemoteError: the job is not wanted any more.
    """
    wanted = (work.job.spec.get("restart") or {}).get("checkpoint")
    if not wanted or work.job.attempt or work.job.runtime.get("checkpoint"):
        return None
    theirs = Store(work.tools.storage, work.job.spec["restart"]["job"], work.lease.generation)
    ours, files = store_of(work), {}
    known, checkpoint_id = theirs.load(wanted["id"]), ours.new_id()
    for number, (path, file) in enumerate(sorted(known.files.items())):
        key = f"{checkpoint_id}/{number}"
        ours.put(key, _unless(stop, theirs.content(file)))
        files[path] = replace(file, key=key)
    adopted = Checkpoint(checkpoint_id, 0, known.saved_at, base=files)
    ours.save(adopted)
    return adopted


def _unless(stop: threading.Event, pieces: Iterator[bytes]) -> Iterator[bytes]:
    """:raises RemoteError: the job is not wanted any more."""
    for piece in pieces:
        if stop.is_set():
            raise exception.RemoteError("the job is not wanted any more")
        yield piece


def restore(work: Work, crew: Crew, attempt: int, stop: threading.Event) -> dict[int, Any]:
    """Give the job's checkpoint to every node that has not exactly the same already.

    :param attempt: the one that is to go on from it.
    :returns: for each rank whether it was sent anything, or its RemoteError.
    """
    known = work.job.runtime.get("checkpoint")
    if not known:
        return {}
    store, most = store_of(work), work.conf.remote.max_checkpoint_files
    files = store.load(known["id"]).files
    versions = {path: file.version for path, file in files.items()}

    def give(rank: int, machine: Machine) -> bool:
        held = machine.snapshot(PART, most, hold=False).files
        if {file.path: (file.size, file.mtime_ns) for file in held} == versions:
            return False
        machine.restore(PART, attempt, ((path, file.size, file.mtime_ns, _unless(stop, store.content(file)))
                                        for path, file in sorted(files.items())))
        return True

    return crew.each(give, range(len(work.job.nodes)))


def told_of_restore(work: Work, attempt: int, given: dict[int, Any]) -> Event:
    """Say from what an attempt goes on.

    :param given: what ``restore`` has returned.
    """
    known = work.job.runtime.get("checkpoint")
    if not known:
        return "checkpoint", f"Attempt {attempt} starts from the beginning: no checkpoint was saved.", {"attempt": attempt}
    sent = sorted(rank for rank, was_sent in given.items() if was_sent)
    to = f"It was sent to {'all nodes' if len(sent) == len(given) else 'node ' + ', '.join(map(str, sent))}." if sent else ""
    detail = {"attempt": attempt, "saved_in": known["attempt"], "files": known["files"], "bytes": known["bytes"],
              "age": round(_age(known), 1), "sent_to": sent}
    return "checkpoint", f"Attempt {attempt} goes on from the checkpoint: {_describe(known)}. {to}".strip(), detail


def rescue(work: Work, ranks: Sequence[int]) -> str:
    """Make what was saved of lost nodes the artifacts that can't be brought back from there; say so, or nothing."""
    known = work.job.runtime.get("checkpoint")
    if not known or not ranks:
        return ""
    store = store_of(work)
    checkpoint = store.load(known["id"]).for_attempt(work.job.attempt)
    for rank in ranks:
        node = work.job.nodes[rank]
        where = f"{artifact_prefix(work.job.id)}/{PART}/{node['role']}-{node['index']}"
        for path, file in checkpoint.of_node(rank).items():
            work.tools.storage.put(f"{where}/{path}", store.content(file))
    return f"In place of the checkpoints there is what was saved of them: {_describe(known)}."
