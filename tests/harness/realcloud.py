"""A real OpenStack: what the environment says of it, the service's account on it, its faults, and what is left in it."""

from __future__ import annotations

import configparser
import contextlib
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import openstack
from keystoneauth1 import exceptions as ks_exceptions
from keystoneauth1 import session as ks_session
from openstack import connection as sdk_connection

from tests.harness.base import Cloud, Options, Pace, merge
from tests.harness.client import SERVICE_TYPE
from tests.harness.oracle import Inventory, Oracle
from tests.harness.recorder import Recorder
from tests.harness.waiting import until

#: the service under test has an account of its own, so that another one on the same cloud is not met
_USER, _PROJECT = "cml_nova_tests", "cml-nodes-tests"
_REPOSITORY = Path(__file__).resolve().parents[2]
#: as operators get it, but for what makes a test wait for nothing else; a guest that does not come up is replaced before a test gives up
_OPTIONS: Options = {
    "api": {"max_nodes": 10},
    "conductor": {"lease_time": 20, "sweep_interval": 1, "queue_retry_min": 2, "queue_retry_max": 8, "orphan_interval": 3600,
                  "bootstrap_timeout": 180},
    "worker": {"heartbeat_interval": 3, "drain_timeout": 5},
    "remote": {"stop_grace": 3},
}
#: what a cloud that is being mended answers with, or does not
NO_ANSWER = (ks_exceptions.ClientException, openstack.exceptions.SDKException)


@dataclass(frozen=True)
class Settings:
    """What the environment says: ``CML_TEST_`` and the name of the field in capitals; see tests/realcloud/conftest.py."""

    admin_cloud: str
    user_cloud: str
    other_cloud: str
    image: str
    flavor: str
    network: str
    systemd_image: str | None = None
    systemd_flavor: str | None = None
    training_image: str | None = None
    training_flavor: str | None = None
    scarce_flavor: str | None = None
    scarce_large_flavor: str | None = None
    external_network: str | None = None
    inject: str | None = None
    cloud_logs: str | None = None
    ssh_source: str | None = None
    whole_cloud: str | None = None
    keep_endpoint: str | None = None

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> Settings:
        """:raises ValueError: names every variable that is missing."""
        found = {field.name: environ.get(f"CML_TEST_{field.name.upper()}") or None for field in fields(cls)}
        missing = [f"CML_TEST_{field.name.upper()}" for field in fields(cls) if "None" not in str(field.type) and not found[field.name]]
        if missing:
            raise ValueError(f"these tests need a cloud; not set: {', '.join(missing)}")
        return cls(**found)  # type: ignore[arg-type]


