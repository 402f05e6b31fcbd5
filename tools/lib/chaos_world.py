"""What a campaign runs on: a cloud, an API, two conductors and two workers, behind wires to a RabbitMQ and a MariaDB of their own."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pymysql
import requests
import servers
import sqlalchemy as sa
from chaos_ledger import Ledger
from chaos_load import Job
from chaos_wire import Wire
from keystoneauth1 import exceptions as ksa

from tests.harness.client import Client
from tests.harness.cloud import LocalCloud
from tests.harness.process import Daemon, free_port
from tests.harness.service import Daemons
from tests.harness.wall_clock import WallClock

T = TypeVar("T")

_LAUNCHER = Path(__file__).with_name("chaos_bus.py")
#: what a database that goes away raises; SQLAlchemy lets those of its driver through that come as a transaction is given up
DATABASE_ERRORS = (sa.exc.DBAPIError, pymysql.MySQLError)
#: seconds after which even a patient one gives up
_PATIENCE = 300.0
#: seconds that a daemon has to end in when it is asked to
_DRAIN_SECONDS = 45.0
GPUS = 10
#: that the service's project may have in all, when nothing is wrong
INSTANCES = 200
#: times are short, so that what takes long in life takes seconds. No number of losses is too high: none is a job's own. Nothing but
#: the jobs may clean up what they leave behind: there is no look for orphans
OPTIONS: dict[str, dict[str, Any]] = {
    "cloud": {"poll_fast": 0.2, "poll_slow": 1, "settle_time": 2, "request_timeout": 4, "floating_network": "local-external"},
    "conductor": {"lease_time": 5, "sweep_interval": 0.5, "queue_retry_min": 0.5, "queue_retry_max": 3, "orphan_interval": 3600,
                  "max_infra_restarts": 100000, "restart_pause_min": 0.2, "restart_pause_max": 1,
                  "provisioning_timeout": 30, "start_timeout": 60, "collect_timeout": 120},
    "worker": {"heartbeat_interval": 1, "rpc_timeout": 3, "drain_timeout": 4},
    "remote": {"connect_timeout": 5, "unreachable_after": 5, "stop_grace": 1},
}


def patiently(call: Callable[[], T], patience: float = _PATIENCE) -> T:
    """Call something again until the cloud and the service are well enough to answer.

    :param patience: seconds.
    """
    deadline = time.monotonic() + patience
    while True:
        try:
            return call()
        except (ksa.ClientException, requests.RequestException, *DATABASE_ERRORS, Unwell) as error:
            if time.monotonic() > deadline:
                raise AssertionError(f"no answer within {patience} s: {error}") from error
            time.sleep(0.3)


class Unwell(Exception):
    """The service has answered that it can't now."""


class PatientClient(Client):
    """A user who asks again when the service is away or says that it can't: every request may be sent twice."""

    def request(self, method: str, path: str, **kwargs: Any) -> requests.Response:
        def once() -> requests.Response:
            response = super(PatientClient, self).request(method, path, timeout=20, **kwargs)
            # One new token is tried by the session itself; the next one may have expired, too.
            if response.status_code >= 500 or response.status_code == 401:
                raise Unwell(f"{method} {path}: {response.status_code} {response.text[:500]}")
            return response

        return patiently(once)

    def cancel(self, job_id: str) -> None:
        """Cancel a job that may be over already."""
        response = self.request("POST", f"/v1/jobs/{job_id}/cancel")
        assert response.status_code in (202, 409), f"{response.status_code} {response.text}"


class CampaignService(Daemons):
    """The service, its conductors and workers with a hook in their messages, and a clock for each daemon that may be set wrong."""

    def __init__(self, directory: Path, cloud: LocalCloud, port: int, rabbit_url: str, database_url: str) -> None:
        super().__init__(directory, cloud, port, rabbit_url, database_url, OPTIONS, conductors=0, workers=0)
        self.bus_control = directory / "bus.json"
        path = os.pathsep.join([str(_LAUNCHER.parents[2]), str(_LAUNCHER.parent)])
        for role, group in (("conductor", self.conductors), ("worker", self.workers)):
            command = ["python", str(_LAUNCHER), role, str(self.bus_control), "--config-file", str(self.config_file)]
            group += [Daemon(f"{role}-{i}", command, directory / f"{role}-{i}.log", {**self.env, "PYTHONPATH": path}) for i in range(2)]
        self.clocks = {daemon.name: WallClock(directory / "clocks" / daemon.name) for daemon in self.daemons}
        for daemon in self.daemons:
            self.clocks[daemon.name].give_to(daemon)

    def trouble_bus(self, **how: Any) -> None:
        """Have messages suffer from now on; how, ``chaos_bus.py`` says."""
        new = self.bus_control.with_suffix(".new")
        new.write_text(json.dumps(how))
        new.replace(self.bus_control)

    def calm_bus(self) -> None:
        """Let all messages get through again."""
        self.bus_control.unlink(missing_ok=True)


