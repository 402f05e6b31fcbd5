"""Scopes of systemd, in which what is started outlives the login."""

import _socket as socket
import os
import time

from cml_nova.remote.runner.dbus import Marshaller, method_call
from cml_nova.remote.runner.errors import Refused
from cml_nova.remote.runner.files import read_text
from cml_nova.remote.runner.processes import start_ticks


def service_manager() -> str:
    """Give the socket of the systemd that runs this login's units, where there is one that lets them live as long as the machine.

    A user's manager ends with the last login unless the user lingers, and would take the units with it.
    """
    if not os.path.isdir("/run/systemd/system"):
        return ""
    uid, path = os.getuid(), "/run/systemd/private"
    if uid:
        import pwd
        path = "/run/user/%d/systemd/private" % uid
        if not os.path.exists("/var/lib/systemd/linger/" + pwd.getpwuid(uid).pw_name):
            return ""
    return path if os.path.exists(path) else ""


def scope_request(name: str, pid: int) -> bytes:
    """Write the call that puts a process into a scope of its own: StartTransientUnit of org.freedesktop.systemd1."""
    properties = (("PIDs", "au", [pid]), ("Description", "s", "training process of cml_nova"), ("TasksMax", "t", 2 ** 64 - 1),
                  ("Delegate", "b", 1),  # what else it brings: that a kill for want of memory does not end the whole scope
                  ("CollectMode", "s", "inactive-or-failed"))
    body = Marshaller()
    body.string(name)
    body.string("fail")
    body.array(8, [lambda item=item: body.pair(*item) for item in properties])
    body.array(8, [])
    return method_call("/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager", "StartTransientUnit", "ssa(sv)a(sa(sv))",
                       bytes(body.data))


class Scope:
    """A transient scope of systemd, which this process asks to be put into, along with all that it starts from then on.

    What is in it survives the login, and the kernel counts its memory apart. The manager is spoken to directly: on a slow machine a
    command would take longer than all the rest of a start.

    :param manager: the manager's socket; empty where there is none, and then nothing is asked for.
    """

    def __init__(self, manager: str) -> None:
        self.name = "cml-%d-%d.scope" % (os.getpid(), start_ticks(os.getpid()))
        self.failure = ""
        self.connection: "socket.socket | None" = None
        if manager:
            try:
                self.connection = self.ask(manager)
            except OSError as error:
                self.failure = "systemd can't be reached: %s" % error

    def ask(self, manager: str) -> "socket.socket":
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(5)
        connection.connect(manager)
        login = b"\0AUTH EXTERNAL %s\r\nBEGIN\r\n" % str(os.getuid()).encode().hex().encode()
        connection.sendall(login + scope_request(self.name, os.getpid()))
        connection.settimeout(0.01)
        return connection

    def enter(self) -> None:
        """Wait until we are in it.

        :raises Refused: systemd does not want it, or takes too long.
        """
        if self.connection:
            self.failure = self.refusal(self.connection)
            self.connection.close()
            self.connection = None
        if self.failure:
            raise Refused(self.failure)

    def refusal(self, connection: "socket.socket") -> str:
        """Give nothing once we are in it, which is a moment after systemd's answer; or say why not."""
        answer, limit = b"", time.monotonic() + 15
        while "/" + self.name not in read_text("/proc/self/cgroup"):
            try:
                answer += connection.recv(4096) or b"(nothing more)"
            except socket.timeout:
                pass
            is_error = answer.partition(b"\r\n")[2][1:2] == b"\3"  # the type of a message is its second byte
            if is_error or not b"OK".startswith(answer[:2]) or time.monotonic() > limit:
                return "systemd gives no scope: %r" % answer
        return ""
