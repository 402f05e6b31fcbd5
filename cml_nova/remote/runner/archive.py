"""Directories on their way: what a worker sends is unpacked, what it fetches goes as a tar stream; all in children of the session."""

import os
import struct

from cml_nova.remote.runner.errors import Refused
from cml_nova.remote.runner.fencing import Change
from cml_nova.remote.runner.files import PIECE, encode, read_exactly, write_all, write_file
from cml_nova.remote.runner.paths import digest_file, inside
from cml_nova.remote.runner.serialization import from_json
from cml_nova.remote.runner.tasks import attempts


def unpack(root: str, generation: int, name: str, digest: "str | None", before: "int | None", source: int) -> None:
    """Unpack what the worker sends beside its place, then put it there in one step; runs in a child of the session.

    Each member comes as a big-endian 32-bit length, a JSON object of that length, and its content; a length of 0 is the end. No
    archive that needs a library: importing one takes longer than unpacking the code of most jobs.

    :param before: the attempt that is to find it there; None for any time.
    :raises Refused: that attempt has begun already: whoever sends this is late.
    """
    target, mark = inside(root, name, "name"), digest_file(root, name)
    fresh, old = "%s.%d.new" % (target, os.getpid()), "%s.%d.old" % (target, os.getpid())
    os.makedirs(fresh)
    try:
        while True:
            size = struct.unpack(">I", read_exactly(source, 4))[0]
            if not size:
                break
            unpack_member(source, from_json(read_exactly(source, size).decode()), fresh)
        with Change(root, generation):
            if before is not None and attempts(root)[-1:] >= [before]:
                raise Refused("attempt %d has begun without this" % before)
            if os.path.exists(mark):
                os.unlink(mark)
            if os.path.lexists(target):
                os.rename(target, old)
            os.rename(fresh, target)
            if digest:
                write_file(mark, digest.encode())
    finally:
        for leftover in (fresh, old):
            if os.path.lexists(leftover):
                import shutil
                shutil.rmtree(leftover, ignore_errors=True)


def unpack_member(source: int, member: dict, directory: str) -> None:
    """Unpack files, directories, and links that stay inside; refuse everything else."""
    kind, name = member["type"], os.path.normpath(member["name"])
    if name == ".":
        return
    if name.startswith(("/", "..")):
        raise Refused("%r: leads out of the archive's directory" % member["name"])
    path = os.path.join(directory, name)
    parent = os.path.realpath(os.path.dirname(path))
    if (parent + "/").startswith(os.path.realpath(directory) + "/") is False:
        raise Refused("%r: leads out of the archive's directory" % member["name"])
    os.makedirs(parent, exist_ok=True)
    if kind == "directory":
        os.makedirs(path, exist_ok=True)
    elif kind == "file":
        if os.path.lexists(path):
            os.unlink(path)
        left = member["size"]
        with open(path, "wb", 0) as file:
            while left:
                piece = read_exactly(source, min(left, PIECE))
                write_all(file.fileno(), piece)
                left -= len(piece)
        os.chmod(path, member["mode"] & 0o755 | 0o600)
        os.utime(path, ns=(member["mtime_ns"], member["mtime_ns"]))
    elif kind == "link":
        inner = os.path.realpath(os.path.join(parent, member["target"]))
        if os.path.isabs(member["target"]) or not inner.startswith(os.path.realpath(directory) + "/"):
            raise Refused("%r: links to %r outside of the archive" % (member["name"], member["target"]))
        os.symlink(member["target"], path)
    else:
        raise Refused("%r: only files, directories and symbolic links are unpacked" % member["name"])


def pack(root: str, name: str, most_files: int, sink: int) -> None:
    """Write a directory as a tar stream; files that change or vanish meanwhile do no harm. Runs in a child of the session.

    A symbolic link to a file inside the directory goes as a copy of that file, any other link or special file is left out.
    """
    top = inside(root, name, "name")
    check_number_of_files(top, most_files)
    real = os.path.realpath(top) + "/"
    for path, directories, files in os.walk(top):
        directories.sort()
        for file in sorted(files):
            full = os.path.join(path, file)
            if os.path.islink(full) and not os.path.realpath(full).startswith(real):
                continue
            try:
                fd = os.open(full, os.O_RDONLY | os.O_NONBLOCK)
            except OSError:
                continue  # it has vanished, or is not ours to read
            try:
                status = os.fstat(fd)
                if status.st_mode & 0o170000 == 0o100000:
                    pack_file(sink, fd, status, os.path.relpath(full, top))
            finally:
                os.close(fd)
    write_all(sink, b"\0" * 1024)


def too_many_files(most: int) -> str:
    return ("there are more than %d files, which is the most that is brought back of a node's directory ([remote] max_output_files); "
            "put many small files into one archive" % most)


def check_number_of_files(top: str, most: int) -> None:
    """:raises Refused: there are more files than may be brought back; said before the first one goes over the wire."""
    found = 0
    for _, _, files in os.walk(top):
        found += len(files)
        if found > most:
            raise Refused(too_many_files(most))


def tar_header(name: str, size: int, mtime: int, mode: int) -> bytes:
    """Give a file's header in a tar archive: by hand where that is simple, which spares the import of a large library."""
    encoded = encode(name)
    if len(encoded) < 100 and name.isprintable() and 0 <= size < 8 ** 11 and 0 <= mtime < 8 ** 11:
        head = b"%b%07o\0%07o\0%07o\0%011o\0%011o\0" % (encoded.ljust(100, b"\0"), mode, 0, 0, size, mtime)
        tail = (b"0" + bytes(100) + b"ustar\x0000").ljust(512 - 156, b"\0")
        return head + b"%06o\0 " % (sum(head + tail) + 8 * 32) + tail
    import tarfile
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode = size, mtime, mode
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def pack_file(sink: int, fd: int, status: os.stat_result, name: str) -> None:
    write_all(sink, tar_header(name, status.st_size, int(status.st_mtime), status.st_mode & 0o777))
    left = status.st_size
    while left:
        piece = os.read(fd, min(left, PIECE)) or b"\0" * min(left, PIECE)  # the file shrank: the header has promised the size
        write_all(sink, piece)
        left -= len(piece)
    write_all(sink, b"\0" * (-status.st_size % 512))
