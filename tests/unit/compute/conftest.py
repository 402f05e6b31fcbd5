"""A cloud connection whose answers a test writes, without sockets."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import requests
from keystoneauth1 import exceptions as ksa
from oslo_config import cfg

from cml_nova import conf as cml_conf
from cml_nova.compute import rest

PROJECT = "11111111111111111111111111111111"
Answer = tuple[int, Any] | Exception


def response(status: int, body: Any, headers: dict[str, str] | None = None) -> requests.Response:
    """Make an answer as requests would give it: JSON, or text as it stands."""
    made = requests.Response()
    made.status_code = status
    made.reason = {404: "Not Found", 503: "Service Unavailable"}.get(status, "Reason")
    made.url = "http://cloud.example/x"
    is_text = isinstance(body, str)
    made.headers["Content-Type"] = "text/html" if is_text else "application/json"
    made.headers.update(headers or {})
    made._content = body.encode() if is_text else b"" if body is None else json.dumps(body).encode()
    return made


class FakeProxy:
    """A service of the cloud: answers from a queue, or from a function of (method, path, params, json)."""

    def __init__(self, service_type: str) -> None:
        self.service_type = service_type
        self.calls: list[dict[str, Any]] = []
        self.answers: list[Answer] = []
        self.handler: Callable[[dict[str, Any]], Answer] | None = None

    def request(self, path: str, method: str, **kwargs: Any) -> requests.Response:
        call = {"path": path, "method": method, **kwargs, "params": dict(kwargs.get("params") or {})}
        self.calls.append(call)
        answer = self.handler(call) if self.handler else self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return response(*answer)


class FakeSession:
    def get_project_id(self) -> str:
        return PROJECT


class FakeConnection:
    def __init__(self) -> None:
        self.compute = FakeProxy("compute")
        self.image = FakeProxy("image")
        self.network = FakeProxy("network")
        self.session = FakeSession()


@pytest.fixture
def cloud() -> FakeConnection:
    return FakeConnection()


@pytest.fixture
def conf() -> cfg.ConfigOpts:
    made = cfg.ConfigOpts()
    cml_conf.register_opts(made)
    made([], project="cml_nova")
    made.set_override("deployment", "dep1", group="cloud")
    return made


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Record the pauses between tries instead of making them."""
    made: list[float] = []
    monkeypatch.setattr(rest._repeatedly.retry, "sleep", made.append)  # type: ignore[attr-defined]
    return made


@pytest.fixture
def refused_connection() -> Exception:
    return ksa.ConnectFailure("connection refused")
