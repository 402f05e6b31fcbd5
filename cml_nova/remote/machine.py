"""A node's machine over SSH, with the runner on it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import paramiko

from cml_nova import exception
from cml_nova.remote import archive, protocol, snapshots
from cml_nova.remote.login import Access, log_in, say
from cml_nova.remote.program import COMMAND
from cml_nova.remote.protocol import Hello, Idle, ProcessState
from cml_nova.remote.runner.files import PIECE
from cml_nova.remote.session import Session, deadline_left
from cml_nova.remote.snapshots import Snapshot

#: attempt, task, offset, piece of the log, and from which offsets on it came when (seconds since 1970 by our clock)
OnLog = Callable[[int, str, int, bytes, list[tuple[int, float]]], None]
OnState = Callable[[ProcessState], None]
OnSample = Callable[[dict[str, Any]], None]
OnIdle = Callable[[list[Idle]], None]


@dataclass(frozen=True)
class Options:
    """Times in seconds, sizes in bytes.

    :ivar dead_after: silence after which the path counts as lost; the runner gives a sign of life every 5 s.
    :ivar reply_timeout: longest wait for an answer, and for progress of a transfer.
    :ivar max_log_bytes: most log kept of one task and attempt.
    :ivar max_files: most files that one ``fetch`` brings.
    :ivar sample_interval: between samples of the machine's use while its processes are followed.
    :ivar power_off_after: the machine powers itself off when all processes have ended and nobody was connected for so long;
        0 for never.
    :ivar generation: in which the worker holds the job. Once a session of a higher one has been opened, the node refuses everything that
        changes something, also in sessions that are open already.
    """

    dead_after: float = 30
    reply_timeout: float = 60
    max_log_bytes: int = 1 << 30
    max_files: int = 100_000
    sample_interval: float = 10
    power_off_after: float = 0
    generation: int = 0


@dataclass(frozen=True)
class ProcessSpec:
    """A process to be.

    :ivar command: one for ``/bin/sh -c``, or the words of one.
    :ivar cwd: relative to the root; empty for the root itself.
    :ivar ports: which held ports to let go of just before the start; None for all.
    """

    attempt: int
    task: str
    command: str | list[str]
    env: Mapping[str, str]
    cwd: str = ""
    ports: Sequence[int] | None = None


class Leave(threading.Event):
    """An event for those who wait for something else as well: it wakes them."""

    def __init__(self) -> None:
        super().__init__()
        self._wakers: list[Callable[[], None]] = []
        self._guard = threading.Lock()

    def set(self) -> None:
        """Set it, for good."""
        with self._guard:
            super().set()
            wakers, self._wakers = self._wakers, []
        for waker in wakers:
            waker()

    @contextmanager
    def waking(self, waker: Callable[[], None]) -> Iterator[None]:
        """Have ``waker`` called when the event is set while the context is open; at once if it is set already."""
        with self._guard:
            known = self.is_set()
            if not known:
                self._wakers.append(waker)
        if known:
            waker()
        try:
            yield
        finally:
            with self._guard:
                if waker in self._wakers:
                    self._wakers.remove(waker)


class _Carrier:
    """An exec channel as the session wants it."""

    def __init__(self, transport: paramiko.Transport, channel: paramiko.Channel, silence: float) -> None:
        self._transport = transport
        self._channel = channel
        channel.settimeout(silence)

    def sendall(self, data: bytes) -> None:
        self._channel.sendall(data)

    def recv(self, size: int) -> bytes:
        return self._channel.recv(size)

    def last_words(self) -> tuple[int | None, str]:
        self._channel.status_event.wait(1)  # what was said comes before the exit status
        said = self._channel.recv_stderr(4096).decode("utf-8", "replace") if self._channel.recv_stderr_ready() else ""
        return (self._channel.exit_status if self._channel.exit_status >= 0 else None), said

    def close(self) -> None:
        self._transport.close()


class Machine:
    """One SSH connection with one runner on it. Methods may be called from several threads.

    Every method raises RemoteError when the path is lost, and NodeCommandFailed (a RemoteError) when the node refuses or fails.
    After a loss call ``connect`` again: processes and logs on the node do not mind. ``startup`` is how many seconds the runner took
    from the login to its greeting.
    """

    def __init__(self, access: Access, root: str = ".cml", options: Options | None = None) -> None:
        self.access = access
        self.root = root
        self.options = options or Options()
        self.hello: Hello | None = None
        self.startup = 0.0
        self._clock_difference = 0.0
        self._session: Session | None = None
        self._connecting = threading.Lock()
        self._closes = 0

    @property
    def connected(self) -> bool:
        return self._session is not None and self._session.failure is None

    def connect(self, timeout: float) -> Hello:
        """Connect and bring the runner up, in one try. Does nothing but repeat its greeting if it is up.

        :param timeout: seconds for all of it, without the wait for a turn where many machines are logged in to.
        :raises HostKeyRefused: another key answers under this address.
        :raises NodeUnfit: the runner can't come up on this machine; at least not yet, where it boots.
        :raises RemoteError: anything else went wrong, which may pass; its detail ``answered`` is set where an SSH server was there,
            ``refused`` where only the machine was.
        """
        with self._connecting:
            if self.connected and self.hello:
                return self.hello
            deadline, closes = time.monotonic() + timeout, self._closes
            transport, waited = log_in(self.access, deadline)
            deadline += waited
            logged_in = time.monotonic()
            try:
                channel = transport.open_session(timeout=deadline_left(deadline))
                channel.settimeout(max(0.1, deadline_left(deadline)))
                channel.exec_command(COMMAND)
                session = Session(_Carrier(transport, channel, self.options.dead_after), self.access.address, self.options.dead_after)
                options = {"max_log": self.options.max_log_bytes, "max_files": self.options.max_files,
                           "sample_interval": self.options.sample_interval, "power_off_after": self.options.power_off_after}
                self.hello = session.open(self.root, self.options.generation, options, max(0.1, deadline_left(deadline)))
                self.startup = time.monotonic() - logged_in
                self._clock_difference = time.time() - self.hello.now
            except (paramiko.SSHException, OSError, EOFError) as error:
                transport.close()
                raise exception.RemoteError(f"{self.access.address}: the runner can't be started: {say(error)}.") from error
            except BaseException:
                transport.close()
                raise
            self._session = session
            if closes != self._closes:
                session.close()
                raise exception.RemoteError(f"{self.access.address}: the connection was closed while it was made.")
            return self.hello

    def close(self) -> None:
        """End the connection, and one that is being made; what runs on the node goes on."""
        self._closes += 1
        if self._session:
            self._session.close()

    def upload(self, name: str, digest: str | None, pieces: Iterable[bytes]) -> None:
        """Unpack a tar stream, compressed or not, into ``<root>/<name>`` in one step.

        :param digest: sha256 (hex) of the stream: it is checked, and nothing is sent if the same one is there already;
            None to send it always.
        """
        self._send_up(name, archive.members(pieces, digest), digest=digest)

    def restore(self, name: str, attempt: int, files: Iterable[tuple[str, int, int, Iterable[bytes]]]) -> None:
        """Make ``<root>/<name>`` a directory of exactly these files (path, size, mtime in ns, content) in one step.

        :param attempt: the one that is to find them.
        :raises NodeCommandFailed: that attempt has begun on the node: this comes too late.
        """
        self._send_up(name, archive.bundle(files), digest=None, before=attempt)

    def _send_up(self, name: str, members: Iterable[bytes], **fields: Any) -> None:
        session, timeout = self._use(), self.options.reply_timeout
        exchange = session.begin("upload", credit=0, name=name, **fields)
        try:
            first = session.take(exchange, timeout)
            if first is None:
                raise exception.RemoteError(f"{self.access.address}: no answer in {timeout:g} s.")
            if "go" not in first[0]:
                return
            for piece in archive.gathered(members, PIECE):
                session.tell(exchange, "piece", piece)
                if session.peek(exchange):
                    break  # it has failed; the result says why
            session.tell(exchange, "piece", end=True)
            session.result(exchange, timeout)
        finally:
            session.forget(exchange, cancel=True)

    def write(self, name: str, data: bytes, mode: int = 0o600) -> None:
        """Write a small file (at most 1 MiB) ``<root>/<name>`` so that a reader sees all of it or none."""
        self._use().request("write", data, timeout=self.options.reply_timeout, name=name, mode=mode)

    def free_ports(self, count: int) -> list[int]:
        """Find TCP ports that are free on every address of the machine, and hold them until ``start`` or the connection's end."""
        result = self._use().request("ports", timeout=self.options.reply_timeout, count=count)
        return protocol.parse_ports(result.get("ports"), count)

    def gpus(self) -> int | None:
        """Tell how many GPUs the driver shows; None where the machine has no nvidia-smi."""
        return protocol.parse_count(next(self._stream("gpus"), b""))

    def start(self, spec: ProcessSpec) -> None:
        """Start a process that outlives the connection. A second start of the same (attempt, task) does nothing.

        :raises NodeCommandFailed: an older attempt is alive, a newer one exists, or this one was stopped.
        """
        document = {**asdict(spec), "env": dict(spec.env), "ports": None if spec.ports is None else list(spec.ports)}
        self._use().request("start", json.dumps(document).encode(), timeout=self.options.reply_timeout)

    def processes(self) -> list[ProcessState]:
        """List the processes of all attempts."""
        result = self._use().request("processes", timeout=self.options.reply_timeout).get("processes")
        if not isinstance(result, list):
            raise exception.RemoteError(f"{self.access.address}: the node gave no list of processes.")
        return [self._state(item) for item in result]

    def _state(self, document: Any) -> ProcessState:
        """Read a process's state; its times by our clock, whatever the node's says, and never in the future.

        The clocks' difference is too large by how long the greeting was under way, so a state that comes faster would be of a time to come.
        Both of its times are put back alike then: how long the process ran stays as exact as the node has measured it.
        """
        state = protocol.parse_state(document)
        now, told = time.time(), [at for at in (state.started_at, state.ended_at) if at is not None]
        difference = min([self._clock_difference, *(now - at for at in told)])

        def ours(at: float | None) -> float | None:
            return None if at is None else max(0.0, at + difference)

        return replace(state, started_at=ours(state.started_at), ended_at=ours(state.ended_at))

    def follow(self, offsets: Mapping[tuple[int, str], int], on_log: OnLog, on_state: OnState, stop: Leave,
               on_sample: OnSample | None = None, on_idle: OnIdle | None = None, idle_interval: float = 0) -> None:
        """Pass on logs and states as they come, until ``stop`` is set or all processes of the newest attempt have ended.

        Returns at once if nothing was ever started. Covers the newest attempt and the (attempt, task) named in ``offsets``.
        A state with ``ended`` comes after the whole log of its process. Callbacks run in the calling thread; while one blocks,
        the node waits.

        :param offsets: how many bytes of which log are known already.
        :param on_idle: is told every ``idle_interval`` seconds for how long each running process has given no sign of life.
        """
        session = self._use()
        wanted = [[attempt, task, offset] for (attempt, task), offset in offsets.items()]
        exchange = session.begin("follow", credit=protocol.WINDOW, offsets=wanted, window=protocol.WINDOW, samples=on_sample is not None,
                                 idle_interval=idle_interval if on_idle else 0)
        expected = dict(offsets)
        try:
            with stop.waking(exchange.wake):
                while not stop.is_set():
                    frame = session.take(exchange, None)
                    if frame is None:
                        continue
                    header, body = frame
                    if "result" in header:
                        return
                    if "log" in header:
                        self._deliver(header, body, expected, on_log)
                    elif "state" in header:
                        on_state(self._state(header["state"]))
                    elif "sample" in header and on_sample:
                        on_sample(protocol.parse_sample(header["sample"]))
                    elif "idle" in header and on_idle:
                        on_idle(protocol.parse_idle(header["idle"]))
                    session.consumed(exchange, body)
        finally:
            session.forget(exchange, cancel=True)

    def _deliver(self, header: dict[str, Any], body: bytes, expected: dict[tuple[int, str], int], on_log: OnLog) -> None:
        key, offset = header["log"], header.get("offset")
        good = isinstance(key, list) and len(key) == 2 and type(key[0]) is int and isinstance(key[1], str)
        if not good or expected.get((key[0], key[1]), 0) != offset:
            raise exception.RemoteError(f"{self.access.address}: the node sent a piece of log that does not fit.")
        now, times = time.time(), protocol.parse_times(header.get("times"), offset, len(body))
        on_log(key[0], key[1], offset, body, [(offset, now)] if times is None else [(place, now - age) for place, age in times])
        expected[key[0], key[1]] = offset + len(body)

    def stop(self, attempt: int, grace: float, tasks: Sequence[str] | None = None, *, dump: bool = False) -> None:
        """TERM, and KILL ``grace`` seconds later, for all descendants of an attempt's processes; returns when they are gone.

        Idempotent. Without ``tasks`` the attempt can't be started any more, not by a delayed message either.

        :param dump: the processes hang: put into their logs what the kernel says of where they are, and send ABRT in place of TERM,
            at which Python programs print the stacks of all threads.
        """
        self._use().request("stop", timeout=grace + 30, attempt=attempt, grace=grace, tasks=None if tasks is None else list(tasks),
                            dump=dump)

    def fetch(self, name: str) -> Iterator[bytes]:
        """Give ``<root>/<name>`` as a tar stream; a missing directory is an empty tar.

        :raises NodeCommandFailed: there are more files than ``Options.max_files``.
        """
        return self._stream("fetch", name=name)

    def snapshot(self, name: str, most: int, *, hold: bool = True) -> Snapshot:
        """List the files below ``<root>/<name>``, but for those that are unfinished by their names (``*.tmp``, ``.*``).

        :param most: files; where there are more, there is one more in the list than that, and nothing is held.
        :param hold: keep the files on the node as they were at one time, for ``pick``, until the next snapshot or ``release``.
        :raises NodeCommandFailed: files are being written all the time; or the node sent something that is no such list.
        """
        return snapshots.parse(self._stream("snapshot", name=name, most=most, hold=hold), most)

    def pick(self, snapshot: Snapshot, numbers: Sequence[int]) -> Iterator[tuple[int, Iterator[bytes]]]:
        """Give number and content of files of a snapshot, in the order of the numbers.

        :param numbers: places in its list, ascending.
        :raises NodeCommandFailed: a file was written to since, or the node sent something else than these files.
        """
        ranges = json.dumps(snapshots.ranges(numbers)).encode()
        return snapshots.picked(self._stream("pick", ranges, snapshot=snapshot.id), snapshot, numbers)

    def release(self) -> None:
        """Let the node forget what it holds of a snapshot."""
        for _ in self._stream("release"):
            pass

    def _stream(self, op: str, body: bytes = b"", **fields: Any) -> Iterator[bytes]:
        session = self._use()
        exchange = session.begin(op, body, credit=protocol.WINDOW, window=protocol.WINDOW, **fields)
        try:
            yield from session.pieces(exchange, self.options.reply_timeout)
        finally:
            session.forget(exchange, cancel=True)

    def _use(self) -> Session:
        if self._session is None:
            raise exception.RemoteError(f"{self.access.address}: not connected.")
        return self._session
