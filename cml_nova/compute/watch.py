"""One poller for all jobs of a worker: its requests don't grow with the number of jobs, and there are none when nobody watches."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from oslo_config import cfg
from oslo_log import log as logging

from cml_nova import exception
from cml_nova.compute.fleet import Fleet, Server

LOG = logging.getLogger(__name__)

# The longer a change is awaited, the rarer the looks: the delay that they add stays below this part of the wait.
_PACE = 0.05
# How soon a waiting thread sees an event that nobody announced by poke().
_WAKE_CHECK = 0.5

Predicate = Callable[[list[Server]], bool]


@dataclass(frozen=True)
class _Poll:
    """A look at the cloud. ``error`` is set where it failed; then it says nothing about servers."""

    started: float
    by_job: dict[str, list[Server]] = field(default_factory=dict)
    error: exception.CMLError | None = None


class ServerWatch:
    """Looks at the servers of the deployment while someone watches.

    The pace: never two looks closer than ``poll_fast``; while a watched job expects a change, 5 % of the time since the last
    such expectation began, at most ``poll_slow``; otherwise ``poll_slow``. A look that is asked for by ``snapshot`` or a fresh
    ``wait`` doesn't wait longer than ``poll_fast``. After failures the pause doubles up to ``poll_slow``.

    :param clock: monotonic seconds.
    """

    def __init__(self, fleet: Fleet, conf: cfg.ConfigOpts, clock: Callable[[], float] = time.monotonic) -> None:
        self._fleet = fleet
        self._fast: float = conf.cloud.poll_fast
        self._slow: float = conf.cloud.poll_slow
        self._clock = clock
        self._changed = threading.Condition()
        self._watchers: Counter[bool] = Counter()  # expects a change? -> how many
        self._expecting_since = 0.0
        self._wanted_since: float | None = None
        self._poll = _Poll(started=float("-inf"))
        self._good = self._poll
        self._failures = 0
        self._stopped = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the poller's thread."""
        self._thread = threading.Thread(target=self._run, name="server-watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread; whoever waits gets a CloudError."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        if self._thread:
            self._thread.join()

    @contextmanager
    def watch(self, job_id: str, *, expect_change: bool = False) -> Iterator[None]:
        """Keep looking while the context is open, at a faster pace where a change is expected."""
        with self._changed:
            self._watchers[expect_change] += 1
            if expect_change:
                self._expecting_since = self._clock()
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._watchers[expect_change] -= 1

    def poke(self) -> None:
        """Let everybody who waits look at its ``wake`` event now."""
        with self._changed:
            self._changed.notify_all()

    def snapshot(self, job_id: str, newer_than: float) -> list[Server]:
        """Give the job's servers as of a look that started after ``newer_than``.

        :param newer_than: by the watch's clock; ``time.monotonic()`` for "now".
        :raises CloudError: that look failed. This is never an empty list.
        """
        with self._changed:
            self._want(newer_than)
            while self._poll.started <= newer_than:
                self._check_running()
                self._changed.wait()
            poll = self._poll
        if poll.error:
            raise _again(poll.error)
        return poll.by_job.get(job_id, [])

    def wait(self, job_id: str, predicate: Predicate, timeout: float, wake: threading.Event | None = None, *,
             expect_change: bool = True) -> list[Server]:
        """Wait until looks that start from now on show servers that satisfy the predicate, and give them.

        Failed looks are passed over. Gives the newest servers seen when the time is up or ``wake`` is set, so the caller asks its
        question again.

        :param timeout: seconds.
        :param wake: ends the wait; seen at once after ``poke()``, and within half a second without.
        :raises CloudError: there was no good look at all.
        """
        begun = self._clock()
        deadline = begun + timeout
        seen = begun
        with self.watch(job_id, expect_change=expect_change), self._changed:
            self._want(begun)
            while True:
                self._check_running()
                if self._good.started > seen:
                    seen = self._good.started
                    servers = self._good.by_job.get(job_id, [])
                    if predicate(servers):
                        return servers
                left = deadline - self._clock()
                if left <= 0 or (wake and wake.is_set()):
                    break
                self._changed.wait(min(left, _WAKE_CHECK) if wake else left)
            if seen == begun:
                if self._poll.error:
                    raise _again(self._poll.error)
                raise exception.CloudError(f"The cloud did not answer in time about the servers of job {job_id}.")
            return self._good.by_job.get(job_id, [])

    def _check_running(self) -> None:
        if self._stopped:
            raise exception.CloudError("The watch over the servers has stopped.")

    def _want(self, newer_than: float) -> None:
        """Ask for a look that starts after the given time; called with the lock held."""
        if self._poll.started <= newer_than:
            self._wanted_since = max(newer_than, self._wanted_since or newer_than)
            self._changed.notify_all()

    def next_look(self) -> float | None:
        """Tell when the next look is due by the watch's clock; None while nobody watches."""
        if self._wanted_since is not None:
            gap = self._fast
        elif self._watchers[True]:
            gap = min(max(self._fast, _PACE * (self._clock() - self._expecting_since)), self._slow)
        elif self._watchers[False]:
            gap = self._slow
        else:
            return None
        if self._failures:
            gap = max(gap, min(self._fast * 2 ** self._failures, self._slow))
        return self._poll.started + gap

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
        with self._changed:
            self._poll = poll
            self._failures = self._failures + 1 if poll.error else 0
            if not poll.error:
                self._good = poll
            if self._wanted_since is not None and started > self._wanted_since:
                self._wanted_since = None
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._stopped:
                    due = self.next_look()
                    now = self._clock()
                    if due is not None and due <= now:
                        break
                    self._changed.wait(None if due is None else due - now)
                if self._stopped:
                    return
            self.look()


def _again(error: exception.CMLError) -> exception.CMLError:
    """Copy the poller's error: each waiting thread raises its own."""
    copy = type(error)(error.message, **error.detail)
    copy.__cause__ = error
    return copy
