"""Looks into an uploaded package before it is kept: what a node unpacks must not reach outside its directory."""

from __future__ import annotations

import tarfile
import zlib
from pathlib import PurePosixPath
from typing import BinaryIO

from cml_nova import exception

_MAX_MEMBERS = 100_000
_KINDS = {
    tarfile.SYMTYPE: "a symbolic link", tarfile.LNKTYPE: "a hard link", tarfile.CHRTYPE: "a device", tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a named pipe",
}


def check_package(file: BinaryIO, max_unpacked: int) -> None:
    """Accept a tar archive, plain or compressed with gzip, of directories and regular files with relative paths.

    :param max_unpacked: largest total size of the unpacked files, in bytes.
    :raises BadRequest: names the member that is not allowed, or says that this is no such archive.
    :raises TooLarge: it would unpack to more.
    """
    file.seek(0)
    mode = "r|gz" if file.read(2) == b"\x1f\x8b" else "r|"
    file.seek(0)
    try:
        with tarfile.open(fileobj=file, mode=mode) as archive:  # type: ignore[call-overload]
            _check_members(archive, max_unpacked)
    except (tarfile.TarError, zlib.error, EOFError, ValueError, OSError) as error:
        raise exception.BadRequest(
            f"The package is not a tar archive, plain or compressed with gzip ({error}); make it with tar czf.") from None


def _check_members(archive: tarfile.TarFile, max_unpacked: int) -> None:
    total = count = 0
    for member in archive:
        count += 1
        total += member.size
        _check_member(member)
        if count > _MAX_MEMBERS:
            raise exception.TooLarge(f"The package has more than {_MAX_MEMBERS} members; pack data files together.")
        if total > max_unpacked:
            raise exception.TooLarge(
                f"The package unpacks to more than {max_unpacked} bytes ([api] max_package_unpacked_bytes); keep data elsewhere.")
    if not count:
        raise exception.BadRequest("The package is an empty archive; put the training code into it.")


def _check_member(member: tarfile.TarInfo) -> None:
    path = PurePosixPath(member.name)
    shown = repr(member.name[:200])
    if path.is_absolute():
        raise exception.BadRequest(f"The package has a member with an absolute path, {shown}; use paths relative to its root.")
    if ".." in path.parts:
        raise exception.BadRequest(f"The package has a member outside its root, {shown}; paths must not contain '..'.")
    if not (member.isreg() or member.isdir()):
        kind = _KINDS.get(member.type, "of a special kind")
        raise exception.BadRequest(
            f"The package's member {shown} is {kind}; only files and directories are allowed (tar --dereference packs links as files).")
    try:
        member.name.encode()
    except UnicodeEncodeError:
        raise exception.BadRequest(f"The package's member {member.name[:200]!a} has a name that is not UTF-8.") from None
