"""Tunnels: websockets by which users reach the nodes of their jobs.

A tunnel is one TCP connection. It goes through an SSH connection of its own to the node, made with the job's key and pinned host key; so
the node's security group stays as it is, and the key stays here. The first message is ours, a text: ``{"open": true}``, or ``{"error":
why}``. Then binary messages are pieces of the stream, and a text ``eof`` is the end of one direction. What ends a tunnel is told in the
websocket's close.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import partial
from typing import Any

from oslo_log import log as logging
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode
from websockets.http11 import Request, Response
from websockets.sync import server

from cml_nova import context as cml_context
from cml_nova import exception, rpc
from cml_nova.remote import Passage
from cml_nova.tickets import Ticket
from cml_nova.worker.crew import access_to
from cml_nova.worker.work import Tools, address_of

LOG = logging.getLogger(__name__)

#: seconds between looks whether tunnels are over
LOOK = 2.0
#: seconds that a client has to take the word that its tunnel is over
_FAREWELL = 3.0
#: seconds that a login to a node may take: it is up and has been logged in to before
_LOGIN = 15.0
#: callers at a time beside those with tunnels: who has shown no token yet, and who is told that there is no room
_CALLERS = 50
#: seconds between tries to listen again
_PAUSE = 1.0
EOF = "eof"


class Tunnel:
    """One tunnel, from the request on."""

    def __init__(self, connection: server.ServerConnection, ticket: Ticket) -> None:
        self.ticket = ticket
        self.server_id = ""
        self.used_at = time.monotonic()
        self.ended_at: float | None = None
        self._socket = connection
        self._passage: Passage | None = None
        self._word = (int(CloseCode.NORMAL_CLOSURE), "")
        self._lock = threading.Lock()

    def connect(self, tools: Tools) -> None:
        """Reach the node.

        :raises Conflict: the job has no such node now, or the token has expired.
        :raises RemoteError: the node can't be reached, or nothing listens there.
        """
        given = tools.conductor.tunnel_opens(cml_context.service_context(), asdict(self.ticket))
        if "refused" in given:
            raise exception.Conflict(given["refused"])
        self.server_id = given["node"]["server_id"]
        private_key = tools.vault.open(given["sealed"])["ssh"]
        address = address_of(given["node"], given["runtime"])
        access = access_to(address, given["image"], tools.conf.remote, private_key, given["keys"]["host"])
        passage = Passage(access, min(_LOGIN, tools.conf.remote.connect_timeout))
        with self._lock:
            self._passage = passage
            over = self.ended_at is not None
        if over:
            passage.close()
        if self.ticket.public_key:
            passage.authorize(self.ticket.public_key)
        passage.open(self.ticket.port or access.port)

    def relay(self, why_lost: Callable[[], str]) -> None:
        """Carry bytes both ways until the tunnel is over.

        :param why_lost: is asked when the connection to the node is lost.
        """
        assert self._passage is not None
        self._socket.send(json.dumps({"open": True}))
        down = threading.Thread(target=self._down, args=(why_lost,), name=f"tunnel-{self.ticket.job_id[:8]}", daemon=True)
        down.start()
        try:
            self._up()
        finally:
            self.end(*self._word)
            down.join()

    def end(self, code: int, reason: str) -> None:
        """Have it end soon. What comes later is of no account."""
        with self._lock:
            if self.ended_at is not None:
                return
            self.ended_at = time.monotonic()
            self._word = (code, reason)
            passage = self._passage
        if passage is not None:
            passage.close()

    def abort(self) -> None:
        """Break the connection to a client that does not take the word that it is over."""
        with suppress(OSError):  # it has closed meanwhile
            self._socket.socket.shutdown(socket.SHUT_RDWR)

    def refuse(self, code: int, reason: str) -> None:
        """Tell the client why there is no tunnel, unless it was ended meanwhile for another reason."""
        with self._lock:
            if self.ended_at is None:
                self._word = (code, reason)
        self._socket.send(json.dumps({"error": self._word[1]}))
        self._close()

    def _close(self) -> None:
        code, reason = self._word
        self._socket.close(code, reason.encode()[:123].decode(errors="ignore"))  # a close holds no more

    def _up(self) -> None:
        assert self._passage is not None
        for message in self._socket:
            self.used_at = time.monotonic()
            if message == EOF:
                self._passage.end()
            elif not isinstance(message, bytes) or not self._passage.write(message):
                return

    def _down(self, why_lost: Callable[[], str]) -> None:
        """Pass on what the node sends. The end of that is one direction's, unless the other is over, too."""
        assert self._passage is not None
        with suppress(ConnectionClosed):
            while data := self._passage.read():
                self.used_at = time.monotonic()
                self._socket.send(data)
            if not self._passage.over:
                self._socket.send(EOF)
                self._passage.wait()
            if self._passage.lost and self.ended_at is None:
                self.end(CloseCode.GOING_AWAY, why_lost())
        self._close()


