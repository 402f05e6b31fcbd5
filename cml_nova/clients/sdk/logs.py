"""Reading the logs of a job: every line once, in order, whatever happens to the service meanwhile."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from cml_nova.clients.sdk.patience import Patience

#: most bytes of one request, and those at the end of a log in which its last lines are looked for; a longer line is given in parts
PIECE, TAIL = 1 << 18, 1 << 20
#: characters of the time that the service puts before a line, and of the blank after it
_STAMP = 24 + 1
#: seconds that a request for one log waits for text; and that for one of several, since the others wait for it
_WAIT, _SHORT_WAIT = 20, 1
#: phases of a job that has no more to print
_OVER = ("TEARDOWN", "DONE")


@dataclass(frozen=True)
class LogPiece:
    """Some bytes of a log.

    :param next_offset: where the next piece begins.
    :param eof: this attempt prints nothing beyond it.
    :param more: it is as long as was asked for, or broke off: there may be more of it now.
    :param times: when each line of it came, the first and the last of which may be parts of lines; as ``LogLine.at``. Empty where they
        were not asked for.
    """

    data: bytes
    next_offset: int
    eof: bool
    attempt: int
    more: bool = False
    times: tuple[str, ...] = ()


@dataclass(frozen=True)
class LogLine:
    """A line of a log, without its end; what is not UTF-8 is replaced.

    :param next_offset: of the byte after it in the log of this task and attempt.
    :param at: when it was printed, to a tenth of a second, in ISO 8601 (UTC); empty where that is not known.
    """

    task: str
    attempt: int
    text: str
    next_offset: int
    at: str = ""


def split(body: bytes) -> tuple[bytes, tuple[str, ...]]:
    """Part a log from the times before its lines. A time without a line, where the answer broke off, is left out."""
    lines, times, place = [], [], 0
    while len(body) - place > _STAMP:
        end = body.find(b"\n", place + _STAMP) + 1 or len(body)
        times.append(body[place:place + _STAMP].decode(errors="replace").strip(" -"))
        lines.append(body[place + _STAMP:end])
        place = end
    return b"".join(lines), tuple(times)


class _Stream:
    """The log of one task, as far as it was read.

    :ivar lines: those that were read and not given yet.
    :ivar more: there is more of it now.
    :ivar ended: its attempt prints nothing more.
    """

    def __init__(self, task: str, attempt: int) -> None:
        self.task = task
        self.lines: deque[LogLine] = deque()
        self.begin(attempt)

    def begin(self, attempt: int) -> None:
        self.attempt = attempt
        self.offset = 0
        self.ended = self.more = False
        self._rest, self._rest_at = b"", ""

    def skip(self, piece: LogPiece, lines: int) -> None:
        """Begin, not before where it would, with the last so many lines of a piece from the end of the log."""
        start, data = piece.next_offset - len(piece.data), piece.data
        if start:  # probably within a line
            cut = data.find(b"\n") + 1
            start, data = start + cut, data[cut:]
        *whole, rest = data.split(b"\n")
        if rest and piece.eof:
            whole.append(rest)
        self.offset = max(self.offset, start + sum(len(line) + 1 for line in whole[:max(0, len(whole) - lines)]))

    def take(self, piece: LogPiece) -> None:
        """Take the lines that a piece completes; the last one, too, where the log ends without a line feed."""
        start = self.offset - len(self._rest)
        self.offset = piece.next_offset
        self.ended, self.more = piece.eof, piece.more
        times = list(piece.times)
        if self._rest:
            times[:1] = [self._rest_at]
        *lines, self._rest = (self._rest + piece.data).split(b"\n")
        for line, at in zip(lines, times, strict=False):
            start += len(line) + 1
            self._add(line, at, start)
        self._rest_at = times[-1] if self._rest else ""
        if self.ended or len(self._rest) >= PIECE:
            self.flush()

    def flush(self) -> None:
        """Take what there is of a line for the whole."""
        if self._rest:
            self._add(self._rest, self._rest_at, self.offset)
            self._rest = b""

    def _add(self, line: bytes, at: str, next_offset: int) -> None:
        text = line.decode(errors="replace").removesuffix("\r")
        self.lines.append(LogLine(self.task, self.attempt, text, next_offset, at))


def _merged(streams: Sequence[_Stream]) -> Iterator[LogLine]:
    """Give lines in the order of their times, until one might come in between that was not read yet."""
    while not any(stream.more and not stream.lines for stream in streams):
        there = [stream for stream in streams if stream.lines]
        if not there:
            return
        yield min(there, key=lambda stream: stream.lines[0].at).lines.popleft()


class _Source:
    """The service, asked for the logs of a job.

    All logs are asked in turn, by one request at a time: that needs no threads, and many readers don't use up the server's.
    """

    def __init__(self, client: Any, job_id: str, patience: Patience) -> None:
        self._client, self._job_id, self._patience = client, job_id, patience

    def begin(self, tasks: Sequence[str], attempt: int | None, lines: int | None, since: str | float | None) -> list[_Stream]:
        """Give the logs of these tasks at where they are to be begun; see ``Proxy.follow_log``."""
        first = max(1, self._job().attempt) if attempt is None else attempt
        streams = [_Stream(task, first) for task in tasks]
        for stream in streams:
            if since is not None:
                piece = self._ask(stream, limit=1, since=since)
                stream.offset = piece.next_offset - len(piece.data)
            if lines is not None:
                stream.skip(self._ask(stream, limit=TAIL, tail=TAIL), lines)
        return streams

    def take(self, stream: _Stream, wait: int = 0) -> bool:
        """Take the next piece of a log; tell whether there was any."""
        piece = self._ask(stream, limit=PIECE, offset=stream.offset, wait=wait, timestamps=True)
        stream.take(piece)
        return bool(piece.data)

    def go_on(self, streams: list[_Stream]) -> list[_Stream]:
        """Send what has ended on to its next attempt; give all that may have more.

        A job whose outputs are being collected may have another attempt yet: when a node is lost with them.
        """
        job = self._job()
        for stream in streams:
            if stream.ended and job.attempt > stream.attempt:
                stream.begin(stream.attempt + 1)
        return [stream for stream in streams if stream.lines or not (stream.ended and job.phase in _OVER)]

    def _job(self) -> Any:
        return self._patience.call(lambda: self._client.get_job(self._job_id))

    def _ask(self, stream: _Stream, **query: Any) -> LogPiece:
        return self._patience.call(lambda: self._client.job_log(self._job_id, stream.task, attempt=stream.attempt, **query))


def read(client: Any, job_id: str, tasks: Sequence[str], attempt: int | None, patience: Patience,
         lines: int | None = None, since: str | float | None = None) -> Iterator[LogLine]:
    """Give the lines that are there; see ``Proxy.log_lines``."""
    source = _Source(client, job_id, patience)
    streams = source.begin(tasks, attempt, lines, since)
    while streams:
        for stream in streams:
            if not stream.lines:
                source.take(stream)
                if not stream.more:
                    stream.flush()
        yield from _merged(streams)
        streams = [stream for stream in streams if stream.more or stream.lines]


def follow(client: Any, job_id: str, tasks: Sequence[str], attempt: int | None, patience: Patience,
           lines: int | None = None, since: str | float | None = None) -> Iterator[LogLine]:
    """Give lines as they come, until there will be no more; see ``Proxy.follow_log``."""
    source = _Source(client, job_id, patience)
    streams = source.begin(tasks, attempt, lines, since)
    quiet = False
    while streams:
        began = time.monotonic()
        news = False
        # A round that brought nothing is followed by one that waits for text at its first log.
        wait = (_WAIT if len(streams) == 1 else _SHORT_WAIT) if quiet else 0
        for stream in streams:
            if not (stream.ended or stream.lines):
                news |= source.take(stream, wait)
                wait = 0
        yield from _merged(streams)
        if any(stream.ended for stream in streams):
            streams = source.go_on(streams) if attempt is None else [s for s in streams if s.lines or not s.ended]
        quiet = not news
        if streams and not any(stream.more for stream in streams):
            # What prints without a pause is asked for some times a second, not once for each line.
            pace = _SHORT_WAIT if all(stream.ended for stream in streams) else min(_SHORT_WAIT, 0.2 + 0.01 * len(streams))
            time.sleep(max(0.0, began + pace - time.monotonic()))
