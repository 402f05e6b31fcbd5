"""A guest: what a "VM" of the local cloud is. An address with an SSH server, a directory as its file tree, and processes.

The guest keeps the listening socket itself and lends the SSH server a duplicate. So a hung guest still completes TCP handshakes (the
kernel does) while nobody answers, as a frozen machine behind a live network card does.
"""

from __future__ import annotations

import asyncio
import errno
import gzip
import json
import logging
import os
import re
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncssh
import yaml

from cml_nova.localcloud import simulated
from cml_nova.localcloud.processes import MARKER, ProcessTable
from cml_nova.localcloud.sessions import Session

_BACKLOG = 128
_KEY = "ssh-ed25519"
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class AddressInUse(Exception):
    """Another server, or another program, listens on the address and port."""


@dataclass(frozen=True)
class Login:
    """What cloud-init would take from the user data: the SSH host key (None: make one) and who may log in."""

    host_key: asyncssh.SSHKey | None = None
    authorized: list[str] = field(default_factory=list)


def read_user_data(user_data: bytes | None, log: logging.Logger) -> Login:
    """Read a cloud-config (``ssh_keys.ed25519_private``, ``ssh_authorized_keys`` at the top and in ``users``).

    As with cloud-init, user data that can't be understood does not keep the machine from booting; it is logged.
    """
    if not user_data:
        return Login()
    try:
        text = (gzip.decompress(user_data) if user_data.startswith(b"\x1f\x8b") else user_data).decode()
        if not text.startswith("#cloud-config"):
            log.warning("user data is no cloud-config: ignored")
            return Login()
        document = yaml.load(text, Loader=_Loader)  # noqa: S506 - a safe loader in either case
        return _login(document if isinstance(document, dict) else {})
    except (OSError, EOFError, UnicodeDecodeError, yaml.YAMLError, asyncssh.KeyImportError) as error:
        # Only the kind of error: its text may quote the document, which holds a private key.
        log.warning("user data can't be understood (%s): ignored", type(error).__name__)
        return Login()


def _login(document: dict[str, Any]) -> Login:
    private = _section(document, "ssh_keys", dict).get("ed25519_private")
    keys = list(_section(document, "ssh_authorized_keys", list))
    for user in _section(document, "users", list):
        if isinstance(user, dict):
            keys += _section(user, "ssh_authorized_keys", list)
    return Login(asyncssh.import_private_key(private) if private else None, [str(key).strip() for key in keys])


def _section(document: dict[str, Any], name: str, kind: type) -> Any:
    value = document.get(name)
    return value if isinstance(value, kind) else kind()


def _expired(line: str) -> bool:
    """Tell whether a line of authorized_keys has the option expiry-time, in local time, and is over."""
    found = re.match(r'expiry-time="(\d{14})"', line)
    return found is not None and found[1] < time.strftime("%Y%m%d%H%M%S")


