"""Snapshots: a directory's files as they were all at one time, held by hard links until the next one."""

import os
import time

from cml_nova.remote.runner.archive import pack_file
from cml_nova.remote.runner.errors import Refused
from cml_nova.remote.runner.files import read_text, write_all, write_file
from cml_nova.remote.runner.paths import check_name, inside
from cml_nova.remote.runner.serialization import from_json, to_json

#: seconds that a file which is open for writing must have rested, and that a snapshot waits for that
SETTLE, SETTLE_LIMIT = 1.0, 10.0


def list_files(top: str, most: int) -> list:
    """List the regular files below a directory as (path, size, mtime_ns, inode), sorted; one more than ``most`` at the utmost.

    What is unfinished by its name (``*.tmp``, ``.*``) is left out. A link to a file inside the directory counts as that file.
    """
    found: list = []
    real = os.path.realpath(top) + "/"
    for path, directories, files in os.walk(top):
        directories[:] = [name for name in directories if is_finished(name)]
        for name in filter(is_finished, files):
            full = os.path.join(path, name)
            try:
                status = os.stat(full)
            except OSError:
                continue  # it has vanished, or is a link to nothing
            if status.st_mode & 0o170000 == 0o100000 and (not os.path.islink(full) or os.path.realpath(full).startswith(real)):
                found.append((os.path.relpath(full, top), status.st_size, status.st_mtime_ns, status.st_ino))
                if len(found) > most:
                    return found
    return sorted(found)


def is_finished(name: str) -> bool:
    return not name.startswith(".") and not name.endswith(".tmp")


def snapshot(root: str, name: str, most: int, hold: bool, sink: int) -> None:
    """Write what files a directory has: a line with an id, then a line for each (JSON). Runs in a child of the session.

    :param most: of more files than that none is held.
    :param hold: hard links keep the files as they were all at one time, under this id, until the next snapshot or ``release``.
    :raises Refused: there is no such time, for files are being written all the while.
    """
    top, ident, limit = inside(root, name, "name"), os.urandom(16).hex(), time.monotonic() + SETTLE_LIMIT
    while True:
        files = list_files(top, most)
        if not hold or len(files) > most:
            break
        busy = being_written(top, files)
        if not busy:
            release(root)
            if hold_files(root, top, ident, files) and list_files(top, most) == files:
                break
        if time.monotonic() > limit:
            what = "%r is being written" % busy if busy else "files come and go"
            raise Refused("%s: %s all the time: write under a name that ends in .tmp, and rename at the end" % (name, what))
        time.sleep(0.1)
    lines = [to_json({"snapshot": ident}), *(to_json(file[:3]) for file in files)]
    write_all(sink, "".join(line + "\n" for line in lines).encode())


def being_written(top: str, files: list) -> str:
    """Name a file that was written to just now, and that a process has open for more; nothing if there is none.

    One that is open for long and rests, as a log may be, is taken as it is.
    """
    now = time.time()
    young = {inode: path for path, _, mtime_ns, inode in files if abs(now - mtime_ns / 1e9) < SETTLE}
    if not young:
        return ""
    device = os.stat(top).st_dev
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            fds = os.listdir("/proc/%s/fd" % pid)
        except OSError:
            continue  # it is gone, or another user's
        for fd in fds:
            try:
                status = os.stat("/proc/%s/fd/%s" % (pid, fd))
            except OSError:
                continue
            if status.st_dev == device and status.st_ino in young:
                flags = read_text("/proc/%s/fdinfo/%s" % (pid, fd)).partition("flags:")[2].split()
                if flags and int(flags[0], 8) & (os.O_WRONLY | os.O_RDWR):
                    return young[status.st_ino]
    return ""


def hold_files(root: str, top: str, ident: str, files: list) -> bool:
    """Link files into a directory of this id under their numbers; False if one has vanished meanwhile."""
    directory = os.path.join(root, "snapshots", ident)
    os.makedirs(directory)
    for number, file in enumerate(files):
        try:
            os.link(os.path.realpath(os.path.join(top, file[0])), os.path.join(directory, str(number)))
        except FileNotFoundError:
            return False
    write_file(os.path.join(directory, "list"), to_json(files).encode())
    return True


def pick(root: str, ident: str, ranges: list, sink: int) -> None:
    """Write files that a snapshot holds as a tar stream, under their numbers. Runs in a child of the session.

    :param ranges: [first, last] of the numbers.
    :raises Refused: one was written to in place since it was held.
    """
    directory = os.path.join(root, "snapshots", check_name(ident, "snapshot"))
    text = read_text(os.path.join(directory, "list"))
    if not text:
        raise Refused("the snapshot is gone: there is a newer one")
    files = from_json(text)
    for number in [number for first, last in ranges for number in range(first, last + 1)]:
        path, size, mtime_ns, _ = files[number]
        fd = os.open(os.path.join(directory, str(number)), os.O_RDONLY)
        try:
            before = os.fstat(fd)
            if (before.st_size, before.st_mtime_ns) == (size, mtime_ns):
                pack_file(sink, fd, before, str(number))
            after = os.fstat(fd)
        finally:
            os.close(fd)
        if (after.st_size, after.st_mtime_ns) != (size, mtime_ns):
            raise Refused("%r was written to while it was saved: write under a name that ends in .tmp, and rename at the end" % path)
    write_all(sink, b"\0" * 1024)


def release(root: str) -> None:
    """Let go of what is held. Runs in a child of the session."""
    import shutil
    shutil.rmtree(os.path.join(root, "snapshots"), ignore_errors=True)
