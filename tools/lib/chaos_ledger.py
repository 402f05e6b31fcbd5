"""The ledger in which the processes on the nodes enter themselves: who ran, when, and beside whom."""

from __future__ import annotations

import socket
import threading
import time
from dataclasses import dataclass


@dataclass
class Entry:
    """A process on a node: of which run, what it was started as, and from when to when it lived (monotonic seconds)."""

    run: str
    attempt: int
    task: str
    began: float
    ended: float | None = None


class Ledger:
    """Where the processes on the nodes enter themselves, and stay connected to while they live."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=32)
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._entries: list[Entry] = []
        self._connections: list[tuple[str, socket.socket]] = []
        self._lock = threading.Lock()

    def release(self, run: str) -> None:
        """Tell the processes of a run that wait for a word that it has come."""
        with self._lock:
            connections = [connection for of_run, connection in self._connections if of_run == run]
        for connection in connections:
            connection.sendall(b"go\n")

    def entries(self, run: str) -> list[Entry]:
        """List the processes of a run in the order of their coming."""
        with self._lock:
            return [entry for entry in self._entries if entry.run == run]

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
            run, attempt, task = lines.readline().split()
            entry = Entry(run, int(attempt), task, time.monotonic())
            with self._lock:
                self._entries.append(entry)
                self._connections.append((run, connection))
            try:
                lines.read()
            except OSError:
                pass  # reset: it was killed
            entry.ended = time.monotonic()
            with self._lock:
                self._connections.remove((run, connection))
