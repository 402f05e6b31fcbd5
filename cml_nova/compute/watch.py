"""One poller for all jobs of a worker: its requests don't grow with the number of jobs, and there are none when nobody watches."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from oslo_config import cfg
from oslo_log import log as logging

from cml_nova import exception
from cml_nova.compute import errors
from cml_nova.compute.fleet import Fleet, Server
from cml_nova.compute.rest import LONGEST_RETRY_AFTER

LOG = logging.getLogger(__name__)

# The longer a change is awaited, the rarer the looks: the delay that they add stays below this part of the wait.
_PACE = 0.05

Predicate = Callable[[list[Server]], bool]


@dataclass(frozen=True)
class _Poll:
    """A look at the cloud. ``error`` is set where it failed; then it says nothing about servers."""

    started: float
    by_job: dict[str, list[Server]] = field(default_factory=dict)
    error: exception.CMLError | None = None


@dataclass
class _Waiter:
    """Somebody who waits for a look, begun after ``since``, that satisfies a predicate: ``found`` is what it showed."""

    since: float
    predicate: Predicate
    wake: threading.Event
    found: list[Server] | None = None


@dataclass
class _Watched:
    """A job that is watched: by how many, since when, how many of them expect a change since when (by the clock), and what to set when
    a look shows its servers otherwise than ``seen``.
    """

    since: float
    waiters: list[_Waiter] = field(default_factory=list)
    wakes: list[threading.Event] = field(default_factory=list)
    seen: list[Server] | None = None
    watchers: int = 0
    expecting: int = 0
    expecting_since: float = 0.0


class ServerWatch:
    """Looks at the servers of the deployment while someone watches.

    The pace: never two looks closer than ``poll_fast``; while a watched job expects a change, 5 % of the time since the last
    such expectation began, at most ``poll_slow``; otherwise ``poll_slow``. The look that a ``snapshot`` waits for, and the first
    one at a job, follow the last one by ``poll_fast``. After failures the pause doubles up to ``poll_slow``. However fast the pace,
    a cloud that takes long to answer is left alone for as long as the last answer took.

    :param clock: monotonic seconds.
    """

    def __init__(self, fleet: Fleet, conf: cfg.ConfigOpts, clock: Callable[[], float] = time.monotonic) -> None:
        self._fleet = fleet
        self._fast: float = conf.cloud.poll_fast
        self._slow: float = conf.cloud.poll_slow
        self._clock = clock
        self._lock = threading.RLock()
        # Hundreds of jobs may wait: what concerns the poller alone, or a few of them, wakes nobody else.
        self._asked = threading.Condition(self._lock)
        self._looked = threading.Condition(self._lock)
        self._jobs: dict[str, _Watched] = {}
        self._wanted_since: float | None = None
        self._poll = _Poll(started=float("-inf"))
        self._good = self._poll
        self._failures = 0
        self._took = 0.0
        self._stopped = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the poller's thread."""
        self._thread = threading.Thread(target=self._run, name="server-watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread; whoever waits gets a CloudError."""
        with self._lock:
            self._stopped = True
            self._asked.notify_all()
            self._looked.notify_all()
            for job in self._jobs.values():
                for waiter in job.waiters:
                    waiter.wake.set()
        if self._thread:
            self._thread.join()

    @contextmanager
    def watch(self, job_id: str, *, expect_change: bool = False, wake: threading.Event | None = None) -> Iterator[None]:
        """Keep looking while the context is open, at a faster pace where a change is expected.

        Contexts of a job may be nested; the expectation counts from the outermost one that has it.

        :param wake: is set by the first good look, and by each one that shows the job's servers otherwise than the one before.
        """
        with self._lock:
            job = self._jobs.setdefault(job_id, _Watched(self._clock()))
            job.watchers += 1
            if wake:
                job.wakes.append(wake)
                job.seen = None
            if expect_change:
                job.expecting += 1
                if job.expecting == 1:
                    job.expecting_since = self._clock()
            if job.watchers == 1:
                self._want(job.since)
            self._asked.notify()
        try:
            yield
        finally:
            with self._lock:
                job.watchers -= 1
                if wake:
                    job.wakes.remove(wake)
                job.expecting -= expect_change
                if not job.watchers:
                    del self._jobs[job_id]

    def snapshot(self, job_id: str, newer_than: float) -> list[Server]:
        """Give the job's servers as of a look that started after ``newer_than``.

        :param newer_than: by the watch's clock; ``time.monotonic()`` for "now".
        :raises CloudError: that look failed. This is never an empty list.
        """
        with self._lock:
            self._want(newer_than)
            while self._poll.started <= newer_than:
                self._check_running()
                self._looked.wait()
            poll = self._poll
        if poll.error:
            raise errors.again(poll.error)
        return poll.by_job.get(job_id, [])

    def latest(self, job_id: str, newer_than: float) -> list[Server] | None:
        """Give the job's servers as of the last good look, if that started after ``newer_than``; asks for none."""
        with self._lock:
            return self._good.by_job.get(job_id, []) if self._good.started > newer_than else None

    def wait(self, job_id: str, predicate: Predicate, timeout: float, wake: threading.Event | None = None, *,
             expect_change: bool = True) -> list[Server]:
        """Wait until a look that starts from now on shows servers that satisfy the predicate, and give them.

        Failed looks are passed over. When the time is up or ``wake`` is set it gives the servers of the last good look since the
        job has been watched, so the caller asks its question again.

        :param timeout: seconds.
        :param wake: ends the wait; it is set also when the predicate is satisfied.
        :param expect_change: whether a change is expected any time now, which sets the pace.
        :raises CloudError: there was no good look since the job has been watched. That is never an empty list.
        """
        waiter = _Waiter(self._clock(), predicate, wake or threading.Event())
        with self.watch(job_id, expect_change=expect_change):
            job = self._jobs[job_id]
            with self._lock:
                self._check_running()
                job.waiters.append(waiter)
            waiter.wake.wait(timeout)
            with self._lock:
                job.waiters.remove(waiter)
                self._check_running()
                if waiter.found is not None:
                    return waiter.found
                if self._good.started > job.since:
                    return self._good.by_job.get(job_id, [])
                if self._poll.error:
                    raise errors.again(self._poll.error)
        raise exception.CloudError(f"The cloud did not answer in time about the servers of job {job_id}.")

    def _check_running(self) -> None:
        if self._stopped:
            raise exception.CloudError("The watch over the servers has stopped.")

    def _want(self, newer_than: float) -> None:
        """Ask for a look that starts after the given time; called with the lock held."""
        if self._poll.started <= newer_than:
            self._wanted_since = max(newer_than, self._wanted_since or newer_than)
            self._asked.notify()

    def next_look(self) -> float | None:
        """Tell when the next look is due by the watch's clock; None while nobody watches."""
        if self._wanted_since is not None:
            gap = self._fast
        elif expecting := [job.expecting_since for job in self._jobs.values() if job.expecting]:
            gap = min(max(self._fast, _PACE * (self._clock() - max(expecting))), self._slow)
        elif self._jobs:
            gap = self._slow
        else:
            return None
        if self._failures:
            asked = self._poll.error.detail.get("retry_after", 0.0) if self._poll.error else 0.0
            gap = max(gap, min(self._fast * 2 ** self._failures, self._slow), min(asked, LONGEST_RETRY_AFTER))
        return self._poll.started + max(gap, 2 * self._took)

    def look(self) -> None:
        """Look once; the thread does so when a look is due."""
        started = self._clock()
        by_job: dict[str, list[Server]] = {}
        try:
            for server in self._fleet.all_servers():
                by_job.setdefault(server.job_id, []).append(server)
            poll = _Poll(started, by_job)
        except exception.CMLError as error:
            LOG.warning("A look at the servers failed: %s", error.message)
            poll = _Poll(started, error=error)
        except Exception as error:
            LOG.exception("A look at the servers failed")
            poll = _Poll(started, error=exception.CloudError(f"A look at the servers failed: {error}"))
        with self._lock:
            self._poll = poll
            self._took = self._clock() - started
            self._failures = self._failures + 1 if poll.error else 0
            if not poll.error:
                self._good = poll
                self._wake()
            if self._wanted_since is not None and started > self._wanted_since:
                self._wanted_since = None
            self._looked.notify_all()

    def _wake(self) -> None:
        """Wake those whose servers have changed, or are as they were waited for; called with the lock held."""
        for job_id, job in self._jobs.items():
            servers = self._good.by_job.get(job_id, [])
            if job.wakes and self._good.started > job.since and servers != job.seen:
                job.seen = servers
                for wake in job.wakes:
                    wake.set()
            for waiter in job.waiters:
                if self._good.started > waiter.since and waiter.predicate(servers):
                    waiter.found = servers
                    waiter.wake.set()

    def _run(self) -> None:
        while True:
            with self._lock:
                while not self._stopped:
                    due = self.next_look()
                    now = self._clock()
                    if due is not None and due <= now:
                        break
                    self._asked.wait(None if due is None else due - now)
                if self._stopped:
                    return
            self.look()
