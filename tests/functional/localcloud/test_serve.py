"""The command that runs the local cloud: how it starts, refuses to start, ends, and starts again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import openstack
import pytest
from keystonemiddleware import auth_token
from webob import Request, Response

COMMAND = [sys.executable, "-m", "cml_nova.cmd.localcloud", "serve", "--port", "0", "--boot-time", "0.05", "--delete-time", "0.02"]


@contextmanager
def running(state: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    with (state.parent / "log").open("a") as log, subprocess.Popen([*COMMAND, "--state-dir", str(state), *options], text=True,
                                                                   stdout=subprocess.PIPE, stderr=log) as process:
        try:
            assert process.stdout and "http://127.0.0.1:" in process.stdout.readline()
            yield process
        finally:
            process.kill()


def connect(state: Path, cloud: str = "local") -> openstack.connection.Connection:
    config = openstack.config.OpenStackConfig(config_files=[str(state / "clouds.yaml")], vendor_files=[], secure_files=[],
                                             load_envvars=False)
    return openstack.connection.Connection(config=config.get_one(cloud), compute_default_microversion="2.90")


def boot(connection: openstack.connection.Connection, name: str) -> openstack.compute.v2.server.Server:
    server = connection.compute.create_server(
        name=name, image_id=connection.image.find_image("plain").id, flavor_id=connection.compute.find_flavor("cpu.small").id,
        networks="auto")
    return connection.compute.wait_for_server(server, interval=0.05, wait=30)


def test_a_killed_cloud_starts_again_with_its_servers_off(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with running(state) as process:
        server = boot(connect(state), "one")
        process.kill()
        process.wait(30)
    with running(state):
        connection = connect(state)
        assert connection.compute.get_server(server.id).status == "SHUTOFF"
        connection.compute.start_server(server.id)
        connection.compute.wait_for_server(server, status="ACTIVE", interval=0.05, wait=30)
        connection.compute.delete_server(server.id)
        connection.compute.wait_for_delete(server, interval=0.05, wait=30)


def test_sigterm_ends_it_cleanly(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with running(state) as process:
        boot(connect(state), "one")
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


@pytest.mark.parametrize(("options", "says"), [
    (lambda state, port: ["--state-dir", str(state.parent / "other"), "--port", str(port)], "choose another port with --port"),
    (lambda state, port: ["--state-dir", str(state)], "another local cloud runs with the state directory"),
    (lambda state, port: ["--state-dir", str(state), "--host", "0.0.0.0"], "loopback"),
    (lambda state, port: ["--state-dir", str(state), "--network", "10.0.0.0/16"], "--network"),
])
def test_refusals(tmp_path: Path, options: Callable[[Path, int], list[str]], says: str) -> None:
    state = tmp_path / "state"
    with running(state):
        port = int(connect(state).config.config["auth"]["auth_url"].split(":")[2].split("/")[0])
        done = subprocess.run([*COMMAND, *options(state, port)], capture_output=True, text=True, timeout=60,
                              env={**os.environ, "PYTHONWARNINGS": "ignore"})
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("cml-nova-localcloud: ") and says in done.stderr
        assert connect(state).compute.get("/servers").status_code == 200


def test_keystonemiddleware_accepts_its_tokens(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with running(state):
        auth = connect(state, "local-service").config.config["auth"]
        seen: list[tuple[str, str]] = []

        def service(environ: dict, start_response: Callable) -> object:
            seen.append((environ["HTTP_X_USER_NAME"], environ["HTTP_X_ROLES"]))
            return Response()(environ, start_response)

        guarded = auth_token.AuthProtocol(service, {"auth_type": "password", **auth})
        for token, status in ((connect(state).auth_token, 200), ("made-up", 401), (None, 401)):
            request = Request.blank("/", headers={"X-Auth-Token": token} if token else {})
            assert request.get_response(guarded).status_int == status
        assert seen == [("demo", "member,reader")]
