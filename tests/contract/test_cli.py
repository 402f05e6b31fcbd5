"""The plain ``openstack`` command works against the cloud."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from openstack import connection as sdk_connection

from tests.contract.conftest import Job, Target


class Command:
    """The command of the environment that the tests run in, for the cloud under test."""

    def __init__(self, cloud: str) -> None:
        self._command = [str(Path(sys.executable).parent / "openstack"), "--os-cloud", cloud]

    def run(self, *args: str) -> subprocess.CompletedProcess[str]:
        """Run it, whatever comes of it."""
        env = {name: value for name, value in os.environ.items() if not name.startswith("OS_") or name == "OS_CLIENT_CONFIG_FILE"}
        return subprocess.run([*self._command, *args], capture_output=True, text=True, check=False, timeout=120, env=env)

    def __call__(self, *args: str) -> str:
        """Run it; give what it prints. :raises AssertionError: it failed."""
        done = self.run(*args)
        assert done.returncode == 0, f"{args}: {done.stderr}"
        return done.stdout

    def json(self, *args: str) -> Any:
        return json.loads(self(*args, "-f", "json"))


@pytest.fixture(scope="module")
def command(target: Target) -> Command:
    return Command(target.cloud)


def test_images_flavors_and_networks(command: Command, target: Target) -> None:
    assert command.json("image", "show", target.image)["properties"]["cml_framework"]
    assert target.flavor in {flavor["Name"] for flavor in command.json("flavor", "list")}
    networks = {network["Name"]: network for network in command.json("network", "list")}
    assert networks[target.network]["Subnets"]


def test_tokens_and_the_catalog(command: Command) -> None:
    assert command.json("token", "issue")["project_id"]
    assert {"compute", "identity", "image", "network"} <= {service["Type"] for service in command.json("catalog", "list")}
    assert command.json("limits", "show", "--absolute")


def test_servers(command: Command, pair: Job, target: Target) -> None:
    server = min(pair.servers(), key=lambda one: one.name)
    listed = {entry["ID"]: entry for entry in command.json("server", "list", "--tags", f"cml:job:{pair.id}")}
    assert len(listed) == 2
    assert listed[server.id]["Status"] == "ACTIVE"
    assert listed[server.id]["Flavor"] == target.flavor
    assert listed[server.id]["Image"] == target.image
    shown = command.json("server", "show", f"{pair.name}-1")
    assert shown["id"] == server.id
    assert server.address in json.dumps(shown["addresses"])
    assert {"cml-nova", f"cml:job:{pair.id}"} <= set(shown["tags"])
    assert len(command.json("port", "list", "--server", server.id)) == 1


def test_a_server_made_by_hand(command: Command, job: Job, target: Target, connection: sdk_connection.Connection) -> None:
    made = command.json("server", "create", "--wait", "--image", target.image, "--flavor", target.flavor, "--network", target.network,
                        "--property", "purpose=contract", job.name)
    try:
        assert made["status"] == "ACTIVE"
        assert made["properties"] == {"purpose": "contract"}
        assert connection.compute.find_server(job.name).id == made["id"]
    finally:
        command("server", "delete", "--wait", made["id"])
    gone = command.run("server", "show", made["id"])
    assert gone.returncode != 0
    assert made["id"] in gone.stderr


def test_another_project_sees_nothing(pair: Job, target: Target) -> None:
    server, _ = pair.servers()
    other = Command(target.other_cloud)
    assert server.id not in {entry["ID"] for entry in other.json("server", "list")}
    assert other.run("server", "delete", server.id).returncode != 0
    assert len(pair.active()) == 2
