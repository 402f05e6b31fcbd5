"""Which nodes of a job do not answer, for how long, and what its users are told of that."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Container
from typing import Any, TypeVar

from oslo_log import log as logging

from cml_nova import exception
from cml_nova.remote import Machine
from cml_nova.worker.work import Work

LOG = logging.getLogger(__name__)

T = TypeVar("T")

#: seconds between tries to reach a node again
_RETRY_PAUSE = 1.0


class _Stopwatch:
    """Seconds by the monotonic clock, but for those in which it was stopped."""

    def __init__(self) -> None:
        self._before, self._since = 0.0, 0.0
        self._runs = False

    def start(self) -> None:
        if not self._runs:
            self._runs, self._since = True, time.monotonic()

    def stop(self) -> None:
        self._before, self._runs = self.seconds(), False

    def seconds(self) -> float:
        return self._before + (time.monotonic() - self._since if self._runs else 0.0)


class Silence:
    """Who answers this worker and who does not, in one phase of a job. Thread-safe.

    Times are by the monotonic clock, and a worker that takes over begins to count anew. Since when users are told that a node is
    UNREACHABLE is in its row, and outlasts phases and workers.

    :param meanwhile: what becomes of a node that does not answer, as a clause.
    """

    def __init__(self, work: Work, meanwhile: str) -> None:
        self._work = work
        self._meanwhile = meanwhile
        self._lock = threading.Lock()
        self._began = time.monotonic()
        self._met: set[int] = set()
        self._silent: dict[int, float] = {}  # rank -> since when
        self._forgotten: set[int] = set()
        #: rank -> since when in seconds since 1970, as far as users were told; by a worker before us perhaps
        self._told: dict[int, float] = {n["rank"]: n["unreachable_since"] for n in work.job.nodes if n["unreachable_since"]}
        self._changed: dict[int, float | None] = {}
        self._events: list[tuple[str, str, dict[str, Any]]] = []
        self._waits: dict[int, _Stopwatch] = {}

    def seconds(self) -> dict[int, float]:
        """Give the nodes that do not answer, and for how many seconds as far as this worker knows."""
        now = time.monotonic()
        with self._lock:
            return {rank: now - since for rank, since in self._silent.items()}

    def missed(self, rank: int, why: str, *, tell: bool = True) -> None:
        """Note that a node does not answer.

        :param tell: whether users are to know: nobody expects of a machine that boots that it answers.
        """
        with self._lock:
            if rank in self._silent:
                return
            self._silent[rank] = time.monotonic()
            if rank in self._waits:
                self._waits[rank].stop()
            if not tell:
                return
            self._changed[rank] = self._told.setdefault(rank, time.time())
            self._events.append(("node", f"Node {rank} does not answer; {self._meanwhile}: {why}", {"rank": rank}))
        LOG.warning("Job %s: node %d does not answer: %s", self._work.job.id, rank, why)

    def miss_absent(self) -> None:
        """Note that nodes do not answer which never did so since this phase, or this worker's part of it, began, and not only ceased to."""
        patience: float = self._work.conf.remote.unreachable_after
        if time.monotonic() - self._began > patience:
            for node in self._work.job.nodes:
                if node["rank"] not in self._met:
                    self.missed(node["rank"], f"no connection within {patience:g} s")

    def reached(self, rank: int) -> None:
        """Note that a node answers."""
        with self._lock:
            if rank in self._forgotten:
                return
            self._met.add(rank)
            self._silent.pop(rank, None)
            if rank in self._waits:
                self._waits[rank].start()
            if self._told.pop(rank, None) is not None:
                self._changed[rank] = None
                self._events.append(("node", f"Node {rank} answers again.", {"rank": rank}))

    def forget(self, ranks: Collection[int]) -> None:
        """Have no more to say of nodes that are lost; they count as silent from now on."""
        with self._lock:
            for rank in ranks:
                self._forgotten.add(rank)
                self._silent.setdefault(rank, time.monotonic())
                self._told.pop(rank, None)

    def begin(self, rank: int) -> None:
        """Begin to count for how long a node keeps us waiting while it answers; go on with it where that has begun."""
        with self._lock:
            watch = self._waits.setdefault(rank, _Stopwatch())
            if rank in self._met and rank not in self._silent:
                watch.start()

    def end(self, rank: int) -> None:
        """End that: it has given what we waited for."""
        with self._lock:
            self._waits.pop(rank, None)

    def waited(self) -> dict[int, float]:
        """Give the nodes for which that is counted, and the seconds; those in which they were silent are left out."""
        with self._lock:
            return {rank: watch.seconds() for rank, watch in self._waits.items()}

    def insist(self, rank: int, machine: Machine, action: Callable[[Machine], T], stop: threading.Event, lost: Container[int] = ()) -> T:
        """Do something on a node, and again whenever the path is lost meanwhile, until it is done or not wanted any more.

        :param stop: set when it is not wanted of any node; ``lost`` has those of which alone it is not.
        :raises HostKeyRefused: another machine answers.
        :raises NodeCommandFailed: the node refuses or fails.
        :raises RemoteError: it is not wanted any more; says what went wrong last.
        """
        failure = exception.RemoteError("it is not waited for any longer")
        while not stop.is_set() and rank not in lost:
            try:
                machine.connect(self._work.conf.remote.connect_timeout)
                self.reached(rank)
                return action(machine)
            except (exception.HostKeyRefused, exception.NodeCommandFailed):
                raise
            except exception.RemoteError as error:
                failure = error
                if stop.is_set() or rank in lost:
                    break
                if not machine.connected:
                    self.missed(rank, error.message)
                LOG.info("Job %s: node %d is asked again after: %s", self._work.job.id, rank, error.message)
                stop.wait(_RETRY_PAUSE)
        raise failure

    def news(self) -> dict[str, Any]:
        """Give what a report has to say of this since the last one; empty if nothing has changed that users are told."""
        with self._lock:
            changed, self._changed = self._changed, {}
            events, self._events = self._events, []
            if not changed:
                return {}
            return {"nodes": [{"rank": rank, "unreachable_since": since} for rank, since in changed.items()], "events": events,
                    "status_reason": self._in_words()}

    def _in_words(self) -> str | None:
        """Say which nodes do not answer; None if all do."""
        slots = self._work.job.layout.nodes
        return " ".join(
            f"Node {rank} ({slots[rank].role}:{slots[rank].index}) has been UNREACHABLE since "
            f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime(since))}; {self._meanwhile}."
            for rank, since in sorted(self._told.items())) or None
