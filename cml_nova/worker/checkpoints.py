"""What is saved of a job's checkpoints: which files belong to it, and where they are in the storage.

``$CML_CHECKPOINT_DIR`` is one directory of the job that every node has a copy of. A file belongs to the node that wrote it, which is
where it differs from what was put there before the attempt. Each save has a prefix of its own, ``<generation>/<unique>``, for the
files that are new and a manifest that names them all; a save counts once the conductor has taken its id as the job's.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from cml_nova.remote import Snapshot
from cml_nova.storage import Storage
from cml_nova.storage.base import checkpoint_prefix

_MANIFEST = "manifest"
_PIECE = 1024 * 1024


@dataclass(frozen=True)
class File:
    """A file of a checkpoint: its size in bytes, its mtime on the node (ns), its place in the storage below the job's prefix."""

    size: int
    mtime_ns: int
    key: str

    @property
    def version(self) -> tuple[int, int]:
        """What tells it from another one of the same path."""
        return self.size, self.mtime_ns


Files = Mapping[str, File]


@dataclass(frozen=True)
class Checkpoint:
    """What a job's directory of checkpoints is.

    :ivar id: also its prefix in the storage; empty for what was never saved.
    :ivar attempt: the one that it was saved in.
    :ivar saved_at: seconds since 1970 by the worker's clock.
    :ivar base: what every node was given before that attempt, by path.
    :ivar written: what nodes have written since, by rank and path; no path twice.
    :ivar deleted: paths of ``base`` that nodes have deleted since, by rank.
    """

    id: str
    attempt: int
    saved_at: float
    base: Files = field(default_factory=dict)
    written: Mapping[int, Files] = field(default_factory=dict)
    deleted: Mapping[int, frozenset[str]] = field(default_factory=dict)

    @property
    def files(self) -> dict[str, File]:
        """All files of the directory. One that a node has deleted is gone, unless another has written it."""
        gone = frozenset[str]().union(*self.deleted.values())
        files = {path: file for path, file in self.base.items() if path not in gone}
        for of_node in self.written.values():
            files.update(of_node)
        return files

    def of_node(self, rank: int) -> dict[str, File]:
        """The files in one node's copy of the directory, as far as they are saved."""
        gone = self.deleted.get(rank, frozenset())
        return {**{path: file for path, file in self.base.items() if path not in gone}, **self.written.get(rank, {})}

    def for_attempt(self, attempt: int) -> Checkpoint:
        """Say what it is to an attempt: the same to the one that it was saved in, the base to a later one."""
        return self if attempt == self.attempt else Checkpoint("", attempt, self.saved_at, base=self.files)

    def summary(self) -> dict[str, Any]:
        """Give what the job's row says of it."""
        files = self.files
        return {"id": self.id, "attempt": self.attempt, "saved_at": self.saved_at, "files": len(files),
                "bytes": sum(file.size for file in files.values())}


@dataclass(frozen=True)
class Change:
    """What a save would make of a checkpoint.

    :ivar result: the new one; keys of files that are not in the storage yet are empty.
    :ivar wanted: these files, as numbers in the snapshots of their nodes, by rank.
    """

    result: Checkpoint
    wanted: Mapping[int, list[int]]


def compare(known: Checkpoint, snapshots: Mapping[int, Snapshot]) -> Change | None:
    """Work out what nodes have written since; None if nothing has changed.

    :param known: what is saved, ``for_attempt`` the nodes are at.
    :param snapshots: of the nodes that can be asked. What is known of the others stays.
    """
    written: dict[int, dict[str, File]] = {}
    wanted: dict[int, list[int]] = {}
    deleted = dict(known.deleted)
    taken = _Paths()
    for rank in sorted({*known.written, *snapshots}):
        before = known.written.get(rank, {})
        if rank not in snapshots:
            written[rank] = {path: file for path, file in before.items() if taken.take(path)}
            continue
        files = snapshots[rank].files
        deleted[rank] = frozenset(known.base).difference(file.path for file in files)
        written[rank], wanted[rank] = {}, []
        for number, file in enumerate(files):
            version = (file.size, file.mtime_ns)
            if file.path in known.base and known.base[file.path].version == version:
                continue
            if not taken.take(file.path):
                continue
            saved = before.get(file.path)
            if saved and saved.version == version:
                written[rank][file.path] = saved
            else:
                written[rank][file.path] = File(file.size, file.mtime_ns, "")
                wanted[rank].append(number)
    result = replace(known, written={rank: files for rank, files in written.items() if files},
                     deleted={rank: paths for rank, paths in deleted.items() if paths})
    return None if result == known else Change(result, {rank: numbers for rank, numbers in wanted.items() if numbers})


