"""Files and descriptors: read and written whole, in place, or piece by piece."""

import os

from cml_nova.remote.runner.errors import Refused

#: bytes that are read or written at a time
PIECE = 1 << 18


def read_text(path: str) -> str:
    """Give a small file's content, or nothing where it can't be read."""
    try:
        with open(path, "rb") as file:
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""


def write_file(path: str, data: bytes, mode: int = 0o600) -> None:
    """Write a file so that a reader sees all of it or none."""
    temporary = "%s.%d.new" % (path, os.getpid())
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            os.fchmod(file.fileno(), mode)
        os.rename(temporary, path)
    except OSError:
        os.unlink(temporary)
        raise


def overwrite(path: str, data: bytes, size: int) -> None:
    """Write a file of a fixed size in place, padded with spaces: one that is there takes no more room, and the disk may be full."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        write_all(fd, data.ljust(size))
    finally:
        os.close(fd)


def write_file_at(path: str, data: bytes) -> None:
    with open(path, "wb", 0) as file:
        file.write(data)


def modified(path: str) -> int:
    """Tell when a file was last written or touched, in nanoseconds by the node's clock; 0 if it is not there."""
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0


def write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view):]


def read_exactly(fd: int, size: int) -> bytes:
    parts = []
    while size:
        part = os.read(fd, min(size, PIECE))
        if not part:
            raise Refused("the files break off")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def close_fds(keep: tuple) -> None:
    """Close every descriptor above 2 but those; a child must not hold its parent's pipes and ports open."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) not in keep:
            try:
                os.close(int(name))
            except OSError:
                pass  # the one that listed the directory


def encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