@dataclass
class World:
    """All that faults may harm, and what judges look at."""

    directory: Path
    cloud: LocalCloud
    service: CampaignService
    broker: servers.Private
    database: servers.Private
    broker_wire: Wire
    database_wire: Wire
    client: PatientClient
    ledger: Ledger
    jobs: dict[int, Job]
    #: a server of its own, not over the wire
    engine: sa.Engine
    #: held by who sends a job, and by who takes away what a job needs to be accepted
    submitting: threading.Lock = field(default_factory=threading.Lock)
    died: list[str] = field(default_factory=list)
    _claims: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def daemons(self) -> dict[str, Daemon]:
        return {daemon.name: daemon for daemon in self.service.daemons}

    def claim(self, *names: str) -> bool:
        """Take things, all or none, that only one fault at a time may touch."""
        with self._lock:
            if self._claims & set(names):
                return False
            self._claims.update(names)
            return True

    def unclaim(self, *names: str) -> None:
        with self._lock:
            self._claims.difference_update(names)

    def send(self, daemon: Daemon, number: signal.Signals) -> None:
        """Signal a daemon, and all of its processes where it has several."""
        if daemon is self.service.api:
            os.killpg(daemon.pid, number)
        else:
            os.kill(daemon.pid, number)

    def end(self, daemon: Daemon) -> None:
        """Ask a daemon to end, and note if it does not in time."""
        try:
            daemon.stop(_DRAIN_SECONDS)
        except AssertionError as error:
            self.died.append(str(error))

    def revive(self) -> None:
        """Start daemons that have ended without having been told to, as systemd would, and note them."""
        for name, daemon in self.daemons.items():
            if daemon.alive or not self.claim(name):
                continue
            try:
                if not daemon.alive:
                    self.died.append(f"{name} ended by itself; see {daemon.log_path}")
                    daemon.start()
            finally:
                self.unclaim(name)

    def job_of(self, server: dict[str, Any]) -> Job | None:
        """Give the job that a server of the cloud is for."""
        return next((job for job in list(self.jobs.values()) if job.id and f"cml:job:{job.id}" in server["tags"]), None)


@contextmanager
def make_world(directory: Path) -> Iterator[World]:
    """Start everything, and stop it at the end."""
    logs = directory / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    servers.install(["CML_TEST_RABBIT_URL", "CML_TEST_MYSQL_URL"], logs)
    port = free_port()
    jobs: dict[int, Job] = {}
    with ExitStack() as cleanup:
        broker = servers.start_rabbitmq(logs)
        cleanup.callback(broker.stop)
        database = servers.start_mariadb(logs)
        cleanup.callback(database.stop)
        urls = [sa.make_url(server.url) for server in (broker, database)]
        wires = [cleanup.enter_context(Wire(url.port or 0)) for url in urls]
        rabbit_url, database_url = (url.set(port=wire.port).render_as_string(hide_password=False)
                                    for url, wire in zip(urls, wires, strict=True))
        cloud = LocalCloud(directory / "cloud", ml_endpoint=f"http://127.0.0.1:{port}", gpus=GPUS, args=("--delete-time", "0.2"))
        cleanup.callback(cloud.stop)
        cloud.start()
        cloud.fault("settings", host_status=1)
        cloud.quota("service", instances=INSTANCES)
        service = CampaignService(directory / "service", cloud, port, rabbit_url, database_url)
        cleanup.callback(service.stop)
        service.prepare()
        service.start()
        ledger = cleanup.enter_context(Ledger(lambda entry, _: jobs[int(entry.run.removeprefix("job"))].answer(entry)))
        engine = sa.create_engine(urls[1].set(database=service.database.name), poolclass=sa.NullPool, isolation_level="AUTOCOMMIT")
        yield World(directory, cloud, service, broker, database, *wires, PatientClient(cloud.session("local"), cloud.pace), ledger, jobs,
                    engine)