class _Paths:
    """Paths that have been taken by a node. The first takes it, and none may be a file where another is a directory."""

    def __init__(self) -> None:
        self._files: set[str] = set()
        self._directories: set[str] = set()

    def take(self, path: str) -> bool:
        parents = {path[:place] for place, sign in enumerate(path) if sign == "/"}
        if path in self._files or path in self._directories or not parents.isdisjoint(self._files):
            return False
        self._files.add(path)
        self._directories |= parents
        return True


class Store:
    """The checkpoints of a job in the storage.

    :param generation: of the worker that writes. A late one can't hurt what a later one has written.
    """

    def __init__(self, storage: Storage, job_id: str, generation: int) -> None:
        self._storage = storage
        self._prefix = checkpoint_prefix(job_id)
        self._generation = generation

    def new_id(self) -> str:
        """Make a prefix that nothing is below yet."""
        return f"{self._generation}/{uuid.uuid4().hex}"

    def put(self, key: str, pieces: Iterator[bytes]) -> int:
        """Store the content of a file; give its size."""
        return self._storage.put(f"{self._prefix}/{key}", pieces)

    def content(self, file: File) -> Iterator[bytes]:
        """Give the content of a file in pieces. :raises FileNotFoundError: it is not there."""
        with self._storage.open(f"{self._prefix}/{file.key}") as source:
            while piece := source.read(_PIECE):
                yield piece

    def save(self, checkpoint: Checkpoint) -> None:
        """Write the manifest, when all of the files are there."""
        self.put(f"{checkpoint.id}/{_MANIFEST}", iter([json.dumps(_document(checkpoint)).encode()]))

    def load(self, checkpoint_id: str) -> Checkpoint:
        """Read a manifest. :raises FileNotFoundError: there is none of this id."""
        with self._storage.open(f"{self._prefix}/{checkpoint_id}/{_MANIFEST}") as source:
            return _checkpoint(json.loads(source.read()))

    def prune(self, current: Checkpoint, is_over: Callable[[], bool]) -> None:
        """Delete what is not the current checkpoint's; what workers after this one have written stays.

        :param is_over: tells whether to leave the rest to the next time.
        """
        needed = {f"{current.id}/{_MANIFEST}"}
        needed.update(file.key for files in (current.base, *current.written.values()) for file in files.values())
        for entry in self._storage.list(self._prefix):
            key = entry.key.removeprefix(f"{self._prefix}/")
            if is_over():
                return
            if key not in needed and int(key.partition("/")[0]) <= self._generation:
                self._storage.delete(entry.key)


def _document(checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "id": checkpoint.id, "attempt": checkpoint.attempt, "saved_at": checkpoint.saved_at, "base": _table(checkpoint.base),
        "written": {rank: _table(files) for rank, files in checkpoint.written.items()},
        "deleted": {rank: sorted(paths) for rank, paths in checkpoint.deleted.items()},
    }


def _table(files: Files) -> dict[str, list[Any]]:
    return {path: [file.size, file.mtime_ns, file.key] for path, file in files.items()}


def _checkpoint(document: dict[str, Any]) -> Checkpoint:
    return Checkpoint(
        document["id"], document["attempt"], document["saved_at"], _files(document["base"]),
        {int(rank): _files(table) for rank, table in document["written"].items()},
        {int(rank): frozenset(paths) for rank, paths in document["deleted"].items()},
    )


def _files(table: dict[str, list[Any]]) -> dict[str, File]:
    return {path: File(*row) for path, row in table.items()}
