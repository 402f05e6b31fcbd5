"""The cloud under test: the local one, started here, or any other that the environment names.

============================  =============================================================================================
CML_CONTRACT_CLOUD            entry of clouds.yaml; without it the local cloud is started and used
CML_CONTRACT_ADMIN_CLOUD      entry of an administrator of the same cloud
CML_CONTRACT_OTHER_CLOUD      entry of a user of another project, whose quota the tests change for moments
CML_CONTRACT_IMAGE            image that takes cloud-config user data, with the property cml_framework
CML_CONTRACT_FLAVOR           flavor of which there is room for 4 servers
CML_CONTRACT_NETWORK          network whose addresses can be reached from here
CML_CONTRACT_INNER_NETWORK    network that is connected to CML_CONTRACT_FLOATING_NETWORK by a router; without these two the tests of
CML_CONTRACT_FLOATING_NETWORK floating addresses, which are taken from the latter, are left out
CML_CONTRACT_SCARCE_FLAVOR    flavor with accelerators, with room for one server at least, but not for CML_CONTRACT_SCARCE_COUNT
CML_CONTRACT_SCARCE_COUNT     that many
CML_CONTRACT_BOOT_TIMEOUT     seconds that a server may take until SSH answers; 300 by default
============================  =============================================================================================
"""

from __future__ import annotations

import io
import os
import secrets
import socket
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import openstack
import paramiko
import pytest
from openstack import connection as sdk_connection
from oslo_config import cfg

from cml_nova import conf as cml_conf
from cml_nova.compute import catalog as compute_catalog
from cml_nova.compute import rest, session
from cml_nova.compute.fleet import Fleet, Server
from cml_nova.remote.keys import generate_keypair
from cml_nova.remote.userdata import cloud_config
from tests.harness.cloud import LocalCloud
from tests.harness.waiting import until


@dataclass(frozen=True)
class Target:
    """A cloud, and what in it the tests use. ``local`` is set where it is the local cloud."""

    cloud: str
    admin_cloud: str
    other_cloud: str
    image: str
    flavor: str
    network: str
    scarce_flavor: str
    scarce_count: int
    boot_timeout: float
    inner_network: str = ""
    floating_network: str = ""
    local: LocalCloud | None = None


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "local_cloud: needs the local cloud's fault API or its counts of requests")
    config.addinivalue_line("markers", "real_network: needs networks that are apart and security groups in force, unlike the local cloud's")
    config.addinivalue_line("markers", "floating: needs floating addresses")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what the cloud under test has not got."""
    missing = ["real_network"] if "CML_CONTRACT_CLOUD" not in os.environ else ["local_cloud"]
    if missing == ["local_cloud"] and not os.environ.get("CML_CONTRACT_FLOATING_NETWORK"):
        missing.append("floating")
    out = [item for item in items if any(item.get_closest_marker(name) for name in missing)]
    config.hook.pytest_deselected(items=out)
    items[:] = [item for item in items if item not in out]


@pytest.fixture(scope="session")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """The cloud under test."""
    env = os.environ
    if "CML_CONTRACT_CLOUD" in env:
        yield Target(
            env["CML_CONTRACT_CLOUD"], env["CML_CONTRACT_ADMIN_CLOUD"], env["CML_CONTRACT_OTHER_CLOUD"], env["CML_CONTRACT_IMAGE"],
            env["CML_CONTRACT_FLAVOR"], env["CML_CONTRACT_NETWORK"], env["CML_CONTRACT_SCARCE_FLAVOR"],
            int(env["CML_CONTRACT_SCARCE_COUNT"]), float(env.get("CML_CONTRACT_BOOT_TIMEOUT", "300")),
            env.get("CML_CONTRACT_INNER_NETWORK", ""), env.get("CML_CONTRACT_FLOATING_NETWORK", ""))
        return
    local = LocalCloud(tmp_path_factory.mktemp("cloud"), gpus=8)
    try:
        local.start()
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("OS_CLIENT_CONFIG_FILE", str(Path(local.directory) / "clouds.yaml"))
            yield Target("local-service", "local-admin", "local-other", "plain", "cpu.small", "local-net", "gpu.large", 3, 60,
                         "local-net", "local-external", local)
    finally:
        local.stop()


@pytest.fixture
def local(target: Target) -> Iterator[LocalCloud]:
    """The local cloud, with its faults and counters as new."""
    assert target.local is not None
    target.local.heal()
    yield target.local
    target.local.heal()


@pytest.fixture(scope="session")
def conf(target: Target) -> cfg.ConfigOpts:
    """Options of a deployment of its own on the cloud under test."""
    return make_conf(cloud=target.cloud, deployment=f"contract-{secrets.token_hex(4)}", network=target.network)


def make_conf(**options: object) -> cfg.ConfigOpts:
    """Make options whose group [cloud] has what is given."""
    made = cfg.ConfigOpts()
    cml_conf.register_opts(made)
    made([], project="cml_nova")
    for name, value in options.items():
        made.set_override(name, value, group="cloud")
    return made


@pytest.fixture(scope="session")
def connection(conf: cfg.ConfigOpts) -> sdk_connection.Connection:
    """The service's connection."""
    return session.service_connection(conf)


@pytest.fixture(scope="session")
def admin(target: Target) -> sdk_connection.Connection:
    """An administrator's connection."""
    return openstack.connect(cloud=target.admin_cloud, compute_default_microversion=rest.MICROVERSION)


