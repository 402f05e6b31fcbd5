"""A daemon whose configuration does not let it start says in one line what is wrong and what to do, and ends."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from cml_nova.secrets import create_key_file
from tests.harness.service import UWSGI_INI


def configuration(directory: Path, more: str = "") -> Path:
    """Write a configuration with which each daemon would start if it had its database's tables and a key file."""
    path = directory / "cml_nova.conf"
    path.write_text(f"[DEFAULT]\ntransport_url = fake:/\n[database]\nconnection = sqlite:///{directory}/db.sqlite\n"
                    f"[secrets]\nkey_file = {directory}/keys\n[storage]\npath = {directory}/storage\n[api]\nauth_strategy = none\n"
                    f"[cloud]\nauth_type = password\nauth_url = http://127.0.0.1:1/v3\n{more}")
    return path


def refusal(module: str, config: Path) -> str:
    """Start a daemon that is not to start; give all that it prints."""
    done = subprocess.run([sys.executable, "-m", f"cml_nova.cmd.{module}", "--config-file", str(config)], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, timeout=60, check=False)
    assert done.returncode == 1, done.stdout
    return done.stdout


def test_conductor_without_tables(tmp_path: Path) -> None:
    assert refusal("conductor", configuration(tmp_path)) == (
        "cml-nova-conductor can't start: [database] connection: that one has no tables of this service: run cml-nova-manage db sync\n")


def test_worker_without_keys(tmp_path: Path) -> None:
    assert refusal("worker", configuration(tmp_path)) == (
        f"cml-nova-worker can't start: [secrets] key_file {tmp_path}/keys does not exist; cml-nova-manage secrets create makes one\n")


def test_worker_without_its_configuration(tmp_path: Path) -> None:
    assert refusal("worker", tmp_path / "none.conf") == (
        f"cml-nova-worker can't start: Failed to find some config files: {tmp_path}/none.conf\n")


@pytest.mark.parametrize(("module", "option"), [("worker", "[tunnel]\nport"), ("standalone", "[api]\nstandalone_port")])
def test_port_that_is_taken(tmp_path: Path, module: str, option: str) -> None:
    create_key_file(tmp_path / "keys")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = refusal(module, configuration(tmp_path, f"{option} = {port}\n"))
    assert said.startswith(f"cml-nova-{module} can't start: ")
    assert said.count("\n") == 1
    assert f"127.0.0.1:{port}: Address already in use" in said
    assert all(word in said for word in option.split())


def test_api_under_uwsgi_without_keys(tmp_path: Path) -> None:
    config = configuration(tmp_path)
    manage = [sys.executable, "-m", "cml_nova.cmd.manage", "--config-file", str(config)]
    subprocess.run([*manage, "db", "sync"], check=True, capture_output=True)
    environ = os.environ | {"CML_NOVA_CONFIG_FILES": str(config), "CML_NOVA_API_BIND": "127.0.0.1:0"}
    uwsgi = [str(Path(sys.executable).parent / "uwsgi"), "--ini", str(UWSGI_INI)]
    done = subprocess.run(uwsgi, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0, "it ends, rather than to try for ever"
    assert f"cml-nova-api can't start: [secrets] key_file {tmp_path}/keys does not exist" in done.stderr
    assert "Traceback" not in done.stderr
