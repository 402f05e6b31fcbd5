"""TCP ports that are kept free for processes to come."""

import _socket as socket
import errno
import os

from cml_nova.remote.runner.errors import Refused
from cml_nova.remote.runner.files import read_text


class Ports:
    """The ports that a session holds."""

    def __init__(self) -> None:
        self.held: dict = {}

    def hold(self) -> int:
        """Bind a free port on all addresses, outside of the range that the kernel gives to outgoing connections."""
        low, high = ([int(word) for word in read_text("/proc/sys/net/ipv4/ip_local_port_range").split()] or [32768, 60999])[:2]
        choice = [port for port in range(10000, 32000) if not low <= port <= high] or range(10000, 32000)
        for _ in range(10000):
            port = choice[int.from_bytes(os.urandom(4), "big") % len(choice)]
            held = bind(port)
            if held:
                self.held[port] = held
                return port
        raise Refused("there is no free port")

    def let_go(self, ports: "list | None") -> None:
        """Leave those ports to whoever comes first; None for all."""
        for port in list(self.held) if ports is None else ports:
            held = self.held.pop(port, None)
            if held:
                held.close()


def bind(port: int) -> "socket.socket | None":
    """Give a socket that keeps a port; None if the port is in use."""
    for family, address in ((socket.AF_INET6, "::"), (socket.AF_INET, "")):
        try:
            held = socket.socket(family, socket.SOCK_STREAM)
        except OSError:
            continue  # a kernel without IPv6
        try:
            if family == socket.AF_INET6:
                held.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            held.bind((address, port))
            return held
        except OSError as error:
            held.close()
            if error.errno == errno.EADDRINUSE:
                return None
    return None
