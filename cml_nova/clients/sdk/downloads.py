"""Brings artifacts into files: whole or not at all, through broken connections, and never outside of the directory that was named."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO
from urllib.parse import quote

import requests
from openstack import exceptions

from cml_nova.clients.sdk.patience import Patience, passing

_PIECE = 1 << 16
#: seconds without a byte after which a connection counts as broken
_SILENCE = 60


class UnsafePathError(Exception):
    """The service named a file that would be outside of the directory."""


def place(directory: str | os.PathLike[str], path: str) -> Path:
    """Give the file that an artifact becomes below a directory; its name comes from the job's machines, so it is not trusted.

    :raises UnsafePathError: it would be elsewhere, also by a link that is there already.
    """
    root = Path(directory).resolve()
    parts = PurePosixPath(path).parts
    target = root.joinpath(*parts)
    if not parts or ".." in parts or "\0" in path or not target.parent.resolve().is_relative_to(root):
        raise UnsafePathError(f"The artifact {path!r} would be outside of {directory}; it is not downloaded.")
    return target


def download(client: Any, job_id: str, path: str, file: str | os.PathLike[str], patience: Patience,
             callback: Callable[[int, int], None] | None) -> Path:
    """Write an artifact into a file; see ``Proxy.download_artifact``."""
    target = Path(file)
    with _replacing(target) as output:
        transfer = _Transfer(client, f"/jobs/{job_id}/artifacts/{quote(path)}", output, callback or (lambda done, size: None))
        while not patience.call(transfer.go_on):
            pass
    return target


@contextlib.contextmanager
def _replacing(target: Path) -> Iterator[BinaryIO]:
    """Give a file beside the target that takes its place at the end, and is gone if there is an error."""
    partial = target.with_name(f".{target.name[:100]}.{uuid.uuid4().hex}.part")
    try:
        with partial.open("xb") as output:
            yield output
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


class _Transfer:
    """A file on its way: how much of it is there, of how much."""

    def __init__(self, client: Any, url: str, output: BinaryIO, callback: Callable[[int, int], None]) -> None:
        self._client = client
        self._url = url
        self._output = output
        self._callback = callback
        self._done = 0
        self._etag: str | None = None

    def go_on(self) -> bool:
        """Fetch what is missing; tell whether all is there. An error is raised only if nothing was gained."""
        before = self._done
        try:
            return self._fetch()
        except Exception as error:
            if self._done <= before or not passing(error):
                raise
            return False

    def _fetch(self) -> bool:
        headers = {"Range": f"bytes={self._done}-", "If-Range": self._etag} if self._done and self._etag else {}
        with self._client.get(self._url, headers=headers, stream=True, timeout=_SILENCE, skip_cache=True) as response:
            exceptions.raise_from_response(response)
            if response.status_code != 206:
                self._begin_anew()
            self._etag = response.headers.get("ETag")
            size = self._done + int(response.headers["Content-Length"])
            for piece in response.iter_content(_PIECE):
                self._output.write(piece)
                self._done += len(piece)
                self._callback(self._done, size)
        if self._done != size:  # some versions of urllib3 take a broken connection for the end
            raise requests.exceptions.ConnectionError(f"The connection broke off after {self._done} of {size} bytes.")
        return True

    def _begin_anew(self) -> None:
        self._done = 0
        self._output.seek(0)
        self._output.truncate()
