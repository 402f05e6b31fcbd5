"""Daemons: how they start, beat and stop; what each is made of is in conductor/service.py and worker/service.py."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

from oslo_config import cfg
from oslo_log import log as logging
from oslo_service import service

LOG = logging.getLogger(__name__)


class Beat:
    """Calls a function by the clock in a thread of its own; a failure is logged, the next call comes all the same.

    :param interval: seconds between the end of a call and the next.
    """

    def __init__(self, name: str, interval: float, function: Callable[[], None]) -> None:
        self._function = function
        self._interval = interval
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self._function()
            except Exception:
                LOG.exception("%s failed; it is tried again in %s s", self._thread.name, self._interval)
            self._stopped.wait(self._interval)


class Part(Protocol):
    """A service within a daemon."""

    def start(self) -> None: ...

    def stop(self) -> None: ...


class Daemon(service.Service):
    """One process made of parts, which are started in order and stopped in the opposite one."""

    def __init__(self, *parts: Part) -> None:
        super().__init__()
        self._parts = parts
        self._started = False
        self._stopped = threading.Event()

    def start(self) -> None:
        for part in self._parts:
            part.start()
        self._started = True

    def stop(self, graceful: bool = True) -> None:
        # The signal has interrupted the thread that starts the parts. One that waits for a bus that is away goes on only after this, so
        # it is not waited for; nothing has been taken yet that would have to be handed over.
        if self._started:
            for part in reversed(self._parts):
                part.stop()
        self._stopped.set()

    def wait(self) -> None:
        # oslo.service ends the process from its signal handler, after stop(). The handler runs in this thread, and only when that is awake:
        # a signal that comes just before the thread falls asleep would be seen by nobody.
        while not self._stopped.wait(1.0):
            pass


def run(conf: cfg.ConfigOpts, *parts: Part) -> None:
    """Run parts in this process until SIGTERM or SIGINT. Never a fork: threads and forks don't mix."""
    service.launch(conf, Daemon(*parts), workers=1, no_fork=True)
