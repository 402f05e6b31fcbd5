"""The processes of the local cloud and its machines, as the host sees them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


def processes(cloud_directory: Path) -> list[str]:
    """List the processes whose home is inside the cloud's state directory: process id and command line."""
    mark = f"HOME={cloud_directory}/".encode()
    return _find(lambda entry: mark in (entry / "environ").read_bytes())


def started_with(argument: Path) -> list[str]:
    """List the processes whose command line names a path or something below it: process id and command line."""
    mark = str(argument).encode()
    return _find(lambda entry: mark in (entry / "cmdline").read_bytes())


def _find(wanted: Callable[[Path], bool]) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if wanted(entry):
                found.append(f"{entry.name} {(entry / 'cmdline').read_bytes().replace(bytes(1), b' ').decode(errors='replace')}")
        except OSError:
            continue  # it has ended, or is another user's
    return found


def alive(pid: int) -> bool:
    """Tell whether a process runs (a zombie does not)."""
    try:
        return _fields(pid)[0] not in ("Z", "X")
    except OSError:
        return False


def supervisor(pid: int) -> int:
    """Give the process of the runner that watches over a process of a job: the nearest one above it that is not the job's own.

    :raises ProcessLookupError: one of them has ended.
    """
    try:
        while b"\0CML_UNIT=" in (environ := b"\0" + Path(f"/proc/{pid}/environ").read_bytes()):
            pid = int(_fields(pid)[1])
    except OSError as error:
        raise ProcessLookupError(pid) from error
    if b"\0CML_LOCALCLOUD_GUEST=" not in environ:
        raise ProcessLookupError(f"{pid} is none of a machine's: what was below it has lost its parent")
    return pid


def sessions(home: str) -> list[int]:
    """List the processes of the runner on a machine that talk to workers: each leads a session, as what SSH starts does."""
    mark = f"\0HOME={home}\0".encode()
    pids = [int(found.partition(" ")[0]) for found in _find(lambda entry: mark in b"\0" + (entry / "environ").read_bytes()
                                                            and b"\0-IS\0" in (entry / "cmdline").read_bytes()
                                                            and _fields(int(entry.name))[3] == entry.name)]
    return sorted(pids)


def users(path: Path) -> list[int]:
    """List the processes that have a file open."""
    found = _find(lambda entry: any(fd.readlink() == path for fd in (entry / "fd").iterdir()))
    return [int(process.partition(" ")[0]) for process in found]


def _fields(pid: int) -> list[str]:
    """Give what ``/proc`` says of a process after its name: state, parent, group, session and so on."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
