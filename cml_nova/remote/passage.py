"""A way through to a node for somebody else's bytes: a TCP connection within the node, in an SSH connection of ours."""

from __future__ import annotations

import json
import time
from contextlib import suppress

import paramiko

from cml_nova import exception
from cml_nova.remote.login import Access, log_in, say
from cml_nova.remote.session import deadline_left

#: seconds for which a user's key lets in: a connection that was made in time stays
KEY_VALID_FOR = 120
_PIECE = 65536

#: Lets a public key in for some time, by the machine's own clock and time zone. Keys of before stay, but for those of ours that have
#: expired. The file appears as a whole, so that no login meanwhile finds less than before.
_AUTHORIZE = r'''
import fcntl, os, time
os.umask(0o077)
directory = os.path.expanduser("~/.ssh")
os.makedirs(directory, exist_ok=True)
lock = os.open(directory, os.O_RDONLY)
fcntl.flock(lock, fcntl.LOCK_EX)
path = os.path.realpath(os.path.join(directory, "authorized_keys"))
form, mark, now = "%Y%m%d%H%M%S", " cml-tunnel", time.time()
try:
    with open(path) as file:
        lines, mode = file.read().splitlines(), os.fstat(file.fileno()).st_mode & 0o777
except FileNotFoundError:
    lines, mode = [], 0o600
until = "expiry-time=\"%s\""
old = until % time.strftime(form, time.localtime(now))
kept = [line for line in lines if not (line.endswith(mark) and line[:len(old)] < old)]
kept.append("%s %s%s" % (until % time.strftime(form, time.localtime(now + given["seconds"])), given["key"], mark))
with open(path + ".cml-new", "w") as file:
    file.write("\n".join(kept) + "\n")
os.chmod(path + ".cml-new", mode)
os.replace(path + ".cml-new", path)
os.close(lock)
'''
#: a line that no shell minds: all the rest is read from the standard input
_COMMAND = """exec python3 -IS -c 'import json, sys; given = json.load(sys.stdin); exec(given["program"])'"""


class Passage:
    """A connection to 127.0.0.1 within a node, through SSH. Reading and writing may be done by two threads; ``close`` by any.

    :param access: the node's, with our own key.
    """

    def __init__(self, access: Access, timeout: float) -> None:
        """Log in.

        :param timeout: seconds for that, and again for what ``authorize`` and ``open`` do.
        :raises RemoteError: that failed; its kinds say how.
        """
        self.access = access
        self._timeout = timeout
        self._transport, _ = log_in(access, time.monotonic() + timeout)
        self._channel: paramiko.Channel | None = None

    def authorize(self, public_key: str) -> None:
        """Let a public key in for ``KEY_VALID_FOR`` seconds, as the user that trainings run as.

        :param public_key: type and base64, nothing else.
        :raises RemoteError: the node can't do that.
        """
        deadline = time.monotonic() + self._timeout
        try:
            channel = self._transport.open_session(timeout=self._timeout)
            channel.settimeout(self._timeout)
            channel.exec_command(_COMMAND)
            channel.sendall(json.dumps({"program": _AUTHORIZE, "key": public_key, "seconds": KEY_VALID_FOR}).encode())
            channel.shutdown_write()
            if not channel.status_event.wait(deadline_left(deadline)):
                raise TimeoutError("no answer in time")
            code = channel.recv_exit_status()
            said = channel.recv_stderr(4096).decode("utf-8", "replace").strip() if code else ""
            channel.close()
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise exception.RemoteError(f"{self.access.address}: the key could not be brought to the node: {say(error)}.") from error
        if code:
            raise exception.RemoteError(f"{self.access.address}: the node does not take the key: {said[-300:]}")

    def open(self, port: int) -> None:
        """Connect to a port of the node.

        :raises NodeCommandFailed: nothing listens there.
        :raises RemoteError: the connection is lost.
        """
        try:
            self._channel = self._transport.open_channel("direct-tcpip", ("127.0.0.1", port), ("127.0.0.1", 0), timeout=self._timeout)
        except paramiko.ChannelException as error:
            raise exception.NodeCommandFailed(f"Nothing listens on port {port} there ({error.text}).") from error
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise exception.RemoteError(f"{self.access.address}: no connection to port {port}: {say(error)}.") from error

    def read(self) -> bytes:
        """Wait for some bytes; b"" when no more come."""
        assert self._channel is not None
        try:
            return self._channel.recv(_PIECE)
        except (OSError, EOFError):
            return b""

    def write(self, data: bytes) -> bool:
        """Send bytes; tell whether somebody takes them."""
        assert self._channel is not None
        try:
            self._channel.sendall(data)
            return True
        except (OSError, EOFError):
            return False

    def end(self) -> None:
        """Send no more; what comes can still be read."""
        assert self._channel is not None
        with suppress(OSError, EOFError):
            self._channel.shutdown_write()

    def wait(self) -> None:
        """Wait until nothing goes through any more."""
        assert self._channel is not None
        self._channel.status_event.wait()

    @property
    def over(self) -> bool:
        """Whether nothing goes through any more, in either direction."""
        return self._channel is None or self._channel.closed or not self._transport.is_active()

    @property
    def lost(self) -> bool:
        """Whether the connection to the node is gone, and with it what was to come."""
        return not self._transport.is_active()

    def close(self) -> None:
        """End the connection; who reads or writes is woken."""
        self._transport.close()
