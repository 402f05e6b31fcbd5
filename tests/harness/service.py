"""The service under test in two shapes: all in one process, or daemons of their own on a real bus and database."""

from __future__ import annotations

import abc
import contextlib
import os
import re
import secrets
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import requests
import sqlalchemy as sa

from tests.harness.base import Cloud, Options, merge
from tests.harness.process import Daemon, free_port
from tests.harness.waiting import until

#: what operators run the API with
UWSGI_INI = Path(__file__).resolve().parents[2] / "etc" / "uwsgi" / "cml-nova-api.ini"


class Service(abc.ABC):
    """The service behind one endpoint.

    :param options: over those that the cloud asks for.
    """

    def __init__(self, directory: Path, cloud: Cloud, port: int, transport_url: str, database_url: str,
                 options: Options | None = None) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.url = f"http://127.0.0.1:{port}"
        self.config_file = directory / "cml_nova.conf"
        # An installation of the service on this machine would lend us its /etc/cml_nova/cml_nova.conf.d; that of the home goes before it.
        self.env = {"HOME": str(directory)}
        (directory / ".cml_nova" / "cml_nova.conf.d").mkdir(parents=True, exist_ok=True)
        self._config(cloud, port, transport_url, database_url, options or {})

    @property
    @abc.abstractmethod
    def daemons(self) -> list[Daemon]:
        """Every process of the service, in the order in which they are started; they are stopped the other way round."""

    @property
    @abc.abstractmethod
    def tunnel_urls(self) -> list[str]:
        """Where each worker takes tunnels; users are told of the first."""

    @abc.abstractmethod
    def prepare(self) -> None:
        """Do what an operator does once, before the first start."""

    def start(self) -> None:
        """Start what is not running, and wait until the API answers."""
        for daemon in self.daemons:
            if not daemon.alive:
                daemon.start()
        until(self._ready, 120, "the service's API")

    def stop(self) -> None:
        with contextlib.ExitStack() as stack:  # that one does not end keeps no other one alive
            for daemon in self.daemons:
                stack.callback(daemon.stop)

    def kill(self) -> None:
        """kill -9 of every process."""
        for daemon in self.daemons:
            daemon.kill()

    def _ready(self) -> bool:
        for daemon in self.daemons:
            daemon.check()
        try:
            return requests.get(self.url + "/", timeout=5).status_code in (200, 300)
        except (requests.ConnectionError, requests.Timeout):  # it may take connections before it can answer
            return False

    def _config(self, cloud: Cloud, port: int, transport_url: str, database_url: str, options: Options) -> None:
        groups = merge({
            "DEFAULT": {"transport_url": transport_url, "debug": True},
            "database": {"connection": database_url},
            "cloud": {"deployment": f"test-{secrets.token_hex(4)}"},
            "storage": {"path": self.directory / "storage"},
            "secrets": {"key_file": self.directory / "fernet.keys"},
            "api": {"standalone_host": "127.0.0.1", "standalone_port": port},
        }, cloud.options(), options)
        lines = []
        for group, values in groups.items():
            lines += [f"[{group}]", *(f"{name} = {value}" for name, value in values.items()), ""]
        self.config_file.write_text("\n".join(lines))
        self.config_file.chmod(0o600)

    def run(self, program: str, *args: str) -> subprocess.CompletedProcess[str]:
        """Run one of the operator's commands with the service's configuration."""
        command = [str(Path(sys.executable).parent / program), "--config-file", str(self.config_file), *args]
        return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **self.env}, timeout=300)

    def manage(self, *args: str) -> str:
        """Run cml-nova-manage; give what it prints."""
        done = self.run("cml-nova-manage", *args)
        assert done.returncode == 0, f"{args} ended with {done.returncode}:\n{done.stderr}"
        return done.stdout


class Standalone(Service):
    """Everything in one process, with SQLite and a bus in memory."""

    def __init__(self, directory: Path, cloud: Cloud, port: int, options: Options | None = None) -> None:
        self._tunnel_port = free_port()
        tunnel = {"tunnel": {"public_url": f"ws://127.0.0.1:{self._tunnel_port}", "port": self._tunnel_port}}
        super().__init__(directory, cloud, port, "fake:/", f"sqlite:///{directory}/cml_nova.sqlite", merge(tunnel, options or {}))
        self.daemon = Daemon("standalone", ["cml-nova-standalone", "--config-file", str(self.config_file)], directory / "standalone.log",
                             self.env)

    @property
    def daemons(self) -> list[Daemon]:
        return [self.daemon]

    @property
    def tunnel_urls(self) -> list[str]:
        return [f"ws://127.0.0.1:{self._tunnel_port}"]

    def prepare(self) -> None:
        """Nothing: it sets itself up."""


