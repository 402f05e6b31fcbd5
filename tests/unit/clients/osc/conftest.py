"""The commands in the process, on the real client library, against the real API: only the wire between them is left out."""

from __future__ import annotations

import io
import logging
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
from keystoneauth1 import session, token_endpoint
from openstack import connection
from requests.adapters import BaseAdapter

from cml_nova.clients import sdk
from tests.unit.api.conftest import Api, api, empty_database  # noqa: F401 -- fixtures

URL = "http://service/"


class Wire(BaseAdapter):
    """Hands the requests of a client to the API in the same process."""

    def __init__(self, api: Api) -> None:  # noqa: F811 -- the fixture
        super().__init__()
        self._api = api

    def send(self, request: Any, *args: Any, **kwargs: Any) -> requests.Response:
        body = request.body if isinstance(request.body, str | bytes | None) else b"".join(request.body)
        answer = self._api.request(request.method, "/" + request.url.removeprefix(URL), data=body, headers=dict(request.headers))
        response = requests.Response()
        response.request, response.url = request, request.url
        response.status_code, response.raw = answer.status_code, io.BytesIO(answer.data)
        response.headers.update(dict(answer.headers))
        return response

    def close(self) -> None:
        """Nothing is kept open."""


@dataclass(frozen=True)
class Said:
    """How a command has ended, and what it has said on the standard error."""

    code: int
    err: str


class Shell:
    """Runs commands as cliff does."""

    def __init__(self, proxy: Any, capsys: pytest.CaptureFixture[str]) -> None:
        self._proxy, self._capsys = proxy, capsys

    def run(self, kind: Any, line: str) -> Said:
        """Run a command with the options of a line of the shell."""
        errors = io.StringIO()
        log = logging.Logger("command", logging.WARNING)
        log.addHandler(logging.StreamHandler(errors))
        app = SimpleNamespace(client_manager=SimpleNamespace(machine_learning=self._proxy), options=SimpleNamespace(debug=False), LOG=log,
                              stdout=io.StringIO())
        command = kind(app, None)
        command.log = log
        try:
            code = command.run(command.get_parser("openstack").parse_args(shlex.split(line)))
        except SystemExit as end:
            code = end.code
        except Exception as error:
            log.error(error)
            code = 1
        said = self._capsys.readouterr().err
        if said.startswith("usage: "):
            said = said.partition("openstack: error: ")[2]
        return Said(code, said + errors.getvalue())


@pytest.fixture
def shell(api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Shell]:  # noqa: F811
    """A shell in an empty directory, of a user of the service."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    transport = requests.Session()
    transport.mount(URL, Wire(api))
    conn = connection.Connection(session=session.Session(auth=token_endpoint.Token(f"{URL}v1", "token"), session=transport))
    sdk.register(conn)
    yield Shell(conn.machine_learning, capsys)
