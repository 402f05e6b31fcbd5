"""A local cloud without guests, threads and sockets: its clock and its hypervisor are the test's."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from werkzeug.test import TestResponse

from cml_nova.localcloud.accounts import ACCOUNTS
from cml_nova.localcloud.app import create_app
from cml_nova.localcloud.cloud import Cloud, Options
from cml_nova.localcloud.hypervisor import AddressInUse, HypervisorError
from cml_nova.localcloud.images import ImageInfo

PASSWORDS = {user: f"pw-{user}" for user, _, _ in ACCOUNTS.values()}


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class FakeHypervisor:
    """Guests that are entries of a dict; ``taken`` addresses refuse one guest each."""

    guests: dict[str, dict[str, Any]] = field(default_factory=dict)
    taken: list[str | None] = field(default_factory=list)
    faults: list[tuple[str, str]] = field(default_factory=list)
    broken: bool = False
    forwards: dict[str, Callable[[], str | None]] = field(default_factory=dict)
    no_addresses: bool = False
    login_delay: float = 0.0

    def boot(self, server_id: str, address: str, image: str, user_data: bytes | None, hostname: str,
             metadata: dict[str, str]) -> None:
        if self.taken:
            self.taken[0] = self.taken[0] or address
            self.taken.pop(0)
            raise AddressInUse(address)
        if self.broken:
            raise HypervisorError("no such environment")
        self.guests[server_id] = {"address": address, "image": image, "user_data": user_data, "hostname": hostname, "metadata": metadata}

    def forward(self, address: str, server_of: Callable[[], str | None]) -> None:
        if address in self.forwards or self.no_addresses:
            raise AddressInUse(address)
        self.forwards[address] = server_of

    def unforward(self, address: str) -> None:
        del self.forwards[address]

    def destroy(self, server_id: str) -> None:
        self.guests.pop(server_id, None)

    def fault(self, server_id: str, fault: str) -> None:
        self.faults.append((server_id, fault))
        if fault != "crash" and server_id not in self.guests:
            raise HypervisorError(f"the server {server_id} is not running")
        if fault == "crash":
            self.guests.pop(server_id, None)


class FakeImages:
    def list(self) -> list[ImageInfo]:
        return [ImageInfo(name, {"cml_framework": framework, "cml_framework_version": version, "cml_ssh_user": "cml",
                                 "cml_ssh_port": "2200"}, Path(name), size, 1_700_000_000.0 + size)
                for name, framework, version, size in (("plain", "custom", "3.11", 10), ("tensorflow", "tensorflow", "2.21.0", 1000))]


class Client:
    """One account's HTTP client: ``client.get("compute/v2.1/servers")``."""

    def __init__(self, site: Site, account: str) -> None:
        self._http = site.app.test_client()
        user, project, _ = ACCOUNTS[account]
        answer = self._http.post("/identity/v3/auth/tokens", json=password_auth(user, PASSWORDS[user], project))
        assert answer.status_code == 201, answer.text
        self.token = answer.headers["X-Subject-Token"]
        self.project = answer.json["token"]["project"]["id"]
        self.user = answer.json["token"]["user"]["id"]

    def request(self, method: str, path: str, json: Any = None, headers: dict[str, str] | None = None) -> TestResponse:
        return self._http.open(f"/{path}", method=method, json=json, headers={
            "X-Auth-Token": self.token, "OpenStack-API-Version": "compute 2.90", **(headers or {})})

    def get(self, path: str) -> Any:
        answer = self.request("GET", path)
        assert answer.status_code == 200, answer.text
        return answer.json

    def post(self, path: str, json: Any, status: int = 201) -> Any:
        answer = self.request("POST", path, json)
        assert answer.status_code == status, answer.text
        return answer.json

    def boot(self, name: str = "s", count: int = 1, flavor: str = "cpu.small", status: int = 202, **more: Any) -> Any:
        """POST servers; the answer's body."""
        server = {"name": name, "min_count": count, "max_count": count, "imageRef": self.id_of("image/v2/images", "plain"),
                  "flavorRef": self.id_of("compute/v2.1/flavors", flavor), "networks": "auto", **more}
        return self.post("compute/v2.1/servers", {"server": server}, status)

    def id_of(self, path: str, name: str) -> str:
        return next(item["id"] for item in self.get(path)[path.rpartition("/")[2].replace("-", "_")] if item["name"] == name)

    def servers(self, query: str = "") -> list[dict[str, Any]]:
        return list(self.get(f"compute/v2.1/servers/detail?{query}")["servers"])


class Site:
    """The cloud, and how the test's time passes in it."""

    def __init__(self, path: Path | None = None, hypervisor: FakeHypervisor | None = None, **options: Any) -> None:
        self.clock = Clock()
        self.hypervisor = hypervisor or FakeHypervisor()
        self.cloud = Cloud(Options(url="http://127.0.0.1:9510", **options), path, self.hypervisor, FakeImages(), self.clock)
        self.cloud.bootstrap(PASSWORDS)
        self.cloud.servers.recover()
        self.app = _application(self.cloud)

    def client(self, account: str = "local") -> Client:
        return Client(self, account)

    def after(self, seconds: float) -> None:
        """Let time pass."""
        self.clock.now += seconds
        self.cloud.timers.run_due()

    def fault(self, **body: Any) -> TestResponse:
        return self.app.test_client().post("/faults", json=body)


@functools.cache
def _routes() -> Flask:
    return create_app(None)  # type: ignore[arg-type]


def _application(cloud: Cloud) -> Flask:
    """The application for another cloud: making its routes takes most of a test's time, so that is done once."""
    _routes().extensions["cloud"] = cloud
    return _routes()


def password_auth(user: str, password: str, project: str | None = None) -> dict[str, Any]:
    domain = {"name": "Default"}
    login = {"user": {"name": user, "domain": domain, "password": password}}
    auth: dict[str, Any] = {"identity": {"methods": ["password"], "password": login}}
    if project:
        auth["scope"] = {"project": {"name": project, "domain": domain}}
    return {"auth": auth}


@pytest.fixture
def site() -> Site:
    return Site()


@pytest.fixture
def demo(site: Site) -> Client:
    return site.client()