class Tunnels:
    """Takes tunnels on a port. Any worker serves any job's."""

    def __init__(self, tools: Tools) -> None:
        """Listen.

        :raises ConfigurationError: not possible there.
        """
        self._tools = tools
        self._open: set[Tunnel] = set()
        self._callers = 0
        self._lock = threading.Condition()
        self._stopping = threading.Event()
        self._server = self._listen()

    def _listen(self) -> server.Server:
        conf = self._tools.conf.tunnel
        # The library's own log would have tokens at the level DEBUG, and a trace for each client that hangs up early.
        wire = logging.getLogger(f"{__name__}.wire").logger
        wire.setLevel("CRITICAL")
        try:
            found = server.serve(
                self._serve, conf.host, conf.port, process_request=self._look_at, compression=None, max_queue=4, server_header=None,
                close_timeout=_FAREWELL, logger=wire)
        except OSError as error:
            raise exception.ConfigurationError(f"[tunnel] host, port: can't listen on {conf.host}:{conf.port}: {error.strerror}") from error
        found.handler = partial(self._receive, found.handler)
        return found

    def start(self) -> None:
        threading.Thread(target=self._take, name="tunnels", daemon=True).start()
        LOG.info("Tunnels are taken at %s:%s", *self._server.socket.getsockname()[:2])

    def _take(self) -> None:
        """Take callers until the end. The library listens no more once the process had no file left for a caller, so we do so anew."""
        while not self._stopping.is_set():
            self._server.serve_forever()
            self._server.socket.close()
            while not self._stopping.wait(_PAUSE):
                LOG.error("A caller could not be taken, for want of files as a rule; listening again")
                try:
                    self._server = self._listen()
                    break
                except exception.ConfigurationError as error:
                    LOG.error("%s", error)

    def _receive(self, handler: Callable[[socket.socket, Any], None], caller: socket.socket, address: Any) -> None:
        """Hang up on a caller where there are too many; else have the library handle it, in this thread that it has made."""
        with self._lock:
            full = self._callers >= self._tools.conf.tunnel.max_sessions + _CALLERS
            self._callers += 1
        try:
            if full:
                with suppress(OSError):  # it has hung up before
                    caller.shutdown(socket.SHUT_RDWR)
            handler(caller, address)  # which ends at once with one who has gone
        finally:
            with self._lock:
                self._callers -= 1

    def stop(self) -> None:
        """Take no more, and end those that are open."""
        self._stopping.set()
        with self._lock:
            tunnels = list(self._open)
        for tunnel in tunnels:
            tunnel.end(CloseCode.GOING_AWAY, "This worker of the service stops; connect again.")
        with self._lock:
            gone = self._lock.wait_for(lambda: not self._open, _FAREWELL)
        if not gone:
            self._sweep_away(0)
            with self._lock:
                self._lock.wait_for(lambda: not self._open, _FAREWELL)
        # It may wait for connections that were not let in yet.
        threading.Thread(target=self._server.shutdown, name="tunnels-stop", daemon=True).start()

    def look(self) -> None:
        """End tunnels whose node is gone, whose job has left the phases in which it has nodes, or through which nothing goes."""
        self._sweep_away(_FAREWELL)
        idle = self._tools.conf.tunnel.idle_timeout
        with self._lock:
            tunnels = [tunnel for tunnel in self._open if tunnel.server_id and tunnel.ended_at is None]
        for tunnel in tunnels:
            if idle and time.monotonic() - tunnel.used_at > idle:
                tunnel.end(CloseCode.GOING_AWAY, f"Nothing went through the tunnel for {idle:g} s.")
        for tunnel, reason in zip(tunnels, self._over(tunnels), strict=True):
            if reason:
                tunnel.end(CloseCode.GOING_AWAY, reason)

    def _over(self, tunnels: list[Tunnel]) -> list[str | None]:
        """Ask of each tunnel why it is over; None where it is not, or nobody can say."""
        if not tunnels:
            return []
        nodes = [(tunnel.ticket.job_id, tunnel.ticket.rank, tunnel.server_id) for tunnel in tunnels]
        try:
            return self._tools.conductor.tunnels_over(cml_context.service_context(), nodes)
        except (*rpc.BUS_ERRORS, exception.DatabaseUnavailable) as error:
            LOG.warning("No conductor says whether tunnels are over; they stay: %s", error)
            return [None] * len(tunnels)

    def _sweep_away(self, after: float) -> None:
        """Break those whose clients don't take the word."""
        with self._lock:
            late = [tunnel for tunnel in self._open if tunnel.ended_at is not None and time.monotonic() - tunnel.ended_at > after]
        for tunnel in late:
            tunnel.abort()

    def _look_at(self, connection: server.ServerConnection, request: Request) -> Response | None:
        if request.path.partition("?")[0].endswith("/healthcheck"):
            return connection.respond(200, "OK\n")
        try:
            self._ticket(request)
        except exception.Unauthorized as error:
            return connection.respond(error.code, error.message + "\n")
        return None

    def _ticket(self, request: Request) -> Ticket:
        kind, _, token = request.headers.get("Authorization", "").partition(" ")
        return Ticket.open(self._tools.vault, token if kind == "Bearer" else "")

    def _serve(self, connection: server.ServerConnection) -> None:
        assert connection.request is not None
        ticket = self._ticket(connection.request)
        tunnel = Tunnel(connection, ticket)
        with suppress(ConnectionClosed), self._admitted(tunnel) as admitted:
            if not admitted:
                tunnel.refuse(CloseCode.TRY_AGAIN_LATER, "This worker has as many tunnels open as it may "
                              f"({self._tools.conf.tunnel.max_sessions}); try again later.")
                return
            try:
                tunnel.connect(self._tools)
            except (exception.CMLError, *rpc.BUS_ERRORS) as error:
                LOG.info("No tunnel to node %d of job %s, asked for in %s: %s", ticket.rank, ticket.job_id, ticket.request_id, error)
                away = "The service can't look the job up now; try again later."
                tunnel.refuse(CloseCode.INTERNAL_ERROR, error.message if isinstance(error, exception.CMLError) else away)
                return
            LOG.info("User %s has a tunnel to node %d of job %s, asked for in %s", ticket.user_id, ticket.rank, ticket.job_id,
                     ticket.request_id)
            tunnel.relay(lambda: self._over([tunnel])[0] or f"The connection to node {ticket.rank} was lost.")

    @contextmanager
    def _admitted(self, tunnel: Tunnel) -> Iterator[bool]:
        """Count a tunnel while it is there; give whether there is room for it."""
        with self._lock:
            room = len(self._open) < self._tools.conf.tunnel.max_sessions and not self._stopping.is_set()
            if room:
                self._open.add(tunnel)
        try:
            yield room
        finally:
            tunnel.end(CloseCode.NORMAL_CLOSURE, "")
            with self._lock:
                self._open.discard(tunnel)
                self._lock.notify_all()