@pytest.fixture(scope="session")
def other(target: Target) -> sdk_connection.Connection:
    """A connection of a user of another project."""
    return session.service_connection(make_conf(cloud=target.other_cloud))


@pytest.fixture(scope="session")
def fleet(conf: cfg.ConfigOpts, connection: sdk_connection.Connection) -> Iterator[Fleet]:
    """The fleet of the deployment; at the end it has nothing left."""
    made = Fleet(conf, connection)
    yield made
    until(lambda: not made.all_servers(), 300, "the end of all servers")
    assert made.inventory() == []


@pytest.fixture(scope="session")
def catalog(connection: sdk_connection.Connection) -> compute_catalog.Catalog:
    return compute_catalog.Catalog(connection)


@pytest.fixture(scope="session")
def image(catalog: compute_catalog.Catalog, target: Target) -> compute_catalog.Image:
    return catalog.get_image(target.image)


@dataclass(frozen=True)
class Keys:
    """Two key pairs: (private, public) of the machine and of the user who logs in."""

    host: tuple[str, str]
    user: tuple[str, str]


class Job:
    """A job's servers, made and unmade as a worker would."""

    def __init__(self, fleet: Fleet, target: Target, image: compute_catalog.Image, flavor_id: str) -> None:
        self.id = str(uuid.uuid4())
        self.name = f"cml-contract-{self.id[:8]}"
        self.keys = Keys(generate_keypair(), generate_keypair())
        self.ssh_port = image.ssh_port or 22
        self.ssh_user = image.ssh_user or "cml"
        self._fleet = fleet
        self._target = target
        self._image = image
        self._flavor_id = flavor_id

    def create(self, count: int = 1, *, pool: int = 0, flavor_id: str | None = None) -> None:
        """Ask for servers, in the job's group."""
        self._fleet.create(
            job_id=self.id, generation=7, pool=pool, name=self.name, count=count, flavor_id=flavor_id or self._flavor_id,
            image_id=self._image.id, network_id=self._fleet.network_id(), group_id=self._fleet.ensure_group(self.id, self.ssh_port),
            user_data=cloud_config(*self.keys.host, [self.keys.user[1]], self.ssh_user))

    def connect(self, address: str) -> paramiko.Transport:
        """Connect as a worker would: until the machine shows the job's host key and takes the user's."""
        def attempt() -> paramiko.Transport | None:
            transport = None
            try:
                transport = paramiko.Transport(socket.create_connection((address, self.ssh_port), timeout=5))
                transport.start_client(timeout=10)
                key = transport.get_remote_server_key()
                if f"{key.get_name()} {key.get_base64()}" == " ".join(self.keys.host[1].split()[:2]):
                    transport.auth_publickey(self.ssh_user, private(self.keys.user[0]))
                    return transport
            except (OSError, EOFError, paramiko.SSHException):
                pass
            if transport:
                transport.close()
            return None

        found = until(attempt, self._target.boot_timeout, f"SSH at {address}:{self.ssh_port}", interval=0.2)
        assert found is not None
        return found

    def servers(self) -> list[Server]:
        return self._fleet.servers(self.id)

    def settled(self) -> list[Server]:
        """Wait until none of the servers is being built, and give them."""
        def none_in_build() -> list[Server]:
            servers = self.servers()
            return servers if all(s.status != "BUILD" for s in servers) else []

        return until(none_in_build, self._target.boot_timeout, "servers that are no longer in BUILD", interval=0.1)

    def active(self) -> list[Server]:
        """Wait until all servers are active, and give them."""
        servers = self.settled()
        assert all(server.ready for server in servers), servers
        return servers

    def gone(self) -> None:
        """Delete all servers and wait until they are gone."""
        ids = [server.id for server in self.servers()]
        if not ids:
            return
        self._fleet.delete(ids)
        until(lambda: not self.servers() and not self._fleet.remaining(ids), 120, f"the end of {ids}", interval=0.1)

    def clean(self) -> None:
        """Take everything away that the job has."""
        self.gone()
        self._fleet.delete_ports(self._fleet.leftover_ports(self.id))
        self._fleet.delete_groups(self.id)


def private(text: str) -> paramiko.PKey:
    return paramiko.Ed25519Key.from_private_key(io.StringIO(text))


def run(transport: paramiko.Transport, command: str) -> tuple[int, str]:
    """Run a command on a machine; give its exit status and what it prints."""
    channel = transport.open_session()
    channel.exec_command(command)
    output = channel.makefile().read().decode()
    return channel.recv_exit_status(), output


@pytest.fixture(scope="session")
def pair(fleet: Fleet, target: Target, image: compute_catalog.Image, catalog: compute_catalog.Catalog) -> Iterator[Job]:
    """A job with two active servers, for tests that leave them as they are: a real machine takes its time to boot."""
    made = Job(fleet, target, image, catalog.get_flavor(target.flavor).id)
    try:
        made.create(2, pool=3)
        made.active()
        yield made
    finally:
        made.clean()


@pytest.fixture
def job(fleet: Fleet, target: Target, image: compute_catalog.Image, catalog: compute_catalog.Catalog) -> Iterator[Job]:
    """A job without servers; whatever it gets is taken away at the end."""
    made = Job(fleet, target, image, catalog.get_flavor(target.flavor).id)
    yield made
    made.clean()
