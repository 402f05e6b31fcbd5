"""What a node holds of a directory: read from what it sends, nothing of which is trusted."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from cml_nova import exception
from cml_nova.remote import archive

#: most bytes of a line of a list: a path of 1024 signs, each of which JSON may write in twelve, and two numbers
_LINE = 16 * 1024
_MTIME_MAX = 1 << 63


@dataclass(frozen=True)
class HeldFile:
    """A file on a node: path below the directory, size in bytes, time of its last change in ns since 1970 by the node's clock."""

    path: str
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class Snapshot:
    """The files of a directory at one time; ``id`` is the node's name for it."""

    id: str
    files: Sequence[HeldFile]


def parse(pieces: Iterable[bytes], most: int) -> Snapshot:
    """Read a list of files, at most ``most`` and one more.

    :raises NodeCommandFailed: it is none, or names a path that is not allowed.
    """
    lines = _lines(pieces, most + 2)
    head = _json(next(lines, b""))
    ident = head.get("snapshot") if isinstance(head, dict) else None
    if not isinstance(ident, str) or len(ident) > 64:
        raise _no_list()
    files = [_file(_json(line)) for line in lines]
    if len({file.path for file in files}) < len(files):
        raise exception.NodeCommandFailed("The node sent a list that names a file twice.")
    return Snapshot(ident, files)


def _lines(pieces: Iterable[bytes], most: int) -> Iterator[bytes]:
    begun, count = b"", 0
    for piece in pieces:
        *whole, begun = (begun + piece).split(b"\n")
        count += len(whole)
        if count > most or len(begun) > _LINE:
            raise exception.NodeCommandFailed("The node sent a longer list of files than it was asked for.")
        yield from whole
    if begun:
        raise _no_list()


def _json(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        raise _no_list() from None


def _file(item: Any) -> HeldFile:
    if not isinstance(item, list) or [type(value) for value in item] != [str, int, int]:
        raise _no_list()
    path, size, mtime_ns = item
    if not 0 <= size < 1 << 60 or not -_MTIME_MAX <= mtime_ns < _MTIME_MAX:
        raise _no_list()
    return HeldFile(archive.checked_path(path), size, mtime_ns)


def _no_list() -> exception.NodeCommandFailed:
    return exception.NodeCommandFailed("The node sent something that is no list of files.")


def ranges(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Write ascending numbers as ranges (first, last)."""
    found: list[tuple[int, int]] = []
    for number in numbers:
        if found and found[-1][1] == number - 1:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return found


def picked(pieces: Iterable[bytes], snapshot: Snapshot, numbers: Sequence[int]) -> Iterator[tuple[int, Iterator[bytes]]]:
    """Read a tar stream of files of a snapshot that are named by their numbers; each content must be taken before the next.

    :raises NodeCommandFailed: these are not the files, each of its size.
    """
    due = iter(numbers)
    # The archive's own limit counts 1024 bytes for each member beside its content.
    limit = sum(snapshot.files[number].size + 1024 for number in numbers)
    for name, size, content in archive.unpack(pieces, limit, most_files=len(numbers)):
        number = next(due, None)
        if number is None or name != str(number) or size != snapshot.files[number].size:
            raise exception.NodeCommandFailed("The node sent other files than it was asked for.")
        yield number, content
    if next(due, None) is not None:
        raise exception.NodeCommandFailed("The node sent fewer files than it was asked for.")