class RealCloud(Cloud):
    """A cloud that is there already.

    :param endpoint: URL of the service, which is registered in the cloud's catalog.
    :param directory: where the service's account is written to.
    :param account: names of its user, and of the project that owns the nodes.
    """

    pace = Pace(patience=4, interval=0.5)

    def __init__(self, settings: Settings, endpoint: str, directory: Path, account: tuple[str, str] = (_USER, _PROJECT)) -> None:
        self.settings = settings
        self.users = (settings.user_cloud, settings.other_cloud, settings.admin_cloud)
        self.admin: sdk_connection.Connection = openstack.connect(cloud=settings.admin_cloud, compute_default_microversion="2.90")
        self._connections = {settings.admin_cloud: self.admin}
        self.endpoint = endpoint
        self.account_directory = directory
        #: the URL that the catalog has for the service
        self.registered = self._registered() if settings.keep_endpoint else endpoint
        self._account = register(settings, self.registered, directory, account)
        account = self._account["cloud"]
        self.service_user = self.admin.identity.find_user(account["username"], ignore_missing=False)
        self.nodes_project = self.admin.identity.find_project(account["project_name"], ignore_missing=False)
        parts = urlsplit(account["auth_url"])
        self.keystone = Recorder(f"{parts.scheme}://{parts.netloc}")
        self._clear()
        self._oracle = Oracle(settings.admin_cloud, self.service_user.id, None if settings.whole_cloud else self.nodes_project.id)
        self._before: Inventory = self._oracle.inventory()

    def close(self) -> None:
        """Take the endpoint from the catalog. The account stays: the next run takes it over."""
        self._oracle.close()
        self.keystone.close()
        for endpoint in self._endpoints():
            if endpoint.url == self.endpoint:
                self.admin.identity.delete_endpoint(endpoint)

    def _clear(self) -> None:
        """Remove what a run that was cut off has left in the project of the nodes, which is the tests' alone."""
        left = self.servers()
        if left:
            print(f"an earlier run was cut off; deleting its servers: {[server['name'] for server in left]}", file=sys.stderr)
        for server in left:
            self.admin.compute.delete_server(server["id"], ignore_missing=True)
        until(lambda: not self.servers(), 120, "the end of servers that an earlier run has left")
        network, project = self.admin.network, self.nodes_project.id
        for address in network.ips(project_id=project):
            network.delete_ip(address)
        for group in network.security_groups(project_id=project):
            if group.name != "default":
                network.delete_security_group(group)

    def _endpoints(self) -> list[Any]:
        services = self.admin.identity.services(type=SERVICE_TYPE)
        return [endpoint for service in services for endpoint in self.admin.identity.endpoints(service_id=service.id)]

    def _registered(self) -> str:
        """Give the URL that the catalog has for the service already, else ours."""
        return next((str(endpoint.url) for endpoint in self._endpoints()), self.endpoint)

    def options(self) -> Options:
        urls = {name: {key: self.keystone.translate(value) for key, value in group.items()} for name, group in self._account.items()}
        source = {"ssh_source_cidr": self.settings.ssh_source} if self.settings.ssh_source else {}
        return merge(_OPTIONS, urls, {"cloud": source})

    def session(self, cloud: str) -> ks_session.Session:
        return self.connection(cloud).session

    def connection(self, cloud: str) -> sdk_connection.Connection:
        """Give openstacksdk's connection for an entry of clouds.yaml."""
        if cloud not in self._connections:
            self._connections[cloud] = openstack.connect(cloud=cloud)
        return self._connections[cloud]

    def servers(self, job_id: str | None = None) -> list[dict[str, Any]]:
        tags = f"&tags=cml:job:{job_id}" if job_id else ""
        path = f"/servers/detail?all_tenants=1&project_id={self.nodes_project.id}{tags}"
        found: list[dict[str, Any]] = self.admin.compute.get(path, microversion="2.90").json()["servers"]
        return found

    def leftovers(self) -> list[str]:
        """List the differences between the oracle's last inventory and one taken now."""
        before, self._before = self._before, self._oracle.inventory()
        return [*(f"new: {item}" for item in sorted(self._before - before)), *(f"gone: {item}" for item in sorted(before - self._before))]

    def heal(self) -> None:
        """Nothing: who arranges for a fault mends it."""

    @property
    def logs(self) -> dict[str, str]:
        return {}

    def ssh_user(self, image: str) -> str:
        """Give the login that an image's properties name."""
        return str(self.admin.image.find_image(image, ignore_missing=False).properties["cml_ssh_user"])

    # Faults

    def inject(self, *args: str) -> None:
        """Have the fault program do something."""
        assert self.settings.inject
        done = subprocess.run([self.settings.inject, *args], capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, f"{args} ended with {done.returncode}: {done.stdout}{done.stderr}"
        self._oracle.close()  # its connections may be to what is gone

    @contextlib.contextmanager
    def without(self, service: str, *, agents: bool = False) -> Iterator[None]:
        """Have a service of the cloud stopped; at the end, wait until the cloud is well again.

        :param agents: that the agents of Neutron have to be heard of again, too.
        """
        self.inject("stop", service)
        try:
            yield
        finally:
            self.inject("start", service)
            self.await_health(agents)

    def await_health(self, agents: bool = False, timeout: float = 180) -> None:
        """Wait until every service of Nova has reported since now, which takes the message bus, and none of them is down."""
        looks: list[Callable[[], dict[str, Any]]] = [self._nova_services, *([self._agents] if agents else [])]
        for look in looks:
            before = until(lambda look=look: _answer(look), timeout, "an answer of the cloud", 1)  # type: ignore[misc]
            until(lambda look=look, before=before: _all_newer(_answer(look), before), timeout,  # type: ignore[misc]
                  "a sign of life of every service of the cloud", 1)

    def compute_is_down(self) -> bool:
        """Tell whether Nova has noticed that a nova-compute does not report any more."""
        return any(not up for up, _ in _answer(self._nova_services).values())

    def _nova_services(self) -> dict[str, Any]:
        body = self.admin.compute.get("/os-services", microversion="2.90").json()
        return {service["id"]: (service["state"] == "up", service["updated_at"]) for service in body["services"]}

    def _agents(self) -> dict[str, Any]:
        body = self.admin.network.get("/agents").json()
        return {agent["id"]: (agent["alive"], agent["heartbeat_timestamp"]) for agent in body["agents"]}

    @contextlib.contextmanager
    def quota(self, **limits: int) -> Iterator[None]:
        """Set the Nova quota of the nodes' project; at the end, set it back."""
        path = f"/os-quota-sets/{self.nodes_project.id}"
        before = self.admin.compute.get(path).json()["quota_set"]
        self.admin.compute.put(path, json={"quota_set": {**limits, "force": True}})
        try:
            yield
        finally:
            self.admin.compute.put(path, json={"quota_set": {name: before[name] for name in limits}})

    def rebase(self) -> None:
        """Take what is in the cloud now for what belongs there."""
        self._before = self._oracle.inventory()

    def nova_requests(self) -> Counter[str]:
        """Count the service's requests in Nova's access log from its start: "METHOD /path" with {id} for ids."""
        assert self.settings.cloud_logs
        return _requests(Path(self.settings.cloud_logs) / "nova-api.log", self.service_user.id)


def register(settings: Settings, endpoint: str, directory: Path, account: tuple[str, str] = (_USER, _PROJECT), *,
             network: Sequence[str] = ()) -> dict[str, dict[str, str]]:
    """Make the service's account and endpoint by the operator's tool; give the options that it writes.

    :param directory: where the account's password is kept.
    :param network: arguments on the network of the nodes; by default it is the one that the settings name.
    """
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "account.conf"
    command = [
        sys.executable, str(_REPOSITORY / "tools" / "lib" / "register_service.py"), "--user", account[0], "--project", account[1],
        "--password-file", str(directory / "password"), "--set-password", "--endpoint", endpoint, "--replace-endpoints",
        *(network or ("--network", settings.network)), "--write-config", str(path)]
    env = {**os.environ, "OS_CLOUD": settings.admin_cloud}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=env)
    assert done.returncode == 0, f"register-service ended with {done.returncode}:\n{done.stdout}{done.stderr}"
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(path)
    return {section: dict(parser[section]) for section in parser.sections()}


def _answer(look: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Give what the cloud says, or nothing if it says nothing."""
    try:
        return look()
    except NO_ANSWER:
        return {}


def _all_newer(now: dict[str, Any], before: dict[str, Any]) -> bool:
    return set(before) <= set(now) and all(good and when != before[ident][1] for ident, (good, when) in now.items() if ident in before)


def _requests(log: Path, user: str) -> Counter[str]:
    """Count a user's requests in a log of Nova's or Neutron's API."""
    line = re.compile(rf'{user} .*"([A-Z]+) (/[^ ?"]*)[^"]*" status: ')
    found: Counter[str] = Counter()
    with log.open(errors="replace") as file:
        for match in filter(None, map(line.search, file)):
            found[f"{match[1]} {re.sub('/[0-9a-f-]{36}', '/{id}', match[2])}"] += 1
    return found
