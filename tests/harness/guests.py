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
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] not in ("Z", "X")
