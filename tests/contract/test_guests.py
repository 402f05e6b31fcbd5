"""What the cloud does inside a server: user data reaches it, before SSH answers."""

from __future__ import annotations

import io
import socket
from contextlib import closing

import paramiko
import pytest

from tests.contract.conftest import Job, Target
from tests.harness.waiting import until


def connect(address: str, port: int, timeout: float) -> paramiko.Transport:
    """Connect until something speaks SSH, and give the connection with keys exchanged."""
    def attempt() -> paramiko.Transport | None:
        try:
            transport = paramiko.Transport(socket.create_connection((address, port), timeout=5))
            transport.start_client(timeout=10)
        except (OSError, paramiko.SSHException):
            return None
        return transport

    found = until(attempt, timeout, f"SSH at {address}:{port}", interval=0.2)
    assert found is not None
    return found


def private(text: str) -> paramiko.PKey:
    return paramiko.Ed25519Key.from_private_key(io.StringIO(text))


def test_host_key_and_user_key_come_from_user_data(job: Job, target: Target) -> None:
    job.create(2)
    for server in job.active():
        assert server.address
        with closing(connect(server.address, job.ssh_port, target.boot_timeout)) as transport:
            key = transport.get_remote_server_key()
            assert f"{key.get_name()} {key.get_base64()}" == " ".join(job.keys.host[1].split()[:2])
            transport.auth_publickey(job.ssh_user, private(job.keys.user[0]))
            channel = transport.open_session()
            channel.exec_command("pwd; printf %s \"$HOME\"")
            directory, home = channel.makefile().read().decode().splitlines()
            assert channel.recv_exit_status() == 0
            assert directory == home


def test_other_keys_do_not_open_it(job: Job, target: Target) -> None:
    job.create(1)
    (server,) = job.active()
    assert server.address
    with closing(connect(server.address, job.ssh_port, target.boot_timeout)) as transport:
        with pytest.raises(paramiko.AuthenticationException):
            transport.auth_publickey(job.ssh_user, private(job.keys.host[0]))


def test_a_deleted_server_answers_no_more(job: Job, target: Target) -> None:
    job.create(1)
    (server,) = job.active()
    address = server.address
    assert address
    connect(address, job.ssh_port, target.boot_timeout).close()
    job.gone()

    def silent() -> bool:
        try:
            socket.create_connection((address, job.ssh_port), timeout=2).close()
        except OSError:
            return True
        return False

    until(silent, 30, f"silence at {address}")
