"""Logging in to a node over SSH.

The host key is pinned: it was made by us and put into the node, so that any other key is somebody else's machine. Nothing is
ever added to a list of known hosts, and nothing is read from one.
"""

from __future__ import annotations

import base64
import hashlib
import io
import select
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass

import paramiko

from cml_nova import exception
from cml_nova.remote.session import deadline_left

#: seconds for the TCP connection alone. The kernel repeats a lost SYN after 1, 3 and 7 s; a machine that comes up meanwhile is
#: found sooner by trying anew
_DIAL = 2.5

#: logins that a process makes at a time: hundreds of threads that calculate at a time would take so long that none got anywhere
LOGINS = 64
_logins = threading.BoundedSemaphore(LOGINS)


@dataclass(frozen=True)
class Access:
    """How a machine is reached. Keys are OpenSSH texts: the login's private key, the host's public one."""

    address: str
    port: int
    user: str
    private_key: str
    host_key: str

    def __repr__(self) -> str:
        return f"Access({self.user}@{self.address}:{self.port})"


class _Socket(socket.socket):
    """A socket on which a thread sleeps until something comes, or it is closed.

    paramiko asks for a timeout of a tenth of a second so that its reader sees when it is closed: two thousand readers would keep a
    processor busy with that alone. Here closing wakes the reader.
    """

    def settimeout(self, value: float | None) -> None:
        """Have none."""

    def close(self) -> None:
        """Close it; who reads gets the end, who writes an error."""
        with suppress(OSError):  # not connected any more
            self.shutdown(socket.SHUT_RDWR)
        super().close()


def log_in(access: Access, deadline: float) -> tuple[paramiko.Transport, float]:
    """Connect and log in, in one try; give the connection, and how many seconds the wait for a turn took, which the time is longer by.

    :param deadline: by the monotonic clock.
    :raises HostKeyRefused: another key answers under this address.
    :raises RemoteError: anything else went wrong, which may pass; its detail ``answered`` is set where an SSH server was there,
        ``refused`` where only the machine was.
    """
    sock = _dial(access, deadline)
    asked = time.monotonic()
    with _logins:
        waited = time.monotonic() - asked
        return _log_in(access, sock, deadline + waited), waited


def _dial(access: Access, deadline: float) -> _Socket:
    """Connect, and wait for the word by which an SSH server begins: a machine that is silent takes nobody's turn to log in."""
    try:
        dialled = socket.create_connection((access.address, access.port), timeout=min(_DIAL, max(0.1, deadline_left(deadline))))
    except OSError as error:
        refused = isinstance(error, ConnectionRefusedError)
        raise exception.RemoteError(f"{access.address}:{access.port}: no connection: {say(error)}.", refused=refused) from error
    dialled.settimeout(None)
    sock = _Socket(fileno=dialled.detach())
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in ((socket.TCP_KEEPIDLE, 15), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 4)):
        sock.setsockopt(socket.IPPROTO_TCP, option, value)
    poller = select.poll()
    poller.register(sock, select.POLLIN)
    if not poller.poll(1000 * deadline_left(deadline)):
        sock.close()
        raise exception.RemoteError(f"{access.address}: SSH failed: no answer in time.", answered=True)
    return sock


def _log_in(access: Access, sock: _Socket, deadline: float) -> paramiko.Transport:
    kind, blob = _split(access.host_key)
    transport = paramiko.Transport(sock)
    try:
        transport.get_security_options().key_types = [kind]
        transport.banner_timeout = transport.auth_timeout = max(0.1, deadline_left(deadline))
        transport.start_client(timeout=max(0.1, deadline_left(deadline)))
        answered = transport.get_remote_server_key()
        if answered.get_name() != kind or answered.asbytes() != blob:
            raise exception.HostKeyRefused(
                f"{access.address}: the machine that answers has the host key {fingerprint(answered.asbytes())}, and not "
                f"{fingerprint(blob)}, which was put into the node. It is another machine, or somebody is in between.")
        transport.auth_publickey(access.user, paramiko.Ed25519Key.from_private_key(io.StringIO(access.private_key)))
    except (paramiko.SSHException, OSError, EOFError) as error:
        transport.close()
        raise exception.RemoteError(f"{access.address}: SSH failed: {say(error)}.", answered=True) from error
    except BaseException:
        transport.close()
        raise
    return transport



def fingerprint(blob: bytes) -> str:
    """Name a public key the way OpenSSH does."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def _split(public_key: str) -> tuple[str, bytes]:
    kind, blob = public_key.split()[:2]
    return kind, base64.b64decode(blob)


def say(error: BaseException) -> str:
    return str(error) or type(error).__name__
