"""The processes of guests: found by a marker in their environment, however far they have detached themselves.

Every command in a guest starts with ``CML_LOCALCLOUD_GUEST=<instance>/<server id>`` in its environment and as the leader of
its own session. A process belongs to a guest if it carries the marker, or has a parent or a session that does. Only a process that
clears its environment, leaves its session and loses its parent, all before anybody looks, escapes.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

MARKER = "CML_LOCALCLOUD_GUEST"
_ATTEMPTS = 300
_PAUSE = (0.002, 0.05)  # seconds between two looks: at first, at most
_STOPPED = "tT"
_IN_KERNEL = "D"
_DEAD = "ZXx"


class ProcessesRemain(Exception):
    """Processes of a guest did not do what the signal asks for; the message names them."""


class Process(NamedTuple):
    """One process. ``start`` (clock ticks since boot) makes ``pid`` unique over its reuse."""

    pid: int
    start: int
    state: str
    parent: int
    session: int
    guest: str | None


class ProcessTable:
    """The processes of one local cloud's guests.

    :param instance: tells this cloud's guests from another's on the same machine.
    """

    def __init__(self, instance: str) -> None:
        self._prefix = f"{MARKER}={instance}/".encode()
        self._instance = instance
        self._known: dict[tuple[int, int], str] = {}
        self._lock = threading.Lock()
        self._begun = float("-inf")  # when the latest look began, which found:
        self._found: list[tuple[Process, str]] = []
        self.roots: dict[int, str] = {}  # children of this very process → guest; whoever reaps one takes it out before

    def marker(self, guest: str) -> str:
        """The value of the environment variable :data:`MARKER` for a guest's processes."""
        return f"{self._instance}/{guest}"

    def of(self, guest: str | None) -> list[Process]:
        """The living processes of a guest, or of all guests of this cloud (None)."""
        asked = time.monotonic()
        with self._lock:
            if self._begun < asked:  # else somebody has looked while we waited for the lock
                self._begun = time.monotonic()
                self._look_around()
            found = self._found
        return [process for process, owner in found if guest in (None, owner)]

    def kill(self, guest: str | None = None) -> None:
        """Kill them all; returns when none is left.

        :raises ProcessesRemain: some can't be killed.
        """
        self._signal(guest, signal.SIGKILL, list)

    def stop(self, guest: str) -> None:
        """Freeze them all (SIGSTOP); returns when each one stands still."""
        self._signal(guest, signal.SIGSTOP, _moving)

    def resume(self, guest: str) -> None:
        """Let frozen ones go on (SIGCONT); those too that were to stop when they come back from the kernel."""
        self._signal(guest, signal.SIGCONT, lambda found: [process for process in found if process.state in _STOPPED + _IN_KERNEL])

    def _signal(self, guest: str | None, number: signal.Signals, concerned: Callable[[list[Process]], list[Process]]) -> None:
        """Send a signal until two looks have found nobody whom it still concerns."""
        quiet, pause = 0, _PAUSE[0]
        for _ in range(_ATTEMPTS):
            pending = concerned(self.of(guest))
            for process in pending:
                _send(process, number)
            # A process in the middle of execve() shows no environment for an instant: one empty look proves nothing.
            quiet = 0 if pending else quiet + 1
            if quiet == 2:
                return
            time.sleep(pause)
            pause = min(2 * pause, _PAUSE[1]) if pending else _PAUSE[0]
        names = ", ".join(f"{process.pid} ({process.state})" for process in pending)
        raise ProcessesRemain(f"{number.name} did not reach all processes of {guest or 'the guests'}: {names or 'new ones kept coming'}")

    def _look_around(self) -> None:
        own = os.getpid()
        looked_at = (self._look(int(name)) for name in os.listdir("/proc") if name.isdigit())
        everything = [process for process in looked_at if process and process.pid != own and process.state not in _DEAD]
        owners = self._owners(everything)
        self._found = [(process, owners[process.pid]) for process in everything if process.pid in owners]
        self._known = {(process.pid, process.start): owner for process, owner in self._found}

    def _look(self, pid: int) -> Process | None:
        """One process; None if it has gone."""
        try:
            stat = _read(f"/proc/{pid}/stat")
            environ = _read(f"/proc/{pid}/environ")
        except PermissionError:  # another user's: no guest of ours
            environ = b""
        except (FileNotFoundError, ProcessLookupError):
            return None
        # The command's name in parentheses may hold anything, so count the fields from its end.
        fields = stat[stat.rindex(b")") + 2 :].split()
        return Process(pid, int(fields[19]), fields[0].decode(), int(fields[1]), int(fields[3]), self._guest_in(environ))

    def _guest_in(self, environ: bytes) -> str | None:
        _, found, rest = (b"\0" + environ).partition(b"\0" + self._prefix)
        return rest.partition(b"\0")[0].decode(errors="replace") if found else None

    def _owners(self, everything: list[Process]) -> dict[int, str]:
        """pid → guest: marked ones, our own children, remembered ones, and those that have a parent or a session among these.

        A command that has just been started may be seen in our own session, marked already: whatever else is there is no guest's.
        """
        owners: dict[int, str] = {}
        sessions: dict[int, str] = {}
        own_session = os.getsid(0)

        def enter(process: Process, guest: str) -> None:
            owners[process.pid] = guest
            if process.session != own_session:
                sessions[process.session] = guest

        for process in everything:
            guest = process.guest or self.roots.get(process.pid) or self._known.get((process.pid, process.start))
            if guest:
                enter(process, guest)
        grown = bool(owners)
        while grown:
            grown = False
            for process in everything:
                guest = owners.get(process.parent) or sessions.get(process.session)
                if guest and process.pid not in owners:
                    enter(process, guest)
                    grown = True
        return owners


def _moving(found: list[Process]) -> list[Process]:
    """Those of a guest's processes that do not stand still.

    A shell's process waits in the kernel, deaf to SIGSTOP, until its child has become another program (vfork): while that is frozen before
    it, nothing brings the parent back.
    """
    parents = {process.parent for process in found if process.state in _STOPPED}
    return [process for process in found if process.state not in _STOPPED and not (process.state in _IN_KERNEL and process.pid in parents)]


def _send(process: Process, number: signal.Signals) -> None:
    """Signal exactly this process, not a later one that got its pid."""
    try:
        handle = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    try:
        if _start_of(process.pid) == process.start:
            signal.pidfd_send_signal(handle, number)
    except (ProcessLookupError, FileNotFoundError):
        return  # it has ended by itself, which is as good
    finally:
        os.close(handle)


def _start_of(pid: int) -> int:
    stat = _read(f"/proc/{pid}/stat")
    return int(stat[stat.rindex(b")") + 2 :].split()[19])


def _read(path: str) -> bytes:
    file = os.open(path, os.O_RDONLY)
    try:
        pieces = []
        while piece := os.read(file, 65536):
            pieces.append(piece)
        return b"".join(pieces)
    finally:
        os.close(file)
