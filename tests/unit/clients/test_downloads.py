"""Artifacts on their way into files, over connections that break."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from keystoneauth1 import exceptions as ks_exceptions
from openstack import exceptions

from cml_nova.clients.sdk import downloads
from cml_nova.clients.sdk.patience import Patience
from tests.unit.clients.conftest import Clock

DATA = bytes(range(250)) * 4


class Response:
    """An answer that may end early: with an error, or as if that were all."""

    def __init__(self, data: bytes, status: int, etag: str, breaks: str) -> None:
        self.status_code, self.headers = status, {"Content-Length": str(len(data)), "ETag": etag}
        self._data, self._breaks = data, breaks

    def __enter__(self) -> Response:
        return self

    def __exit__(self, *args: object) -> None:
        pass

    def iter_content(self, size: int) -> Iterator[bytes]:
        if self._breaks:
            yield from (self._data[:300], self._data[300:400])
            if self._breaks == "loudly":
                raise requests.exceptions.ChunkedEncodingError("broke off")
        else:
            yield self._data


class Client:
    """Answers as it is told: "", "loudly", "quietly", or an error."""

    def __init__(self, *answers: Any, ranges: bool = True) -> None:
        self._answers = list(answers)
        self._ranges = ranges
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.data, self.etag = DATA, "one"

    def get(self, url: str, headers: dict[str, str], **more: Any) -> Response:
        self.asked.append((url, headers))
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        if self._ranges and headers.get("If-Range") == self.etag:
            begin = int(headers["Range"].removeprefix("bytes=").removesuffix("-"))
            return Response(self.data[begin:], 206, self.etag, answer)
        return Response(self.data, 200, self.etag, answer)


def fetch(client: Client, target: Path) -> Path:
    return downloads.download(client, "j", "output/worker-0/a b#.bin", target, Patience(20), None)


def test_broken_connections_are_made_again_and_the_transfer_goes_on(clock: Clock, tmp_path: Path) -> None:
    client = Client(ks_exceptions.ConnectFailure(), "loudly", "quietly", ks_exceptions.ServiceUnavailable(), "")
    target = fetch(client, tmp_path / "x")
    assert target.read_bytes() == DATA
    assert [headers.get("Range") for _, headers in client.asked] == [None, None, "bytes=400-", "bytes=800-", "bytes=800-"]
    assert {url for url, _ in client.asked} == {"/jobs/j/artifacts/output/worker-0/a%20b%23.bin"}
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("ranges", [True, False])
def test_file_that_is_another_one_meanwhile_is_fetched_from_its_start(clock: Clock, tmp_path: Path, ranges: bool) -> None:
    client = Client("quietly", "", ranges=ranges)
    get = client.get

    def change(url: str, **more: Any) -> Response:
        if client.asked:
            client.data, client.etag = b"new" * 100, "two"
        return get(url, **more)

    client.get = change  # type: ignore[method-assign]
    assert fetch(client, tmp_path / "x").read_bytes() == b"new" * 100


@pytest.mark.parametrize("error", [ks_exceptions.ConnectFailure(), exceptions.HttpException("no"), KeyboardInterrupt()])
def test_file_appears_whole_or_not_at_all(clock: Clock, tmp_path: Path, error: BaseException) -> None:
    (tmp_path / "x").write_bytes(b"old")
    client = Client()
    client.get = lambda url, **more: (_ for _ in ()).throw(error)  # type: ignore[method-assign]
    with pytest.raises(type(error)):
        fetch(client, tmp_path / "x")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"x": b"old"}


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../../x", "", ".", "link/x", "a\0b"])
def test_no_path_leaves_the_directory(tmp_path: Path, path: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to(tmp_path)
    with pytest.raises(downloads.UnsafePathError):
        downloads.place(root, path)


def test_usual_paths_stay_as_they_are(tmp_path: Path) -> None:
    assert downloads.place(tmp_path, "output/worker-0/..model/a b") == tmp_path.resolve() / "output/worker-0/..model/a b"
