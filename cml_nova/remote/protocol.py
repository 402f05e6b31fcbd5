"""The frames that the worker and the runner exchange, and the checks on what a node says.

A node belongs to a tenant and may send anything: sizes are bounded before anything is stored, and every field is checked
before it is used.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cml_nova import exception
from cml_nova.remote.runner.errors import Refused
from cml_nova.remote.runner.framing import MAGIC, MAX_BODY, MAX_HEADER, PROTOCOL
from cml_nova.remote.runner.paths import check_name
from cml_nova.remote.runner.tasks import ENDED
from cml_nova.remote.runner.timestamps import MOST_TIMES

#: what the worker lets a node send ahead in one stream, in bytes; frames count ``FRAME_COST`` each
WINDOW = 4 << 20
#: what may come before the runner's first word (a banner printed by a profile file), in bytes
MAX_NOISE = 64 << 10
#: of how many processes a node may speak in one frame
MAX_PROCESSES = 4096

_LENGTHS = struct.Struct(">II")


@dataclass(frozen=True)
class Hello:
    """What a node says of itself when the runner comes up.

    :ivar memory: in bytes.
    :ivar user: numeric user id of the login; ``pid``: process id of this session's runner.
    :ivar now: the node's clock, in seconds since 1970.
    """

    python: str
    root: str
    boot_id: str
    cpus: int
    memory: int
    user: int
    pid: int
    now: float


@dataclass(frozen=True)
class ProcessState:
    """A process as its supervisor saw it.

    :ivar state: RUNNING, EXITED (by itself), STOPPED (by us) or LOST (killed supervisor, or the machine was restarted: how it
        ended is unknown; ``reason`` says more).
    :ivar started_at: seconds since 1970, by the node's clock as it comes, by ours as ``Machine`` gives it; ``ended_at`` alike.
    :ivar oom: whether the kernel killed it, or a part of it, for want of memory; None where that can't be told.
    :ivar log_size: bytes of log so far.
    :ivar stopped_by: for STOPPED, TERM, ABRT (it hung) or KILL.
    :ivar log_truncated: the log reached its limit, or the disk was full.
    :ivar log_error: why a part of the log could not be kept.
    """

    attempt: int
    task: str
    state: str
    pid: int | None = None
    started_at: float | None = None
    ended_at: float | None = None
    exit_code: int | None = None
    signal: int | None = None
    oom: bool | None = None
    log_size: int = 0
    stopped_by: str | None = None
    reason: str | None = None
    log_truncated: bool = False
    log_error: str | None = None

    @property
    def ended(self) -> bool:
        return self.state in ENDED


@dataclass(frozen=True)
class Idle:
    """A running process that has given no sign of life, neither a line nor its heartbeat, for so many seconds.

    :ivar beats: it has touched its heartbeat file at least once.
    """

    attempt: int
    task: str
    seconds: float
    beats: bool


def _is(*kinds: type) -> Callable[[Any], bool]:
    return lambda value: type(value) in kinds


def _number(value: Any) -> bool:
    return type(value) in (int, float) and -1e15 < value < 1e15


def _optional(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or check(value)


def _text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= 4096


def _count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 60


_HELLO = {"python": _text, "root": _text, "boot_id": _text, "cpus": _count, "memory": _count, "user": _count, "pid": _count, "now": _number}
_STATE = {
    "attempt": _count, "task": _text, "state": ("RUNNING", *ENDED).__contains__, "pid": _optional(_count),
    "started_at": _optional(_number), "ended_at": _optional(_number), "exit_code": _optional(_count),
    "signal": _optional(_count), "oom": _optional(_is(bool)), "log_size": _count, "reason": _optional(_text),
    "stopped_by": (None, "TERM", "ABRT", "KILL").__contains__, "log_truncated": _is(bool), "log_error": _optional(_text),
}
_DEFAULTS = {"log_truncated": False, "log_size": 0}
_GPU = {"index": _count, "utilization": _optional(_number), "memory_used": _optional(_count), "memory_total": _optional(_count)}
_SAMPLE = {"at": _number, "cpu_percent": _number, "memory_used": _count, "memory_total": _count}


def _checked(document: Any, shape: Mapping[str, Callable[[Any], bool]], what: str) -> dict[str, Any]:
    if not isinstance(document, dict):
        raise exception.RemoteError(f"The node sent a {what} that is no object.")
    found = {}
    for field, check in shape.items():
        value = document.get(field, _DEFAULTS.get(field))
        try:
            good = check(value)
        except TypeError:  # an unhashable value
            good = False
        if not good:
            raise exception.RemoteError(f"The node sent a {what} with a bad {field!r}.")
        found[field] = value
    return found


def parse_hello(document: Any) -> Hello:
    """Read the runner's greeting.

    :raises RemoteError: it has not the shape, or speaks another protocol.
    """
    if not isinstance(document, dict) or document.get("protocol") != PROTOCOL:
        raise exception.RemoteError("The node's runner speaks another protocol.")
    return Hello(**_checked(document, _HELLO, "greeting"))


def parse_state(document: Any) -> ProcessState:
    """Read a process's state.

    :raises RemoteError: it has not the shape.
    """
    fields = _checked(document, _STATE, "process state")
    try:
        check_name(fields["task"], "task")
    except Refused as error:
        raise exception.RemoteError(f"The node sent a process state with a bad name: {error}") from None
    return ProcessState(**fields)


def parse_sample(document: Any) -> dict[str, Any]:
    """Read a sample: at (s), cpu_percent, memory_used and memory_total (bytes), gpus (index, utilization in %, memory alike).

    :raises RemoteError: it has not the shape.
    """
    sample = _checked(document, _SAMPLE, "sample")
    gpus = document.get("gpus")
    if not isinstance(gpus, list) or len(gpus) > 64:
        raise exception.RemoteError("The node sent a sample with a bad list of GPUs.")
    return {**sample, "gpus": [_checked(gpu, _GPU, "GPU sample") for gpu in gpus]}


def parse_idle(document: Any) -> list[Idle]:
    """Read for how long which processes have given no sign of life.

    :raises RemoteError: it has not the shape.
    """
    shape = (_count, _text, _number, _is(bool))
    if not isinstance(document, list) or len(document) > MAX_PROCESSES or not all(
            isinstance(item, list) and len(item) == len(shape) and all(check(value) for check, value in zip(shape, item, strict=True))
            for item in document):
        raise exception.RemoteError("The node sent a bad list of idle processes.")
    return [Idle(*item) for item in document]


def parse_times(document: Any, start: int, size: int) -> list[tuple[int, float]] | None:
    """Read from which offsets on a piece of a log came how many seconds ago; None where the node does not know.

    :raises RemoteError: these are no ages, or not of this piece.
    """
    if document is None:
        return None
    if not isinstance(document, list) or len(document) > MOST_TIMES or not all(
            isinstance(item, list) and len(item) == 2 and _count(item[0]) and _number(item[1]) and item[1] >= 0 for item in document):
        raise exception.RemoteError("The node sent a bad list of times of a log.")
    places = [place for place, _ in document]
    if places != sorted(set(places)) or (places and not start <= places[0] <= places[-1] < start + size):
        raise exception.RemoteError("The node sent times of a log that do not fit.")
    return [(place, age) for place, age in document]


def parse_ports(document: Any, count: int) -> list[int]:
    """Read a list of ports.

    :raises RemoteError: these are not so many different ports.
    """
    if (not isinstance(document, list) or not all(type(port) is int and 0 < port < 65536 for port in document)
            or len(set(document)) != count or len(document) != count):
        raise exception.RemoteError(f"The node was asked for {count} free ports and gave something else.")
    return list(document)


def encode(header: Mapping[str, Any], body: bytes = b"") -> bytes:
    """Make a frame."""
    head = json.dumps(header).encode()
    if len(head) > MAX_HEADER or len(body) > MAX_BODY:
        raise exception.NodeCommandFailed(f"A request of {len(head)} + {len(body)} bytes is too large for one frame.")
    return _LENGTHS.pack(len(head), len(body)) + head + body


def parse_count(text: bytes) -> int | None:
    """Read how many there are of something; None where the node can't tell.

    :raises RemoteError: it is no number.
    """
    if not text:
        return None
    if len(text) > 9 or not text.isdigit():
        raise exception.RemoteError("The node sent a number that is none.")
    return int(text)


class FrameReader:
    """Cuts a byte stream into frames; what comes before the runner's first word is kept as noise for error messages.

    :ivar begun: that word has come.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self.begun = False

    @property
    def noise(self) -> str:
        return "" if self.begun else self._buffer.decode("utf-8", "replace")

    def feed(self, data: bytes) -> Iterator[tuple[dict[str, Any], bytes]]:
        """Take bytes in, give the frames that are complete.

        :raises RemoteError: a frame is too large or malformed, or the runner's first word does not come.
        """
        self._buffer += data
        if not self.begun and not self._find_begin():
            return
        while len(self._buffer) >= _LENGTHS.size:
            head, body = _LENGTHS.unpack_from(self._buffer)
            if head > MAX_HEADER or body > MAX_BODY:
                raise exception.RemoteError(f"The node sent a frame of {head} + {body} bytes, which is too large.")
            end = _LENGTHS.size + head + body
            if len(self._buffer) < end:
                return
            header = self._header(bytes(self._buffer[_LENGTHS.size:_LENGTHS.size + head]))
            payload = bytes(self._buffer[_LENGTHS.size + head:end])
            del self._buffer[:end]
            yield header, payload

    def _find_begin(self) -> bool:
        place = self._buffer.find(MAGIC)
        if place < 0:
            if len(self._buffer) > MAX_NOISE:
                raise exception.RemoteError("The node answered with something else than the runner's frames.")
            return False
        del self._buffer[:place + len(MAGIC)]
        self.begun = True
        return True

    @staticmethod
    def _header(text: bytes) -> dict[str, Any]:
        try:
            header = json.loads(text)
        except (ValueError, RecursionError):
            header = None
        if not isinstance(header, dict):
            raise exception.RemoteError("The node sent a frame whose header is no JSON object.")
        return header
