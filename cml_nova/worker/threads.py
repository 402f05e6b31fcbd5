"""Threads that are there while there is something to do: those of an executor stay, and a job has little to do most of the time."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, wait
from typing import Any, TypeVar

A = TypeVar("A")
T = TypeVar("T")


class Threads:
    """Runs calls in threads of their own, at most ``most`` at a time; what is more waits its turn.

    :param name: how the threads are called.
    """

    def __init__(self, most: int, name: str) -> None:
        self._most = most
        self._name = name
        self._lock = threading.Lock()
        self._waiting: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._running = 0
        self._closed = False

    def submit(self, function: Callable[..., T], *arguments: Any) -> Future[T]:
        """Have a function called. After ``close`` the future is cancelled."""
        future: Future[T] = Future()
        with self._lock:
            if self._closed:
                future.cancel()
                return future
            self._waiting.append((future, lambda: function(*arguments)))
            if self._running == self._most:
                return future
            self._running += 1
        threading.Thread(target=self._work, name=self._name, daemon=True).start()
        return future

    def each(self, function: Callable[[A], T], items: Iterable[A]) -> list[T]:
        """Call a function with each item; when all calls have ended give their results, or raise what the first to fail raised."""
        futures = [self.submit(function, item) for item in items]
        wait(futures)
        return [future.result() for future in futures]

    def close(self) -> None:
        """Cancel what has not begun; what runs goes on."""
        with self._lock:
            self._closed = True
            waiting, self._waiting = self._waiting, deque()
        for future, _ in waiting:
            future.cancel()

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._running -= 1
                    return
                future, call = self._waiting.popleft()
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(call())
                except BaseException as error:  # as an executor does: it is the caller's
                    future.set_exception(error)
