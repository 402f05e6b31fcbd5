"""Unpacks what a node sends: a tar stream written by a machine that a tenant controls, so nothing in it is trusted."""

from __future__ import annotations

import tarfile
from collections.abc import Iterable, Iterator

from cml_nova import exception

_PIECE = 1024 * 1024
_BLOCK = 64 * 1024
_BROKEN = (tarfile.TarError, ValueError, EOFError)  # tarfile lets the second out for some malformed numbers
_LONGEST_PATH = 1024
_MEMBER_COST = 1024  # what a member counts beside its size: so that endless empty ones meet the limit too


class _Stream:
    """A file to read from, made of pieces as they come."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self._rest = b""

    def read(self, size: int) -> bytes:
        if size > _PIECE:  # only a header's extension asks for so much, and tarfile would hold all of it in memory
            raise tarfile.ReadError(f"a header of {size} bytes")
        parts, have = [self._rest], len(self._rest)
        while have < size:
            piece = next(self._pieces, None)
            if piece is None:
                break
            parts.append(piece)
            have += len(piece)
        data = b"".join(parts)
        self._rest = data[size:]
        return data[:size]


def unpack(pieces: Iterable[bytes], limit: int) -> Iterator[tuple[str, int, Iterator[bytes]]]:
    """Give path, size in bytes and content of each regular file in a tar stream; the content must be taken before the next file.

    Links, devices and whatever else is no regular file are left out: they may point anywhere.

    :param limit: most bytes of all files together; each member counts 1024 more.
    :raises NodeCommandFailed: a path leads out of the archive, the files are too large, or the stream is no tar.
    """
    total = 0
    try:
        with tarfile.open(fileobj=_Stream(pieces), mode="r|", bufsize=_BLOCK, errorlevel=1) as archive:  # type: ignore[call-overload]
            for member in archive:
                total += member.size + _MEMBER_COST
                if total > limit:
                    raise exception.NodeCommandFailed(f"The files are more than {limit} bytes together, the most that is taken of a node.")
                if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.issparse():
                    continue
                yield _checked(member.name), member.size, _content(archive, member)
    except _BROKEN as error:
        raise exception.NodeCommandFailed(f"The node sent no proper archive: {error}.") from error


def _checked(name: str) -> str:
    parts = [part for part in name.split("/") if part != "."]
    if not parts or any(part in ("", "..") for part in parts) or len(name) > _LONGEST_PATH or not name.isprintable():
        raise exception.NodeCommandFailed(f"The node sent a file under the name {name[:100]!r}, which is not allowed.")
    return "/".join(parts)


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> Iterator[bytes]:
    file = archive.extractfile(member)
    assert file is not None  # it is a regular file
    try:
        while piece := file.read(_PIECE):
            yield piece
    except _BROKEN as error:
        raise exception.NodeCommandFailed(f"The node's archive breaks off within {member.name!r}: {error}.") from error
