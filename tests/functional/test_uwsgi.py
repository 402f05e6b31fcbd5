"""The API under uWSGI, with the file that operators use: bodies of all kinds, and how it ends."""

from __future__ import annotations

import hashlib
import io
import os
import socket
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.harness.process import Daemon, free_port
from tests.harness.service import UWSGI_INI
from tests.harness.waiting import until

WHO = {"X-User-Id": "ann", "X-Project-Id": "red", "X-Roles": "member", "Content-Type": "application/gzip"}


def archive(size: int) -> bytes:
    """Make a package of this many bytes that nothing can compress."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        info = tarfile.TarInfo("data")
        info.size = size
        tar.addfile(info, io.BytesIO(os.urandom(size)))
    return buffer.getvalue()


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start:start + size]


class Api:
    """uWSGI without Keystone and without a cloud: packages need neither."""

    def __init__(self, directory: Path) -> None:
        config = directory / "cml_nova.conf"
        config.write_text(f"[DEFAULT]\ntransport_url = fake:/\n[database]\nconnection = sqlite:///{directory}/db.sqlite\n"
                          f"[api]\nauth_strategy = none\n[storage]\npath = {directory}/storage\n[secrets]\nkey_file = {directory}/keys\n")
        for command in ("db sync", "secrets create"):
            program = str(Path(sys.executable).parent / "cml-nova-manage")
            subprocess.run([program, "--config-file", str(config), *command.split()], check=True, capture_output=True)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.daemon = Daemon("api", ["uwsgi", "--ini", str(UWSGI_INI)], directory / "api.log", {
            "CML_NOVA_CONFIG_FILES": str(config), "CML_NOVA_API_BIND": f"127.0.0.1:{self.port}", "CML_NOVA_API_PROCESSES": "1"})

    def start(self) -> None:
        self.daemon.start()
        until(self._answers, 120, "the API under uWSGI")

    def _answers(self) -> bool:
        self.daemon.check()
        try:
            return requests.get(self.url + "/", timeout=60).ok
        except requests.ConnectionError:
            return False


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    api = Api(tmp_path_factory.mktemp("uwsgi"))
    try:
        api.start()
        yield api
    finally:
        api.daemon.stop()


def test_a_large_package(api: Api) -> None:
    data = archive(100 << 20)
    answer = requests.post(api.url + "/v1/packages", data=data, headers=WHO, timeout=120)
    assert answer.status_code == 201, answer.text
    assert answer.json()["package"]["sha256"] == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("size", [1000, 65536, 3 << 20])
def test_a_package_in_pieces(api: Api, size: int) -> None:
    data = archive(5 << 20)
    answer = requests.post(api.url + "/v1/packages", data=pieces(data, size), headers=WHO, timeout=120)
    assert answer.status_code == 201, answer.text
    assert answer.json()["package"]["sha256"] == hashlib.sha256(data).hexdigest()


def test_a_body_that_is_too_large_is_refused_in_words(api: Api) -> None:
    answer = requests.post(api.url + "/v1/jobs", data=b" " * (8 << 20), headers={**WHO, "Content-Type": "application/json"}, timeout=120)
    assert answer.status_code == 413
    assert "max_body_bytes" in answer.json()["error"]["message"]


def test_a_client_that_keeps_connections_is_told_not_to(api: Api) -> None:
    """Each connection is closed after its answer; a client that did not know would lose a request now and then."""
    with requests.Session() as session:
        for _ in range(50):
            answer = session.get(api.url + "/v1/packages?limit=1", headers=WHO, timeout=60)
            assert answer.status_code == 200
            assert answer.headers["Connection"] == "close"


def test_term_lets_a_request_end(api: Api) -> None:
    data = archive(100_000)
    head = (f"POST /v1/packages HTTP/1.1\r\nHost: 127.0.0.1:{api.port}\r\nContent-Length: {len(data)}\r\n"
            + "".join(f"{name}: {value}\r\n" for name, value in WHO.items()) + "\r\n").encode()
    with socket.create_connection(("127.0.0.1", api.port), 60) as connection:
        connection.sendall(head + data[:1000])
        until(lambda: established(api), 30, "the request's arrival")
        os.kill(api.daemon.pid, 15)
        until(lambda: "graceful shutdown" in api.daemon.log_path.read_text(), 30, "the signal's arrival")
        connection.sendall(data[1000:])
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 201 "), answer
    assert api.daemon.stop() == 0
    api.start()


def established(api: Api) -> bool:
    """Tell whether a process of the API has taken our connection and read what was sent."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    ours = [row for row in rows if row[1].endswith(f":{api.port:04X}") and row[3] == "01"]
    return bool(ours) and all(row[4].endswith(":00000000") and row[9] != "0" for row in ours)


def test_term_while_it_loads_ends_it(tmp_path: Path) -> None:
    api = Api(tmp_path)
    api.daemon.start()
    until(lambda: "unix_signal:1 " in api.daemon.log_path.read_text(), 60, "uWSGI's start")
    assert api.daemon.stop(20) == 0
