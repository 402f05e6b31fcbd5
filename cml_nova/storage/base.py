"""The interface of a storage driver, and the names under which things are kept."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from oslo_config import cfg
from stevedore import driver
from stevedore.exception import NoMatches

from cml_nova import exception


@dataclass(frozen=True)
class Entry:
    """A stored object: its key, size in bytes, time of last change in seconds since 1970 UTC."""

    key: str
    size: int
    modified_at: float


class Storage(abc.ABC):
    """Objects under slash-separated keys. Keys never contain empty, '.' or '..' parts (ValueError)."""

    @abc.abstractmethod
    def put(self, key: str, pieces: Iterable[bytes]) -> int:
        """Store an object whole, replacing what was there, seen by readers only when complete; give its size."""

    @abc.abstractmethod
    def open(self, key: str) -> BinaryIO:
        """Open an object for reading. :raises FileNotFoundError: there is none."""

    @abc.abstractmethod
    def stat(self, key: str) -> Entry | None:
        """Size and time of an object, or None if there is none."""

    def size(self, key: str) -> int | None:
        """Size in bytes, or None if there is no such object."""
        entry = self.stat(key)
        return None if entry is None else entry.size

    @abc.abstractmethod
    def write_at(self, key: str, offset: int, data: bytes) -> None:
        """Write a piece of a growing object.

        The same piece written twice is the same as once, so a log needs no other record of how far it was saved.

        :raises ValueError: ``offset`` lies behind the object's end (a gap would appear).
        """

    @abc.abstractmethod
    def read(self, key: str, offset: int, limit: int) -> bytes:
        """Read up to ``limit`` bytes from ``offset``; empty at the end and where there is no such object."""

    @abc.abstractmethod
    def list(self, prefix: str) -> Iterator[Entry]:
        """List objects below ``prefix/``, sorted by key."""

    @abc.abstractmethod
    def delete(self, prefix: str) -> None:
        """Delete the object ``prefix`` and all below ``prefix/``; nothing there is fine."""


def get_storage(conf: cfg.ConfigOpts) -> Storage:
    """Make the driver that ``[storage] driver`` names.

    :raises ConfigurationError: there is no such driver, or it can't work where it is to.
    """
    options = conf.storage
    try:
        return driver.DriverManager("cml_nova.storage", options.driver, invoke_on_load=True, invoke_args=(conf,)).driver
    except NoMatches:
        raise exception.ConfigurationError(f"[storage] driver: there is no {options.driver}; file keeps everything below path") from None
    except OSError as error:
        raise exception.ConfigurationError(
            f"[storage] path {options.path}: {error.filename}: {error.strerror}; everything below it must belong to the service's user"
        ) from error


def package_key(project_id: str, sha256: str) -> str:
    """Key of a training package."""
    return f"packages/{project_id}/{sha256}"


def log_key(job_id: str, attempt: int, task: str) -> str:
    """Key of a task's log; attempt 0 is the setup command's."""
    return f"jobs/{job_id}/logs/{attempt}/{task.replace(':', '-')}"


def times_key(key: str) -> str:
    """Key of what is known of when the parts of a log came; see ``storage.times``.

    :param key: the log's.
    """
    return f"{key}.times"


def artifact_prefix(job_id: str) -> str:
    """Prefix of a job's outputs; the next part is the task's name with '-' for ':'."""
    return f"jobs/{job_id}/artifacts"


def checkpoint_prefix(job_id: str) -> str:
    """Prefix of what is saved of a job's checkpoints while it runs; see ``worker.checkpoints``."""
    return f"jobs/{job_id}/checkpoints"


def job_prefix(job_id: str) -> str:
    """Prefix of everything that is kept of a job."""
    return f"jobs/{job_id}"
