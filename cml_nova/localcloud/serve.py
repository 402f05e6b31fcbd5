"""Runs the local cloud as one process: HTTP, timers, guests."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

from waitress.server import create_server

from cml_nova.localcloud.accounts import write_clouds_yaml
from cml_nova.localcloud.app import create_app
from cml_nova.localcloud.cloud import Cloud, Options
from cml_nova.localcloud.hypervisor import Hypervisor
from cml_nova.localcloud.images import ImageStore

THREADS = 16
MAX_BODY = 16 * 1024 * 1024


class ServeError(Exception):
    """The cloud can't be started; the message says why and which option helps."""


def listen(host: str, port: int) -> socket.socket:
    """Give a socket that listens on a loopback address; port 0 takes a free one.

    :raises ServeError: the address is not loopback, or is taken.
    """
    address = "127.0.0.1" if host == "localhost" else host
    try:
        loopback = ipaddress.IPv4Address(address).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise ServeError(f"--host {host}: the local cloud is for tests and listens on a loopback IPv4 address (127.0.0.0/8) only")
    found = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((address, port))
    except OSError as error:
        found.close()
        if error.errno == errno.EADDRINUSE:
            raise ServeError(f"{address}:{port} is taken; choose another port with --port") from None
        raise ServeError(f"can't listen on {address}:{port}: {error.strerror}; choose others with --host and --port") from None
    return found


def check_network(cidr: str) -> str:
    """Give the network back if guests can have addresses of it.

    :raises ServeError: it is no loopback network, or too small.
    """
    try:
        network = ipaddress.IPv4Network(cidr)
    except ValueError as error:
        raise ServeError(f"--network {cidr}: {error}") from None
    if not network.is_loopback or network.num_addresses < 256:
        raise ServeError(f"--network {cidr}: guests get addresses of a part of 127.0.0.0/8 with 256 addresses at least")
    return cidr


def serve(state_dir: Path, options: Options, listener: socket.socket, images_dir: Path, ssh_port: int, ready: Callable[[], None]) -> None:
    """Serve until SIGTERM or SIGINT; every guest has ended when this returns.

    :param options: its url is where ``listener`` listens.
    :param ready: called once requests are answered.
    :raises HypervisorError: another local cloud uses the state directory.
    """
    images = ImageStore(images_dir)
    # A guest may shut itself down only after a cloud has booted it, so the name is bound by then.
    hypervisor = Hypervisor(state_dir, images, ssh_port, on_power_off=lambda server_id: cloud.servers.powered_off(server_id))
    hypervisor.start()
    try:
        passwords = write_clouds_yaml(state_dir / "clouds.yaml", f"{options.url}/identity/v3")
        cloud = Cloud(options, state_dir / "state.sqlite", hypervisor, images)
        cloud.bootstrap(passwords)
        server = create_server(create_app(cloud), sockets=[listener], threads=THREADS, max_request_body_size=MAX_BODY,
                               asyncore_use_poll=True, connection_limit=2000, ident="")
        cloud.start()
        try:
            with _signals():
                ready()
                server.run()
        finally:
            server.close()
            cloud.stop()
    finally:
        hypervisor.stop()


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """Make SIGTERM end the server's loop like SIGINT; further ones change nothing while it is being stopped."""
    def end(number: int, frame: object) -> None:
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, signal.SIG_IGN)
        raise SystemExit

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    with contextlib.suppress(SystemExit):
        yield
