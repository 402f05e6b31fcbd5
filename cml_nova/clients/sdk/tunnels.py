"""Tunnels to nodes of jobs: TCP connections that go through the service."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import websocket
from openstack import exceptions

from cml_nova.clients.sdk.errors import explain

#: seconds that the way to a node may take to open
_OPENING = 90
_PIECE = 65536
_EOF = "eof"
_NORMAL = 1000
#: a service that has vanished does not say so
_KEEP_ALIVE = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1), (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)]


class TunnelError(exceptions.SDKException):
    """There is no tunnel; says why."""


@dataclass(frozen=True)
class TunnelTicket:
    """What opens a tunnel for a minute.

    :ivar url: of the websocket.
    :ivar node: rank of the node.
    :ivar user: login name on it.
    :ivar host_key: its SSH host key, the only one to be trusted.
    """

    url: str
    token: str = field(repr=False)
    expires_at: str
    node: int
    task: str | None
    port: int | None
    user: str
    host_key: str


class Tunnel:
    """An open tunnel.

    :ivar word: why the service has ended it; empty where both sides had nothing more to say.
    """

    def __init__(self, ticket: TunnelTicket, verify: bool | str = True) -> None:
        """Open it.

        :param verify: as with requests: whether certificates are checked, or the file of those that are trusted.
        :raises TunnelError: that can't be done; says why.
        """
        self.word = ""
        try:
            self._socket = websocket.create_connection(
                ticket.url, timeout=_OPENING, header=[f"Authorization: Bearer {ticket.token}"], sslopt=_tls(verify), sockopt=_KEEP_ALIVE,
                redirect_limit=0, enable_multithread=True)
            if self._socket.getstatus() != 101:  # a redirect: nobody else gets the token
                raise TunnelError(f"{ticket.url} is no tunnel: it answers {self._socket.getstatus()}.")
            first = json.loads(self._socket.recv())
        except websocket.WebSocketBadStatusException as error:
            what = "does not take the token; is its clock or its key another than the API's?" if error.status_code == 401 else (
                f"answers {error.status_code}; an operator has to see to [tunnel] public_url, or to what stands before it.")
            raise TunnelError(f"The tunnel at {ticket.url} {what}") from None
        except (websocket.WebSocketException, OSError, ValueError) as error:
            raise TunnelError(f"There is no connection to the tunnel at {ticket.url}: {str(error) or type(error).__name__}.") from None
        if "error" in first:
            self.close()
            raise TunnelError(first["error"])
        self._socket.settimeout(None)

    def relay(self, read: Callable[[], bytes], write: Callable[[bytes], Any], end: Callable[[], None]) -> None:
        """Carry bytes both ways until the tunnel is over.

        :param read: waits for some bytes to be sent; b"" for the end of them. It is called in a thread of its own.
        :param write: takes bytes that have come.
        :param end: is told that no more come.
        """
        threading.Thread(target=self._send, args=(read,), name="tunnel", daemon=True).start()
        with contextlib.suppress(websocket.WebSocketException, OSError):  # either side has gone away
            while self._take(write, end):
                pass
        self.abort()

    def relay_socket(self, sock: socket.socket) -> None:
        """Carry bytes between the tunnel and a socket, until the tunnel is over."""
        try:
            self.relay(lambda: sock.recv(_PIECE), sock.sendall, lambda: sock.shutdown(socket.SHUT_WR))
        finally:
            with contextlib.suppress(OSError):  # wakes who reads; it may be closed
                sock.shutdown(socket.SHUT_RDWR)

    def abort(self) -> None:
        """Break it off."""
        with contextlib.suppress(OSError):
            self._socket.abort()

    def close(self) -> None:
        """End it, if it is not over."""
        self._socket.close()

    def _send(self, read: Callable[[], bytes]) -> None:
        try:
            while data := read():
                self._socket.send_binary(data)
            self._socket.send(_EOF)
        except (websocket.WebSocketException, OSError):
            self.abort()

    def _take(self, write: Callable[[bytes], Any], end: Callable[[], None]) -> bool:
        """Take a message; tell whether there may be another one."""
        opcode, data = self._socket.recv_data()
        if opcode == websocket.ABNF.OPCODE_CLOSE:
            if int.from_bytes(data[:2], "big") != _NORMAL:
                self.word = data[2:].decode(errors="replace")
            return False
        if opcode == websocket.ABNF.OPCODE_BINARY:
            write(data)
        elif data == _EOF.encode():
            end()
        return True


class Forward:
    """A port of this machine that leads to a port of a node. ``with forward: ...``, or ``start`` and ``close``.

    :ivar address: host and port on which it listens, on this machine only.
    """

    def __init__(self, ask: Callable[[], TunnelTicket], open_tunnel: Callable[[TunnelTicket], Tunnel], local_port: int,
                 notify: Callable[[str], None]) -> None:
        """Listen.

        :param ask: gives a ticket for each connection.
        :param notify: is told of connections that could not be made.
        :raises OSError: the port can't be had.
        """
        self._ask, self._open_tunnel, self._notify = ask, open_tunnel, notify
        self._listener = socket.create_server(("127.0.0.1", local_port))
        self.address: tuple[str, int] = self._listener.getsockname()
        self._over = threading.Event()
        self._failure: Exception | None = None
        self._lock = threading.Lock()
        self._tunnels: set[Tunnel] = set()

    def start(self) -> None:
        """Take connections, in threads beside."""
        threading.Thread(target=self._accept, name="forward", daemon=True).start()

    def wait(self) -> None:
        """Wait until the job has no such node any more, or ``close``.

        :raises HttpException: (of openstack.exceptions) the service's word that it is so.
        """
        self._over.wait()
        if self._failure:
            raise self._failure

    def close(self) -> None:
        """Take no more connections, and end those that there are."""
        self._over.set()
        with contextlib.suppress(OSError):  # wakes who accepts
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            tunnels = list(self._tunnels)
        for tunnel in tunnels:
            tunnel.abort()

    def __enter__(self) -> Forward:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _accept(self) -> None:
        while not self._over.is_set():
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return  # closed
            threading.Thread(target=self._serve, args=(sock,), name="forward", daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        with sock:
            try:
                tunnel = self._open_tunnel(self._ask())
            except Exception as error:
                self._trouble(error)
                return
            with self._lock:
                self._tunnels.add(tunnel)
            tunnel.relay_socket(sock)
            with self._lock:
                self._tunnels.discard(tunnel)
        if tunnel.word and not self._over.is_set():
            self._notify(tunnel.word)
            try:
                self._ask()
            except Exception as error:
                self._trouble(error)

    def _trouble(self, error: Exception) -> None:
        """End with the job; anything else is of one connection."""
        if isinstance(error, (exceptions.ConflictException, exceptions.NotFoundException)):
            self._failure = error
            self._over.set()
        else:
            self._notify(explain(error))


def _tls(verify: bool | str) -> dict[str, Any]:
    """Say how certificates are checked, as requests does."""
    if not verify:
        return {"cert_reqs": ssl.CERT_NONE, "check_hostname": False}
    trusted = verify if isinstance(verify, str) else os.environ.get("REQUESTS_CA_BUNDLE")
    return {"ca_certs": trusted} if trusted else {}
