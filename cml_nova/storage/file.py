"""Storage in a directory; several hosts share it by a network file system."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, TypeVar

from oslo_config import cfg

from cml_nova.storage.base import Entry, Storage

T = TypeVar("T")

#: where objects are written until they are complete; no key can name it, since keys are stored under "objects"
_INCOMING = "incoming"
_OBJECTS = "objects"


class FileStorage(Storage):
    """Each object is a file below ``[storage] path``/objects; directories and files are for the service's user only."""

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        self._root = Path(conf.storage.path) / _OBJECTS
        self._incoming = Path(conf.storage.path) / _INCOMING
        for directory in (self._root, self._incoming):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def put(self, key: str, pieces: Iterable[bytes]) -> int:
        target = self._path(key)
        size = 0
        with tempfile.NamedTemporaryFile(dir=self._incoming, delete=False) as file:
            try:
                for piece in pieces:
                    size += file.write(piece)
                file.flush()
                os.fsync(file.fileno())
                _in_directory(target, lambda: os.replace(file.name, target))
            except BaseException:
                with suppress(FileNotFoundError):
                    os.unlink(file.name)
                raise
        return size

    def open(self, key: str) -> BinaryIO:
        path = self._path(key)
        try:
            return path.open("rb")
        except (IsADirectoryError, NotADirectoryError):
            raise FileNotFoundError(key) from None

    def stat(self, key: str) -> Entry | None:
        path = self._path(key)
        try:
            status = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return Entry(key, status.st_size, status.st_mtime) if stat.S_ISREG(status.st_mode) else None

    def write_at(self, key: str, offset: int, data: bytes) -> None:
        path = self._path(key)
        fd = _in_directory(path, lambda: os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
        with os.fdopen(fd, "wb") as file:
            end = os.fstat(fd).st_size
            if offset > end:
                raise ValueError(f"{key} ends at {end}: a piece at {offset} would leave a gap")
            file.seek(offset)
            file.write(data)

    def read(self, key: str, offset: int, limit: int) -> bytes:
        try:
            with self.open(key) as file:
                file.seek(offset)
                return file.read(limit)
        except FileNotFoundError:
            return b""

    def list(self, prefix: str) -> Iterator[Entry]:
        top = self._path(prefix)
        found = []
        for directory, _, names in os.walk(top):
            for name in names:
                path = Path(directory, name)
                with suppress(FileNotFoundError):
                    status = path.stat()
                    found.append(Entry(f"{prefix}/{path.relative_to(top).as_posix()}", status.st_size, status.st_mtime))
        return iter(sorted(found, key=lambda entry: entry.key))

    def delete(self, prefix: str) -> None:
        path = self._path(prefix)
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=False, onerror=_unless_gone)
        else:
            path.unlink(missing_ok=True)
        self._prune(path.parent)

    def _path(self, key: str) -> Path:
        parts = key.split("/")
        if any(part in ("", ".", "..") or "\0" in part for part in parts):
            raise ValueError(f"{key!r} is not a storage key")
        return self._root.joinpath(*parts)

    def _prune(self, directory: Path) -> None:
        """Remove directories that became empty, so that nothing remains of what is deleted."""
        while directory != self._root:
            try:
                directory.rmdir()
            except OSError:
                return
            directory = directory.parent


def _in_directory(path: Path, action: Callable[[], T]) -> T:
    """Do something in the path's directory, made before; once more each time a delete takes it away in between."""
    while True:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            return action()
        except FileNotFoundError:
            if path.parent.is_dir():
                raise


def _unless_gone(function: object, path: str, error: tuple[type[BaseException], BaseException, object]) -> None:
    """Let rmtree go on where somebody else has removed a file already."""
    if not isinstance(error[1], FileNotFoundError):
        raise error[1]
