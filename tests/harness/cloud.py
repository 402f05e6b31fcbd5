"""The local cloud as a process of its own, and the oracle: what the cloud itself says is left in it."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests
import yaml
from keystoneauth1 import session as ks_session
from keystoneauth1.identity import v3

from tests.harness import guests
from tests.harness.base import Cloud, Options, merge
from tests.harness.process import Daemon, free_port, tail
from tests.harness.waiting import until

#: intervals short enough for tests; everything else is as operators get it
QUICK: Options = {
    "cloud": {"poll_fast": 0.1, "poll_slow": 0.5, "settle_time": 3},
    "conductor": {"lease_time": 6, "sweep_interval": 0.5, "queue_retry_min": 0.5, "queue_retry_max": 2, "orphan_interval": 3600,
                  "restart_pause_min": 0.5, "restart_pause_max": 2, "leak_suspect_after": 3},
    "worker": {"heartbeat_interval": 1, "drain_timeout": 5, "rpc_timeout": 5},
    "remote": {"connect_timeout": 5, "unreachable_after": 6, "stop_grace": 2, "max_checkpoint_bytes": 10**6},
}
_ADMIN_HEADERS = {"OpenStack-API-Version": "compute 2.90"}


@dataclass(frozen=True)
class Inventory:
    """Ids of all servers, ports, security groups and floating addresses of all projects, each with a word on what it is."""

    servers: dict[str, str] = field(default_factory=dict)
    ports: dict[str, str] = field(default_factory=dict)
    groups: dict[str, str] = field(default_factory=dict)
    floating: dict[str, str] = field(default_factory=dict)

    def beyond(self, baseline: Inventory) -> list[str]:
        """List what is here and was not in ``baseline``."""
        return [f"{kind} {name} ({ident})" for kind in ("servers", "ports", "groups", "floating")
                for ident, name in getattr(self, kind).items() if ident not in getattr(baseline, kind)]


class LocalCloud(Cloud):
    """A local cloud with its own state directory, port and addresses, so that several can run on one machine.

    :param images_dir: where built framework images are; None for the one that needs no build only.
    """

    users = ("local", "local-other", "local-admin")

    def __init__(self, directory: Path, *, ml_endpoint: str | None = None, images_dir: Path | None = None, gpus: int = 8,
                 boot_time: float = 0.1, args: tuple[str, ...] = ()) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._defaults = {"boot_time": boot_time, "delete_time": 0.0, "gpus": gpus, "host_status": 0, "cell_down": 0,
                          "leave_ports": 0, "login_delay": 0}
        command = ["cml-nova-localcloud", "serve", "--state-dir", str(directory), "--host", "127.0.0.1", "--port", str(self.port),
                   "--network", f"127.{random.randrange(65, 255)}.0.0/16", "--gpus", str(gpus), "--boot-time", str(boot_time),
                   "--delete-time", "0", *args]
        if ml_endpoint:
            command += ["--ml-endpoint", ml_endpoint]
        if images_dir:
            command += ["--images-dir", str(images_dir)]
        self.daemon = Daemon("localcloud", command, directory / "localcloud.log")
        self._sessions: dict[str, ks_session.Session] = {}
        self._baseline = Inventory()

    def start(self) -> None:
        self.daemon.start()
        until(self._ready, 60, "the local cloud's identity service")
        self._baseline = self.inventory()

    def stop(self) -> None:
        self.daemon.stop()

    def _ready(self) -> bool:
        self.daemon.check()
        try:
            return requests.get(self.url + "/identity/v3", timeout=5).ok and (self.directory / "clouds.yaml").exists()
        except requests.ConnectionError:
            return False

    def credentials(self, cloud: str) -> dict[str, str]:
        """Give the ``auth`` section of an entry of the clouds.yaml that the cloud wrote."""
        return dict(yaml.safe_load((self.directory / "clouds.yaml").read_text())["clouds"][cloud]["auth"])

    def options(self) -> Options:
        # Users and projects are named with their domains; keystonemiddleware and keystoneauth read the same options.
        account = {"auth_type": "password", **self.credentials("local-service")}
        return merge(QUICK, {
            "keystone_authtoken": {**account, "www_authenticate_uri": account["auth_url"], "interface": "public"},
            "cloud": {**account, "network": "local-net"},
            # One for each second of a node, so that a cost can be read as a time.
            "cost": {"prices": "gpu.small:3600,gpu.large:7200", "currency": "CHF"},
        })

    def session(self, cloud: str) -> ks_session.Session:
        if cloud not in self._sessions:
            auth = self.credentials(cloud)
            self._sessions[cloud] = ks_session.Session(v3.Password(**{"reauthenticate": True, **auth}), timeout=60)
        return self._sessions[cloud]

    def get(self, path: str, cloud: str = "local-admin") -> Any:
        """GET from one of the cloud's services, as the administrator; the path starts with the service's prefix."""
        return self.session(cloud).get(self.url + path, headers=_ADMIN_HEADERS, connect_retries=2).json()

    def request(self, method: str, path: str, document: Any = None, cloud: str = "local-admin") -> Any:
        """Send a document to one of the cloud's services; give the response."""
        return self.session(cloud).request(self.url + path, method, json=document, headers=_ADMIN_HEADERS)

    def servers(self, job_id: str | None = None) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.get("/compute/v2.1/servers/detail?all_tenants=1")["servers"]
        return [server for server in found if job_id is None or f"cml:job:{job_id}" in server["tags"]]

    def inventory(self) -> Inventory:
        """Take stock of everything that a job could leave behind."""
        return Inventory(
            {server["id"]: f"{server['name']} {server['status']} {server['tags']}" for server in self.servers()},
            {port["id"]: f"of device {port['device_id']!r}" for port in self.get("/network/v2.0/ports")["ports"]},
            {group["id"]: group["name"] for group in self.get("/network/v2.0/security-groups")["security_groups"]},
            {one["id"]: f"{one['floating_ip_address']} {one['description']}"
             for one in self.get("/network/v2.0/floatingips")["floatingips"]},
        )

    def leftovers(self) -> list[str]:
        """List what is in the cloud now and was not when it started, and processes of guests that are deleted.

        Default groups of projects come with first use and stay.
        """
        items = [item for item in self.inventory().beyond(self._baseline) if not item.startswith("groups default ")]
        return items or [f"process {process}" for process in guests.processes(self.directory)]

    def home(self, server_id: str) -> Path:
        """Give the home of a server's user."""
        return self.directory / "guests" / server_id

    @property
    def logs(self) -> dict[str, str]:
        return {self.daemon.name: tail(self.daemon.log_path)}

    def fault(self, kind: str, **document: Any) -> dict[str, Any]:
        """Arrange for a fault, or do one at once; give it as the cloud does."""
        response = requests.post(self.url + "/faults", json={"kind": kind, **document}, timeout=30)
        assert response.ok, f"the fault was refused: {response.status_code} {response.text}"
        return dict(response.json())

    def faults(self) -> list[dict[str, Any]]:
        """List the faults that are armed."""
        return list(requests.get(self.url + "/faults", timeout=30).json()["faults"])

    def heal(self) -> None:
        response = requests.delete(self.url + "/faults", timeout=30)
        assert response.ok, f"{response.status_code} {response.text}"
        self.fault("settings", **self._defaults)

    def quota(self, project: str, **limits: int) -> None:
        """Set a project's Nova quota by the project's name."""
        projects = self.get(f"/identity/v3/projects?name={project}")["projects"]
        self.request("PUT", f"/compute/v2.1/os-quota-sets/{projects[0]['id']}", {"quota_set": limits})

    def quota_now(self, project: str) -> dict[str, Any]:
        projects = self.get(f"/identity/v3/projects?name={project}")["projects"]
        return dict(self.get(f"/compute/v2.1/os-quota-sets/{projects[0]['id']}")["quota_set"])

    def calls(self) -> dict[str, int]:
        """Count the requests that the cloud got since the last ``forget_calls``."""
        return dict(requests.get(self.url + "/requests", timeout=30).json()["counts"])

    def times(self, kind: str) -> list[float]:
        """Tell when the (newest) requests of a kind came, as "compute POST /servers", in seconds since 1970."""
        return list(requests.get(self.url + "/requests", timeout=30).json()["times"].get(kind, ()))

    def forget_calls(self) -> None:
        requests.delete(self.url + "/requests", timeout=30)


def images_dir() -> Path | None:
    """Give the directory of built images that the environment names, if it does."""
    named = os.environ.get("CML_TEST_IMAGES_DIR")
    return Path(named) if named else None
