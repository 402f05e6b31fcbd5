"""When the parts of a log came.

Beside each log lies an object of records of a fixed size, sorted: offset in the log, and time. From that offset on, up to that of the next
record, the log came at that time. A record is written before the text that it is about, so that there is no text to be read whose time
comes later. Who goes on with a log after somebody else writes over the records of what that one did not come to save.

Nothing hangs on these: a log without them, or with some too many or too few, is read all the same.
"""

from __future__ import annotations

import io
import os
import struct
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import BinaryIO

from cml_nova.storage.base import Storage, times_key

#: offset in the log, milliseconds since 1970
_RECORD = struct.Struct(">QQ")
#: milliseconds between two records at least; whatever a node says, it makes no more of them
_APART = 50


class TimesWriter:
    """Writes the times of a log that grows.

    :param key: the log's.
    :param offset: where it goes on.
    """

    def __init__(self, storage: Storage, key: str, offset: int) -> None:
        self._storage, self._key = storage, times_key(key)
        with read_times(storage, key) as times:
            self._count = bisect_left(times, offset, key=_offset)
            self._last = times[self._count - 1][1] if self._count else 0

    def add(self, times: Iterable[tuple[int, float]]) -> None:
        """Note from which offsets on the log came when, in seconds since 1970. Time goes on, whatever clocks say."""
        records: list[bytes] = []
        for offset, at in times:
            now = max(0, int(at * 1000))
            if now >= self._last + _APART or not (self._count or records):
                records.append(_RECORD.pack(offset, now))
                self._last = now
        if records:
            self._storage.write_at(self._key, self._count * _RECORD.size, b"".join(records))
            self._count += len(records)


class Times:
    """The records of a log: (offset, milliseconds since 1970), as many as are whole."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._count = file.seek(0, os.SEEK_END) // _RECORD.size

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: int) -> tuple[int, int]:
        self._file.seek(number * _RECORD.size)
        offset, at = _RECORD.unpack(self._file.read(_RECORD.size))
        return offset, at

    def between(self, start: int, end: int) -> list[tuple[int, int]]:
        """List the records of a part of the log; that of its first byte begins before it."""
        first = max(0, bisect_right(self, start, key=_offset) - 1)
        last = bisect_left(self, end, lo=first, key=_offset)
        self._file.seek(first * _RECORD.size)
        return list(_RECORD.iter_unpack(self._file.read((last - first) * _RECORD.size)))

    def since(self, at: float) -> int | None:
        """Tell from which offset on the log came at a time (seconds since 1970) or later; None if nothing did."""
        number = bisect_left(self, at * 1000, key=lambda record: record[1])
        return self[number][0] if number < self._count else None


@contextmanager
def read_times(storage: Storage, key: str) -> Iterator[Times]:
    """Give the times of a log; none where nobody has written them down.

    :param key: the log's.
    """
    try:
        file = storage.open(times_key(key))
    except FileNotFoundError:
        file = io.BytesIO()
    with file:
        yield Times(file)


def _offset(record: tuple[int, int]) -> int:
    return record[0]
