"""Following the logs of a job: every line once, in order, whatever happens to the service meanwhile."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from cml_nova.clients.sdk.patience import Patience

#: most bytes of one request, and of one line: a longer one is given in parts
PIECE = 1 << 20
#: seconds that a request for one log waits for text; and that for one of several, since the others wait for it
_WAIT, _SHORT_WAIT = 20, 1
#: phases of a job that has no more to print
_OVER = ("TEARDOWN", "DONE")


@dataclass(frozen=True)
class LogPiece:
    """Some bytes of a log.

    :param next_offset: where the next piece begins.
    :param eof: this attempt prints nothing beyond it.
    """

    data: bytes
    next_offset: int
    eof: bool
    attempt: int


@dataclass(frozen=True)
class LogLine:
    """A line of a log, without its end; what is not UTF-8 is replaced.

    :param next_offset: of the byte after it in the log of this task and attempt.
    """

    task: str
    attempt: int
    text: str
    next_offset: int


class _Stream:
    """The log of one task, as far as it was read."""

    def __init__(self, task: str, attempt: int) -> None:
        self.task = task
        self.begin(attempt)

    def begin(self, attempt: int) -> None:
        self.attempt = attempt
        self.offset = 0
        self.ended = False
        self._rest = b""

    def skip(self, piece: LogPiece, lines: int) -> None:
        """Begin with the last so many lines of a piece from the end of the log."""
        start, data = piece.next_offset - len(piece.data), piece.data
        if start:  # probably within a line
            cut = data.find(b"\n") + 1
            start, data = start + cut, data[cut:]
        *whole, _ = data.split(b"\n")
        self.offset = start + sum(len(line) + 1 for line in whole[:max(0, len(whole) - lines)])

    def take(self, piece: LogPiece) -> Iterator[LogLine]:
        """Give the lines that a piece completes; the last one, too, where the log ends without a line feed."""
        start = self.offset - len(self._rest)
        self.offset = piece.next_offset
        self.ended = piece.eof
        *lines, self._rest = (self._rest + piece.data).split(b"\n")
        for line in lines:
            start += len(line) + 1
            yield self._line(line, start)
        if self._rest and (self.ended or len(self._rest) >= PIECE):
            line, self._rest = self._rest, b""
            yield self._line(line, self.offset)

    def _line(self, line: bytes, next_offset: int) -> LogLine:
        return LogLine(self.task, self.attempt, line.decode(errors="replace").removesuffix("\r"), next_offset)


def follow(client: Any, job_id: str, tasks: Sequence[str], attempt: int | None, patience: Patience,
           lines: int | None = None) -> Iterator[LogLine]:
    """Give lines as they come, until there will be no more; see ``Proxy.follow_log``.

    All logs are asked in turn, by one request at a time: that needs no threads, and many followers don't use up the server's.
    """
    first = max(1, patience.call(lambda: client.get_job(job_id)).attempt) if attempt is None else attempt
    streams = [_Stream(task, first) for task in tasks]
    if lines is not None:
        for stream in streams:
            stream.skip(patience.call(lambda stream=stream: client.job_log(  # type: ignore[misc]
                job_id, stream.task, attempt=first, limit=PIECE, tail=PIECE)), lines)
    quiet = False
    while streams:
        began = time.monotonic()
        full = news = False
        # A round that brought nothing is followed by one that waits for text at its first log.
        wait = (_WAIT if len(streams) == 1 else _SHORT_WAIT) if quiet else 0
        for stream in streams:
            if not stream.ended:
                piece = patience.call(lambda stream=stream, wait=wait: client.job_log(  # type: ignore[misc]
                    job_id, stream.task, attempt=stream.attempt, offset=stream.offset, limit=PIECE, wait=wait))
                wait = 0
                full, news = full or len(piece.data) == PIECE, news or bool(piece.data)
                yield from stream.take(piece)
        if any(stream.ended for stream in streams):
            streams = _go_on(client, job_id, streams, attempt, patience)
        quiet = not news
        if not full and streams:
            # What prints without a pause is asked for some times a second, not once for each line.
            pace = _SHORT_WAIT if all(stream.ended for stream in streams) else min(_SHORT_WAIT, 0.2 + 0.01 * len(streams))
            time.sleep(max(0.0, began + pace - time.monotonic()))


def _go_on(client: Any, job_id: str, streams: list[_Stream], attempt: int | None, patience: Patience) -> list[_Stream]:
    """Send what has ended on to its next attempt; give all that may have more.

    A job whose outputs are being collected may have another attempt yet: when a node is lost with them.
    """
    if attempt is not None:
        return [stream for stream in streams if not stream.ended]
    job = patience.call(lambda: client.get_job(job_id))
    for stream in streams:
        if stream.ended and job.attempt > stream.attempt:
            stream.begin(stream.attempt + 1)
    return [stream for stream in streams if not (stream.ended and job.phase in _OVER)]