class Guest:
    """One server's machine. Everything here runs in the thread of the hypervisor's loop.

    :param home: its directory: home and working directory of every command.
    :param path: the PATH of every command.
    :param processes: where its commands are entered, and what marks them.
    :param login_delay: tells for how many seconds its SSH server thinks before it lets anybody in.
    :param machine: answers for its commands in their place; see :mod:`simulated`.
    """

    def __init__(
        self, server_id: str, address: str, port: int, hostname: str, *, home: Path, path: str, processes: ProcessTable,
        login: Login, login_delay: Callable[[], float], log: logging.Logger, machine: simulated.Machine | None = None,
    ) -> None:
        self.server_id = server_id
        self.address = address
        self.hostname = hostname
        self.home = home
        self.log = log
        self.on = False
        self.commands: set[int] = set()  # the processes that sessions wait for
        self.used = False  # whether any command ever ran: without, there is no need to look for processes
        self._port = port
        self._path = path
        self._processes = processes
        self.machine = machine
        self.login_delay = login_delay
        self._host_key = login.host_key or asyncssh.generate_private_key(_KEY)
        self._first_keys = login.authorized
        self._connections: set[asyncssh.SSHServerConnection] = set()
        self._socket: socket.socket | None = None
        self._acceptor: asyncssh.SSHAcceptor | None = None
        self.hung = False
        self._cut = False

    def environ(self, user: str) -> dict[str, str]:
        """The environment of a command: of this guest only, nothing of the process that runs the cloud."""
        home = str(self.home)
        return {
            "HOME": home, "PWD": home, "PATH": self._path, "LANG": "C.UTF-8", "SHELL": "/bin/sh", "USER": user, "LOGNAME": user,
            "HOSTNAME": self.hostname, MARKER: self._processes.marker(self.server_id),
        }

    def began(self, pid: int) -> None:
        """Note a command that a session has started."""
        self.used = True
        self.commands.add(pid)
        self._processes.roots[pid] = self.server_id

    def ended(self, pid: int) -> None:
        """Forget a command, before it is reaped and its pid becomes somebody else's."""
        self.commands.discard(pid)
        self._processes.roots.pop(pid, None)

    # Logins

    @property
    def _keys(self) -> Path:
        return self.home / ".ssh" / "authorized_keys"

    def authorized(self) -> asyncssh.SSHAuthorizedKeys | None:
        """Who may log in now: as sshd, the file is read for each login, and its option expiry-time is heeded; None for nobody."""
        try:
            lines = self._keys.read_text(errors="replace").splitlines()
        except OSError:
            return None
        valid = [line for line in lines if not _expired(line)]
        try:
            return asyncssh.import_authorized_keys("\n".join(valid))
        except ValueError:  # there is no key in it
            return None

    # Power

    async def power_on(self, metadata: dict[str, Any]) -> None:
        """Take the address, make the home directory, start the SSH server.

        :raises AddressInUse: nothing has been done then.
        """
        self._socket = self._bind()
        try:
            self._socket.listen(_BACKLOG)
        except OSError as error:
            self._socket.close()
            raise AddressInUse(f"{self.address}:{self._port}: {os.strerror(error.errno or 0)}") from error
        drive = self.home / ".config-drive" / "openstack" / "latest"
        drive.mkdir(parents=True, exist_ok=True)
        (drive / "meta_data.json").write_text(json.dumps({"uuid": self.server_id, "hostname": self.hostname, "meta": metadata}))
        if not self._keys.exists():  # as cloud-init does at the first boot
            self._keys.parent.mkdir(mode=0o700, exist_ok=True)
            self._keys.write_text("".join(f"{key}\n" for key in self._first_keys))
        self.on = True
        await self._accept()

    def power_off(self) -> None:
        """Stop serving and drop every connection, as a machine does that loses power: no new command can start after this."""
        self.on = False
        if self.machine:
            self.machine.power_off()
        self._refuse()
        self._drop_connections()
        if self._socket:
            self._socket.close()
            self._socket = None

    # Faults

    def hang(self) -> None:
        """Stop answering: connections stand still, new ones are taken by the kernel only. (The processes are stopped elsewhere.)"""
        self.hung = True
        self._refuse()
        for transport in self._transports():
            transport.pause_reading()

    async def resume(self) -> None:
        """End a hang: whatever has piled up is answered now."""
        if not self.hung:
            return
        self.hung = False
        for transport in self._transports():
            transport.resume_reading()
        await self._accept()

    def cut(self) -> None:
        """Cut the SSH path: connections are reset, new ones refused; the address stays taken, the processes live."""
        if self._cut or not self._socket:
            return
        self._cut = True
        self._refuse()
        self._drop_connections()
        self._socket.close()
        self._socket = self._bind()

    async def mend(self) -> None:
        """Make good a cut."""
        if not self._cut or not self._socket:
            return
        self._socket.listen(_BACKLOG)
        self._cut = False
        await self._accept()

    async def rekey(self) -> None:
        """Get another SSH host key, as a machine that was built anew or is another one; connections are reset."""
        self._host_key = asyncssh.generate_private_key(_KEY)
        self._refuse()
        self._drop_connections()
        await self._accept()

    # Network

    def _bind(self) -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((self.address, self._port))
            sock.setblocking(False)
        except OSError as error:
            sock.close()
            if error.errno == errno.EADDRINUSE:
                raise AddressInUse(f"{self.address}:{self._port} is in use") from error
            raise
        return sock

    async def _accept(self) -> None:
        """Start the SSH server, unless a fault forbids."""
        if not self.on or self.hung or self._cut or not self._socket:
            return
        self._acceptor = await asyncssh.listen(
            sock=self._socket.dup(), backlog=_BACKLOG, server_factory=lambda: _Server(self), server_host_keys=[self._host_key],
            encoding=None, line_editor=False, gss_host=None, agent_forwarding=False,
            password_auth=False, kbdint_auth=False, host_based_auth=False, compression_algs=None,
        )

    def _refuse(self) -> None:
        """Stop the SSH server's accepting; the guest's own socket goes on listening."""
        if self._acceptor:
            self._acceptor.close()
            self._acceptor = None

    def _drop_connections(self) -> None:
        for connection in list(self._connections):
            sock = connection.get_extra_info("socket")
            if sock:  # reset instead of an orderly end
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.abort()

    def _transports(self) -> list[asyncio.Transport]:
        """The TCP transports below the connections. asyncssh has no public way to make a connection stand still."""
        transports = (connection._transport for connection in self._connections)
        return [transport for transport in transports if transport]

    def connected(self, connection: asyncssh.SSHServerConnection) -> None:
        self._connections.add(connection)
        if self.hung or not self.on:  # accepted just before the server stopped accepting
            connection.abort()

    def disconnected(self, connection: asyncssh.SSHServerConnection) -> None:
        self._connections.discard(connection)


class _Server(asyncssh.SSHServer):
    """One connection: public keys only, any user name; sessions, and connections within the guest."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = conn
        self._guest.connected(conn)

    def connection_lost(self, exc: Exception | None) -> None:
        self._guest.disconnected(self._connection)

    async def begin_auth(self, username: str) -> bool:
        await asyncio.sleep(self._guest.login_delay())
        keys = self._guest.authorized()
        if keys is not None:
            self._connection.set_authorized_keys(keys)
        return True  # everybody has to authenticate

    def public_key_auth_supported(self) -> bool:
        return True

    def connection_requested(self, dest_host: str, dest_port: int, orig_host: str, orig_port: int) -> Any:
        if not self._guest.on or dest_host not in ("127.0.0.1", "localhost"):
            return False
        return self._forward(dest_port)

    async def _forward(self, port: int) -> asyncssh.SSHTCPSession:
        """Connect to a port of the guest. All guests share one loopback address; what listens on the guest's own is found before that."""
        try:
            return await self._connection.forward_connection(self._guest.address, port)
        except asyncssh.ChannelOpenError:
            return await self._connection.forward_connection("127.0.0.1", port)

    def session_requested(self) -> Session | simulated.Session | bool:
        if not self._guest.on:
            return False
        if self._guest.machine:
            return simulated.Session(self._guest, self._guest.machine)
        return Session(self._guest, self._connection.get_extra_info("username"))

