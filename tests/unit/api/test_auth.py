"""Tokens: what keystonemiddleware says of them, how often Keystone is asked, and what happens when it can't be."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import flask
import pytest
import requests
from cryptography.fernet import Fernet
from keystoneauth1 import loading
from werkzeug.test import Client

from cml_nova.api import auth
from cml_nova.api.app import create_app
from cml_nova.db import migration
from cml_nova.db.engine import Database
from cml_nova.secrets import Vault
from cml_nova.storage.file import FileStorage
from tests.unit.api.conftest import FakeCatalog, FakeConductor, make_conf

URL = "http://keystone.test/v3"


class Keystone:
    """Answers what keystonemiddleware asks, in place of the network."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.down = False

    def send(self, adapter: Any, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        self.counts[f"{request.method} {request.path_url}"] += 1
        status, body, headers = self._answer(request)
        response = requests.Response()
        response.status_code, response.url, response.request = status, str(request.url), request
        response.headers.update({"Content-Type": "application/json", **headers})
        response._content = json.dumps(body).encode()
        return response

    def _answer(self, request: requests.PreparedRequest) -> tuple[int, Any, dict[str, str]]:
        if request.path_url != "/v3/auth/tokens":
            return 200, {"version": {"id": "v3.14", "status": "stable", "links": [{"rel": "self", "href": URL}]}}, {}
        if request.method == "POST":
            return 201, self._token("service"), {"X-Subject-Token": "ours"}
        asked = request.headers["X-Subject-Token"]
        if self.down:
            return 503, {}, {}
        if not asked.startswith("good"):
            return 404, {"error": {"code": 404, "message": "no such token", "title": "Not Found"}}, {}
        return 200, self._token("red"), {}

    def _token(self, project: str) -> dict[str, Any]:
        domain = {"id": "default", "name": "Default"}
        endpoints = [{"id": i, "interface": i, "region": "local", "region_id": "local", "url": URL} for i in ("public", "internal")]
        return {"token": {
            "methods": ["password"], "issued_at": "2026-01-01T00:00:00.000000Z", "expires_at": "2099-01-01T00:00:00.000000Z",
            "user": {"id": "ann", "name": "ann", "domain": domain}, "project": {"id": project, "name": project, "domain": domain},
            "roles": [{"id": "1", "name": "member"}], "audit_ids": ["x"],
            "catalog": [{"type": "identity", "name": "keystone", "id": "1", "endpoints": endpoints}],
        }}


@pytest.fixture
def keystone(monkeypatch: pytest.MonkeyPatch) -> Keystone:
    fake = Keystone()
    monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", lambda adapter, request, **kw: fake.send(adapter, request, **kw))
    return fake


@pytest.fixture
def client(tmp_path: Path, keystone: Keystone) -> Client:
    return make_client(tmp_path)


def make_client(tmp_path: Path) -> Client:
    conf = make_conf(tmp_path, auth_strategy="keystone")
    loading.register_auth_conf_options(conf, "keystone_authtoken")
    conf.register_opts(loading.get_auth_plugin_conf_options("password"), "keystone_authtoken")
    options = {"auth_type": "password", "auth_url": URL, "username": "cml_nova", "password": "x", "project_name": "service",
               "user_domain_name": "Default", "project_domain_name": "Default"}
    for name, value in options.items():
        conf.set_override(name, value, "keystone_authtoken")
    db = Database(conf)
    migration.sync(db)
    app = create_app(conf, db=db, storage=FileStorage(conf), conductor=FakeConductor(), catalog_factory=lambda auth: FakeCatalog(),
                     vault=Vault([Fernet.generate_key().decode()]), validate_responses=True)
    conf.set_override("www_authenticate_uri", "http://keystone.test", "keystone_authtoken")
    return Client(app)


def test_a_token_is_validated_once(client: Client, keystone: Keystone) -> None:
    for _ in range(20):
        assert client.get("/v1/jobs", headers={"X-Auth-Token": "good"}).status_code == 200
    assert keystone.counts["GET /v3/auth/tokens"] == 1
    assert client.get("/v1/jobs", headers={"X-Auth-Token": "good too"}).status_code == 200
    assert keystone.counts["GET /v3/auth/tokens"] == 2


def test_no_token_waits_until_a_clock_that_was_set_back_shows_the_time_again(tmp_path: Path, keystone: Keystone,
                                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    ahead = time.time() + 3600
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: ahead)
        client = make_client(tmp_path)
        assert client.get("/v1/jobs", headers={"X-Auth-Token": "good"}).status_code == 200
    assert client.get("/v1/jobs", headers={"X-Auth-Token": "good too"}).status_code == 200


@pytest.mark.parametrize("headers", [
    {},
    {"X-Auth-Token": "forged"},
    {"X-Identity-Status": "Confirmed", "X-User-Id": "ann", "X-Project-Id": "red", "X-Roles": "admin"},
    {"X-Auth-Token": "forged", "X-Identity-Status": "Confirmed", "X-User-Id": "ann", "X-Project-Id": "red", "X-Roles": "admin"},
])
def test_nobody_gets_in_without_a_valid_token(client: Client, headers: dict[str, str]) -> None:
    answer = client.get("/v1/jobs", headers=headers)
    assert answer.status_code == 401
    assert answer.json["error"]["code"] == 401  # type: ignore[index]
    assert answer.headers["WWW-Authenticate"] == 'Keystone uri="http://keystone.test"'


def test_headers_of_the_client_do_not_add_to_the_token(client: Client) -> None:
    answer = client.get("/v1/workers", headers={"X-Auth-Token": "good", "X-Roles": "admin", "X-Project-Id": "blue"})
    assert answer.status_code == 403


def test_keystone_out_of_reach_is_503_and_not_401(client: Client, keystone: Keystone) -> None:
    keystone.down = True
    answer = client.get("/v1/jobs", headers={"X-Auth-Token": "good"})
    assert answer.status_code == 503
    assert "Keystone" in answer.json["error"]["message"]  # type: ignore[index]
    keystone.down = False
    assert client.get("/v1/jobs", headers={"X-Auth-Token": "good"}).status_code == 200


@pytest.mark.parametrize("path", ["/", "/v1/", "/v1", "/healthcheck", "/v1/openapi.json"])
def test_open_routes_ask_keystone_nothing(client: Client, keystone: Keystone, path: str) -> None:
    assert client.get(path).status_code == 200
    assert not keystone.counts


def test_a_route_that_forgets_the_policy_fails() -> None:
    app = flask.Flask("forgetful")
    app.after_request(auth.assert_authorized)
    app.testing = True
    app.add_url_rule("/", "forgot", lambda: "hello")
    with pytest.raises(AssertionError, match="forgot answered without a policy check"):
        app.test_client().get("/")
