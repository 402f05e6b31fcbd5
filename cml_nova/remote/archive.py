"""Archives on their way: what a node sends, written by a machine that a tenant controls, so nothing in it is trusted; and packages,
which nodes get in a form that the runner unpacks without a library."""

from __future__ import annotations

import hashlib
import json
import os.path
import struct
import tarfile
from collections.abc import Iterable, Iterator

from cml_nova import exception
from cml_nova.remote.runner.archive import too_many_files

_PIECE = 1024 * 1024
_BLOCK = 64 * 1024
_BROKEN = (tarfile.TarError, ValueError, EOFError)  # tarfile lets the second out for some malformed numbers
_LONGEST_PATH = 1024
_MEMBER_COST = 1024  # what a member counts beside its size: so that endless empty ones meet the limit too


class _Stream:
    """A file to read from, made of pieces as they come."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self._rest = memoryview(b"")

    def read(self, size: int) -> bytes:
        if size > _PIECE:  # only a header's extension asks for so much, and tarfile would hold all of it in memory
            raise tarfile.ReadError(f"a header of {size} bytes")
        parts = []
        while size:
            if not self._rest:
                piece = next(self._pieces, None)
                if piece is None:
                    break
                self._rest = memoryview(piece)
            part, self._rest = self._rest[:size], self._rest[size:]
            parts.append(part)
            size -= len(part)
        return b"".join(parts)


def unpack(pieces: Iterable[bytes], limit: int, most_files: int) -> Iterator[tuple[str, int, Iterator[bytes]]]:
    """Give path, size in bytes and content of each regular file in a tar stream; the content must be taken before the next file.

    Links, devices and whatever else is no regular file are left out: they may point anywhere.

    :param limit: most bytes of all files together; each member counts 1024 more.
    :param most_files: how many members there may be.
    :raises NodeCommandFailed: a path leads out of the archive, the files are too large or too many, or the stream is no tar.
    """
    total = 0
    try:
        with tarfile.open(fileobj=_Stream(pieces), mode="r|", bufsize=_BLOCK, errorlevel=1) as archive:  # type: ignore[call-overload]
            for number, member in enumerate(archive):
                if number >= most_files:
                    raise exception.NodeCommandFailed(too_many_files(most_files))
                archive.members = []  # it keeps all that it has read
                total += member.size + _MEMBER_COST
                if total > limit:
                    raise exception.NodeCommandFailed(f"The files are more than {limit} bytes together, the most that is taken of a node.")
                if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.issparse():
                    continue
                yield checked_path(member.name), member.size, _content(archive, member)
    except _BROKEN as error:
        raise exception.NodeCommandFailed(f"The node sent no proper archive: {error}.") from error


def checked_path(name: str) -> str:
    """Give a relative path that a node sent in its plain form.

    :raises NodeCommandFailed: it leads out of where it belongs, is too long, or has signs that can't be printed.
    """
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
        raise exception.NodeCommandFailed(f"The archive breaks off within {member.name!r}: {error}.") from error


def gathered(pieces: Iterable[bytes], size: int) -> Iterator[bytes]:
    """Give the same bytes in pieces of ``size``, the last one smaller: a package of many small files is no matter of many frames."""
    stream = _Stream(pieces)
    while piece := stream.read(size):
        yield piece


def members(package: Iterable[bytes], digest: str | None) -> Iterator[bytes]:
    """Turn a package, a tar stream compressed or not, into what ``runner.archive.unpack`` takes.

    :param digest: sha256 (hex) that the stream must have; None for any.
    :raises NodeCommandFailed: it has another one, is no good tar archive, or has something else in it than files, directories and
        symbolic links below its top.
    """
    total = hashlib.sha256()

    def summed() -> Iterator[bytes]:
        for piece in package:
            total.update(piece)
            yield piece

    stream = _Stream(summed())
    try:
        with tarfile.open(fileobj=stream, mode="r|*", bufsize=_BLOCK, errorlevel=1) as archive:  # type: ignore[call-overload]
            for member in archive:
                yield _header(member)
                if member.isreg():
                    yield from _content(archive, member)
    except _BROKEN as error:
        raise exception.NodeCommandFailed(f"The package is not a good tar archive: {error}.") from error
    while stream.read(_BLOCK):
        pass
    if digest and total.hexdigest() != digest:
        raise exception.NodeCommandFailed(f"The package that arrived has another sha256 than {digest}.")
    yield struct.pack(">I", 0)


def _header(member: tarfile.TarInfo) -> bytes:
    name = os.path.normpath(member.name)
    if name.startswith(("/", "..")):
        raise exception.NodeCommandFailed(f"{member.name!r}: leads out of the package's directory.")
    kinds = {tarfile.REGTYPE: "file", tarfile.AREGTYPE: "file", tarfile.CONTTYPE: "file", tarfile.DIRTYPE: "directory",
             tarfile.SYMTYPE: "link"}
    if member.type not in kinds or member.issparse():
        raise exception.NodeCommandFailed(f"{member.name!r}: only files, directories and symbolic links are unpacked.")
    document = {"type": kinds[member.type], "name": name, "size": member.size, "mode": member.mode,
                "mtime_ns": int(member.mtime * 10**9), "target": member.linkname}
    return _framed(document)


def _framed(document: dict[str, object]) -> bytes:
    data = json.dumps(document).encode()
    return struct.pack(">I", len(data)) + data


def bundle(files: Iterable[tuple[str, int, int, Iterable[bytes]]]) -> Iterator[bytes]:
    """Turn files (path, size in bytes, mtime in ns, content) into what ``runner.archive.unpack`` takes.

    :raises ValueError: a content has not the size.
    """
    for path, size, mtime_ns, pieces in files:
        yield _framed({"type": "file", "name": path, "size": size, "mode": 0o644, "mtime_ns": mtime_ns})
        left = size
        for piece in pieces:
            left -= len(piece)
            yield piece
        if left:
            raise ValueError(f"{path!r} has {size - left} bytes instead of {size}")
    yield struct.pack(">I", 0)
