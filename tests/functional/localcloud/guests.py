"""Guests of the local cloud, and how its tests log in to them."""

from __future__ import annotations

import io
import itertools
import shlex
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import asyncssh
import paramiko

from cml_nova.localcloud.hypervisor import Hypervisor
from tests.harness.waiting import until

PORT = 2200
USER_KEY = asyncssh.generate_private_key("ssh-ed25519")
_addresses = itertools.count(1)


def new_address() -> str:
    number = next(_addresses)
    return f"127.70.{number // 250}.{number % 250 + 1}"


def cloud_config(host_key: asyncssh.SSHKey, in_users: bool = False) -> bytes:
    private = "".join(f"    {line}\n" for line in host_key.export_private_key().decode().splitlines())
    authorized = USER_KEY.export_public_key().decode()
    login = f"users:\n  - default\n  - name: cml\n    ssh_authorized_keys:\n      - {authorized}" if in_users else (
        f"ssh_authorized_keys:\n  - {authorized}")
    return f"#cloud-config\nssh_keys:\n  ed25519_private: |\n{private}{login}\n".encode()


@dataclass
class Machine:
    """A booted guest and how to log in to it."""

    hypervisor: Hypervisor
    server_id: str
    address: str
    host_key: asyncssh.SSHKey
    home: Path

    def transport(self, key: asyncssh.SSHKey = USER_KEY, timeout: float = 10) -> paramiko.Transport:
        sock = socket.create_connection((self.address, PORT), timeout=timeout)
        transport = paramiko.Transport(sock)
        transport.banner_timeout = transport.auth_timeout = timeout
        try:
            transport.connect(username="cml", pkey=paramiko_key(key), hostkey=paramiko_key(self.host_key))
        except BaseException:
            transport.close()
            raise
        return transport

    def run(self, command: str, stdin: bytes = b"") -> tuple[int, bytes, bytes]:
        """Run a command over a connection of its own; exit status, stdout, stderr."""
        with closing(self.transport()) as transport:
            return execute(transport, command, stdin)

    def start_detached(self, command: str) -> int:
        """Start a shell command in a session of its own, with nothing of the connection left open; give its pid."""
        pid_file = self.home / "detached"
        script = f"echo $$ >{pid_file}.new; mv {pid_file}.new {pid_file}; {command}"
        status, _, err = self.run(f"rm -f {pid_file}; setsid sh -c {shlex.quote(script)} </dev/null >/dev/null 2>&1 &")
        assert (status, err) == (0, b"")
        return int(until(lambda: pid_file.exists() and pid_file.read_text(), 10, "the detached process"))

    def fault(self, fault: str) -> None:
        self.hypervisor.fault(self.server_id, fault)


def paramiko_key(key: asyncssh.SSHKey) -> paramiko.PKey:
    return paramiko.Ed25519Key.from_private_key(io.StringIO(key.export_private_key().decode()))


def execute(transport: paramiko.Transport, command: str, stdin: bytes = b"") -> tuple[int, bytes, bytes]:
    channel = transport.open_session(timeout=10)
    channel.settimeout(30)
    channel.exec_command(command)
    # Both ways at the same time: else each side may wait for the other to read.
    feeder = threading.Thread(target=feed, args=(channel, stdin))
    feeder.start()
    out = b"".join(iter(lambda: channel.recv(2**20), b""))
    err = b"".join(iter(lambda: channel.recv_stderr(2**20), b""))
    feeder.join()
    return channel.recv_exit_status(), out, err


def feed(channel: paramiko.Channel, data: bytes) -> None:
    with suppress(OSError):  # the command may end before it has read everything
        for start in range(0, len(data), 2**18):
            channel.sendall(data[start : start + 2**18])
        channel.shutdown_write()


@contextmanager
def booted(cloud: Hypervisor, in_users: bool = False) -> Iterator[Machine]:
    """Boot a guest, and destroy it at the end. ``in_users``: its user data gives the key to the user, not to the first user of all."""
    address, host_key = new_address(), asyncssh.generate_private_key("ssh-ed25519")
    server_id = "server-" + address.replace(".", "-")
    cloud.boot(server_id, address, "plain", cloud_config(host_key, in_users), "guest-name", {"purpose": "test"})
    yield Machine(cloud, server_id, address, host_key, cloud._dir / "guests" / server_id)
    cloud.destroy(server_id)
