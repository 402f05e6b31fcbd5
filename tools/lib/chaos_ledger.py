"""The ledger in which the processes on the nodes enter themselves: who ran, when, and beside whom."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Entry:
    """A process on a node: of which run, what it was started as, and from when to when it lived (monotonic seconds).

    :ivar pid: its process id, where it said so.
    :ivar place: its home directory, which is that of its node, where it said so.
    """

    run: str
    attempt: int
    task: str
    began: float
    pid: int = 0
    place: str = ""
    ended: float | None = None
    connection: socket.socket | None = field(default=None, repr=False)


class Ledger:
    """Where the processes on the nodes enter themselves, and stay connected to while they live.

    :param answer: gives the answer to a line that a process sends after its entry.
    """

    def __init__(self, answer: Callable[[Entry, str], str] | None = None) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._answer = answer
        self._entries: list[Entry] = []
        self._lock = threading.Lock()

    def release(self, run: str) -> None:
        """Tell the processes of a run that wait for a word that it has come."""
        for entry in self.alive(run):
            self.tell(entry, "go")

    def tell(self, entry: Entry, word: str) -> None:
        """Send a line to a process; one that has ended meanwhile doesn't get it."""
        with contextlib.suppress(OSError):
            if entry.connection:
                entry.connection.sendall(f"{word}\n".encode())

    def entries(self, run: str) -> list[Entry]:
        """List the processes of a run in the order of their coming."""
        with self._lock:
            return [entry for entry in self._entries if entry.run == run]

    def alive(self, run: str | None = None) -> list[Entry]:
        """List the processes that live, of a run or of all, in the order of their coming."""
        with self._lock:
            return [entry for entry in self._entries if entry.connection and run in (None, entry.run)]

    def __enter__(self) -> Ledger:
        threading.Thread(target=self._serve, name="ledger", daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._stay, args=(connection,), daemon=True).start()

    def _stay(self, connection: socket.socket) -> None:
        with connection, connection.makefile() as lines:
            words = lines.readline().split()
            if not words:
                return  # killed before it had said who it is
            run, attempt, task, *more = words
            pid, place = more or ("0", "")
            entry = Entry(run, int(attempt), task, time.monotonic(), int(pid), place, connection=connection)
            with self._lock:
                self._entries.append(entry)
            try:
                for line in lines:
                    if self._answer:
                        self.tell(entry, self._answer(entry, line.strip()))
            except OSError:
                pass  # reset: it was killed
            entry.ended, entry.connection = time.monotonic(), None
