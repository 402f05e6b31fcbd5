"""One conversation with the runner of a node, over whatever carries bytes both ways.

A thread reads; any thread may ask. A request gets one last frame (result or error); a stream gets frames before it, as far as
the window allows that its reader keeps open. The runner gives a sign of life every few seconds: when none comes for
``dead_after`` seconds, the path is lost and everybody who waits gets a RemoteError.
"""

from __future__ import annotations

import itertools
import queue
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Protocol

from cml_nova import exception
from cml_nova.remote import protocol
from cml_nova.remote.program import PROGRAM
from cml_nova.remote.runner.framing import FRAME_COST, MAX_BODY

Frame = tuple[dict[str, Any], bytes]


class Pipe(Protocol):
    """What the session needs of its carrier. ``recv`` gives b"" at the end and raises TimeoutError after ``dead_after``.

    ``last_words`` gives, at the end, the exit code of what was at the other one, None where only the path ended, and what it complained of.
    """

    def sendall(self, data: bytes) -> None: ...
    def recv(self, size: int) -> bytes: ...
    def close(self) -> None: ...
    def last_words(self) -> tuple[int | None, str]: ...


class Exchange:
    """A request under way. ``credit`` bytes may still come unasked; more is a breach of the protocol."""

    def __init__(self, number: int, credit: int) -> None:
        self.number = number
        self.window = self.credit = credit
        self.owed = 0  # bytes that were taken, and of which the node has not been told yet
        self.frames: queue.SimpleQueue[Frame | exception.RemoteError | None] = queue.SimpleQueue()

    def wake(self) -> None:
        """Let whoever waits for a frame have none."""
        self.frames.put(None)