class Daemons(Service):
    """An api, conductors and workers as processes of their own.

    :param transport_url: of a RabbitMQ broker.
    :param server_url: of a MariaDB or PostgreSQL server; a new database on it is used and dropped at the end.
    """

    def __init__(self, directory: Path, cloud: Cloud, port: int, transport_url: str, server_url: str,
                 options: Options | None = None, conductors: int = 2, workers: int = 2) -> None:
        self.database = Database(server_url)
        self._tunnel_ports = [free_port() for _ in range(workers)]
        tunnel = {"tunnel": {"public_url": f"ws://127.0.0.1:{self._tunnel_ports[0]}"}} if workers else {}
        super().__init__(directory, cloud, port, transport_url, self.database.url, merge(tunnel, options or {}))
        config = ["--config-file", str(self.config_file)]
        self.api = Daemon("api", ["uwsgi", "--ini", str(UWSGI_INI)], directory / "api.log",
                          {**self.env, "CML_NOVA_CONFIG_FILES": str(self.config_file), "CML_NOVA_API_BIND": f"127.0.0.1:{port}"},
                          family=True)
        self.conductors = [Daemon(f"conductor-{i}", ["cml-nova-conductor", *config], directory / f"conductor-{i}.log", self.env)
                           for i in range(conductors)]
        self.workers = [Daemon(f"worker-{i}", ["cml-nova-worker", *config, "--config-file", self._tunnel_file(i)],
                               directory / f"worker-{i}.log", self.env) for i in range(workers)]

    @property
    def tunnel_urls(self) -> list[str]:
        return [f"ws://127.0.0.1:{port}" for port in self._tunnel_ports]

    def await_at_work(self, *daemons: Daemon) -> None:
        """Wait until conductors and workers, all or these, say that they are up; the API's answer does not tell that."""
        for daemon in daemons or (*self.conductors, *self.workers):
            mark = re.compile(rf" {daemon.pid} INFO cml_nova\.(conductor|worker)\.service .* is up$", re.MULTILINE)
            until(lambda daemon=daemon, mark=mark: mark.search(daemon.log_path.read_text()), 120, f"{daemon.name} at work")  # type: ignore[misc]

    def _tunnel_file(self, worker: int) -> str:
        """Give a worker, of several on one host, a port of its own for tunnels."""
        path = self.directory / f"worker-{worker}.conf"
        path.write_text(f"[tunnel]\nport = {self._tunnel_ports[worker]}\n")
        return str(path)

    @property
    def daemons(self) -> list[Daemon]:
        return [*self.conductors, *self.workers, self.api]

    def prepare(self) -> None:
        self.database.create()
        self.manage("db", "sync")
        self.manage("secrets", "create")

    def stop(self) -> None:
        with contextlib.ExitStack() as stack:
            stack.callback(self.database.drop)
            super().stop()


class Database:
    """A database of its own on a given server."""

    def __init__(self, server_url: str) -> None:
        self._server = sa.make_url(server_url)
        self.name = f"cml_test_{secrets.token_hex(6)}"
        self.url = self._server.set(database=self.name).render_as_string(hide_password=False)

    def create(self) -> None:
        character_set = " CHARACTER SET utf8mb4" if self._server.get_backend_name() == "mysql" else ""
        self._execute(f"CREATE DATABASE {self.name}{character_set}")

    def drop(self) -> None:
        force = " WITH (FORCE)" if self._server.get_backend_name() == "postgresql" else ""
        self._execute(f"DROP DATABASE {self.name}{force}")

    def _execute(self, statement: str) -> None:
        engine = sa.create_engine(self._server, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(sa.text(statement))
        engine.dispose()


def make_service(stack: str, directory: Path, cloud: Cloud, port: int | None = None, *, environ: Mapping[str, str],
                 options: Options | None = None) -> Service:
    """Make the service in the shape that a test run asks for.

    :param stack: standalone or daemons.
    :param environ: where the URLs of the servers that daemons need are found.
    """
    if stack == "standalone":
        return Standalone(directory, cloud, port or free_port(), options)
    assert stack == "daemons", f"CML_TEST_STACK is standalone or daemons, not {stack!r}"
    return Daemons(directory, cloud, port or free_port(), environ["CML_TEST_RABBIT_URL"], environ["CML_TEST_DATABASE_URL"], options)