class Session:
    """The worker's end."""

    def __init__(self, pipe: Pipe, label: str, dead_after: float) -> None:
        self._pipe = pipe
        self._label = label
        self._dead_after = dead_after
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._send_lock = threading.Lock()
        self._exchanges: dict[int, Exchange] = {}
        self._failure: exception.RemoteError | None = None
        self._over = threading.Event()

    def open(self, root: str, generation: int, options: dict[str, Any], timeout: float) -> protocol.Hello:
        """Send the runner over and wait for its greeting.

        :param generation: in which the job is held; see ``machine.Options``.
        :raises NodeUnfit: it can't come up, by its exit code; says what came instead.
        :raises RemoteError: it did not come up in ``timeout`` seconds; says what came instead.
        """
        threading.Thread(target=self._read, name=f"ssh-{self._label}", daemon=True).start()
        self._send(PROGRAM)
        return protocol.parse_hello(self.request("hello", timeout=timeout, root=root, generation=generation, options=options))

    @property
    def failure(self) -> exception.RemoteError | None:
        """Why the session is over; None while it is not."""
        return self._failure

    def close(self) -> None:
        self._fail(exception.RemoteError(f"{self._label}: the connection was closed."))

    def request(self, op: str, body: bytes = b"", *, timeout: float, **fields: Any) -> dict[str, Any]:
        """Ask for one thing and give the result.

        :raises NodeCommandFailed: the runner refused or failed.
        :raises RemoteError: the path was lost, or no answer came in ``timeout`` seconds.
        """
        exchange = self.begin(op, body, credit=0, **fields)
        try:
            return self.result(exchange, timeout)
        finally:
            self.forget(exchange)

    def begin(self, op: str, body: bytes = b"", *, credit: int, **fields: Any) -> Exchange:
        """Send a request whose frames the caller takes with ``take`` or ``result``; ends with ``forget``."""
        exchange = Exchange(next(self._numbers), credit)
        with self._lock:
            if self._failure:
                raise self._renewed()
            self._exchanges[exchange.number] = exchange
        try:
            self.tell(exchange, op, body, **fields)
        except BaseException:
            self.forget(exchange)
            raise
        return exchange

    def tell(self, exchange: Exchange, op: str, body: bytes = b"", **fields: Any) -> None:
        """Send one more frame of a request."""
        self._send(protocol.encode({"id": exchange.number, "op": op, **fields}, body))

    def take(self, exchange: Exchange, timeout: float | None) -> Frame | None:
        """Give the next frame of a request; None if none came in ``timeout`` seconds (None: ever), or the exchange was woken.

        :raises NodeCommandFailed: the runner refused or failed.
        :raises RemoteError: the path was lost.
        """
        try:
            frame = exchange.frames.get(timeout=timeout)
        except queue.Empty:
            return None
        if isinstance(frame, exception.RemoteError):
            raise self._renewed()
        if frame and "error" in frame[0]:
            raise exception.NodeCommandFailed(f"{self._label}: {str(frame[0]['error'])[:2000]}")
        return frame

    def result(self, exchange: Exchange, timeout: float) -> dict[str, Any]:
        """Wait for a request's last frame and give its result."""
        frame = self.take(exchange, timeout)
        if frame is None:
            raise exception.RemoteError(f"{self._label}: no answer in {timeout:g} s.")
        result = frame[0].get("result")
        if not isinstance(result, dict):
            raise exception.RemoteError(f"{self._label}: the node's answer has no result.")
        return result

    def peek(self, exchange: Exchange) -> bool:
        """Tell whether a frame of the request waits to be taken."""
        return not exchange.frames.empty()

    def consumed(self, exchange: Exchange, body: bytes) -> None:
        """Open the window again by what a frame took, once that is a good part of it: each message costs either side something."""
        exchange.owed += FRAME_COST + len(body)
        if exchange.owed < exchange.window // 4:
            return
        owed, exchange.owed = exchange.owed, 0
        with self._lock:
            exchange.credit += owed
        self.tell(exchange, "credit", bytes=owed)

    def forget(self, exchange: Exchange, *, cancel: bool = False) -> None:
        """Drop a request; whatever still comes for it is thrown away."""
        with self._lock:
            self._exchanges.pop(exchange.number, None)
        if cancel and self._failure is None:
            with suppress(exception.RemoteError):  # the path was lost just now: nothing is left to cancel
                self.tell(exchange, "cancel")

    def pieces(self, exchange: Exchange, timeout: float) -> Iterator[bytes]:
        """Give the data of a stream until its end.

        :param timeout: longest pause between two pieces, in seconds.
        """
        while True:
            frame = self.take(exchange, timeout)
            if frame is None:
                raise exception.RemoteError(f"{self._label}: no data in {timeout:g} s.")
            if "result" in frame[0]:
                return
            yield frame[1]
            self.consumed(exchange, frame[1])

    def _send(self, data: bytes) -> None:
        try:
            with self._send_lock:
                for start in range(0, len(data), MAX_BODY):
                    self._pipe.sendall(data[start:start + MAX_BODY])
        except (OSError, EOFError) as error:
            self._over.wait(2)  # the reader knows better why
            self._fail(exception.RemoteError(f"{self._label}: sending failed: {str(error) or type(error).__name__}."))
            raise self._renewed() from error

    def _read(self) -> None:
        reader = protocol.FrameReader()
        try:
            while self._failure is None:
                data = self._pipe.recv(1 << 18)
                if not data:
                    raise self._end(reader)
                for header, body in reader.feed(data):
                    self._dispatch(header, body)
        except TimeoutError:
            self._fail(exception.RemoteError(f"{self._label}: no sign of life for {self._dead_after:g} s."))
        except exception.RemoteError as error:
            self._fail(error)
        except (OSError, EOFError) as error:
            self._fail(exception.RemoteError(f"{self._label}: receiving failed: {str(error) or type(error).__name__}."))

    def _end(self, reader: protocol.FrameReader) -> exception.RemoteError:
        code, complaint = self._pipe.last_words()
        said = (reader.noise + complaint).strip()[-500:]
        words = f": {said}" if said else "."
        if code is None or reader.begun:
            return exception.RemoteError(f"{self._label}: the runner has ended{words}")
        return exception.NodeUnfit(f"{self._label}: the runner, which needs python3 of version 3.6 or newer, did not come up, and ended "
                                   f"with exit code {code}{words}")

    def _dispatch(self, header: dict[str, Any], body: bytes) -> None:
        number = header.get("id")
        with self._lock:
            exchange = self._exchanges.get(number) if isinstance(number, int) else None
            if exchange is None:
                return  # a heartbeat, or a frame for somebody who has gone
            if not ("result" in header or "error" in header or "go" in header):
                exchange.credit -= FRAME_COST + len(body)
            if exchange.credit < 0:
                raise exception.RemoteError(f"{self._label}: the node sent more than it was allowed to.")
        exchange.frames.put((header, body))

    def _fail(self, failure: exception.RemoteError) -> None:
        with self._lock:
            if self._failure is not None:
                return
            self._failure = failure
            self._over.set()
            waiting = list(self._exchanges.values())
        self._pipe.close()
        for exchange in waiting:
            exchange.frames.put(failure)

    def _renewed(self) -> exception.RemoteError:
        """Give the failure as an exception of its own for each thread that raises it."""
        failure = self._failure
        return type(failure)(failure.message) if failure else exception.RemoteError(f"{self._label}: the connection is lost.")


def deadline_left(deadline: float) -> float:
    """Seconds left until a time of the monotonic clock, never below zero."""
    return max(0.0, deadline - time.monotonic())
