"""What runs over an SSH connection into a guest: commands, shells and SFTP.

A session moves bytes between the channel and the command's pipes (or pseudo-terminal) with readiness callbacks of the loop,
so it costs neither a thread nor a task, and what one side can't take yet stops the other side.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import posixpath
import pty
import signal
import struct
import subprocess
import termios
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import asyncssh
from asyncssh.stream import SSHServerStreamSession

if TYPE_CHECKING:
    from cml_nova.localcloud.guest import Guest

_PIECE = 256 * 1024
_LAST_READS = 64  # of up to 4 KiB each: more than a terminal holds
_SHELL = "/bin/bash" if os.path.exists("/bin/bash") else "/bin/sh"


class Session(asyncssh.SSHServerSession):
    """One session channel. Everything here runs in the thread of the hypervisor's loop."""

    def __init__(self, guest: Guest, user: str) -> None:
        self._guest = guest
        self._user = user
        self._loop = asyncio.get_running_loop()
        self._terminal: tuple[str, tuple[int, int, int, int]] | None = None
        self._sftp: SSHServerStreamSession | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._master: int | None = None
        self._stdin: int | None = None
        self._backlog = bytearray()
        self._eof = False
        self._stalled = False  # the command does not take its input, so the channel is not read
        self._outputs: dict[int, Callable[[bytes], None]] = {}  # file descriptor → where its bytes go
        self._lost = False

    # What the client asks for

    def connection_made(self, chan: asyncssh.SSHServerChannel) -> None:
        self._chan = chan

    def pty_requested(self, term_type: str, term_size: tuple[int, int, int, int], term_modes: dict[int, int]) -> bool:
        self._terminal = (term_type, term_size)
        return True

    def exec_requested(self, command: str) -> bool:
        return self._start(["/bin/sh", "-c", command])

    def shell_requested(self) -> bool:
        if not self._terminal:
            return self._start(["/bin/sh"])
        return self._start([_SHELL, "--norc", "--noprofile", "-i"] if _SHELL.endswith("bash") else [_SHELL, "-i"])

    def subsystem_requested(self, subsystem: str) -> bool:
        if subsystem != "sftp":
            return False
        self._sftp = SSHServerStreamSession(None, lambda chan: Files(chan, self._guest.home.as_posix()), 3)
        self._sftp.connection_made(self._chan)
        return True

    def session_started(self) -> None:
        if self._sftp:
            self._sftp.session_started()

    # Start and end of the command

    def _start(self, command: list[str]) -> bool:
        environ = self._guest.environ(self._user)
        try:
            if self._terminal:
                self._start_on_terminal(command, environ)
            else:
                self._start_on_pipes(command, environ)
        except OSError as error:
            self._guest.log.warning("server %s: a command could not be started: %s", self._guest.server_id, error)
            return False
        assert self._process
        self._guest.began(self._process.pid)
        self._ended = os.pidfd_open(self._process.pid)
        self._loop.add_reader(self._ended, self._on_end)
        for descriptor in self._outputs:
            os.set_blocking(descriptor, False)
            self._loop.add_reader(descriptor, self._on_output, descriptor)
        return True

    def _start_on_pipes(self, command: list[str], environ: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            command, bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            cwd=self._guest.home, env=environ, start_new_session=True,
        )
        # The descriptors are ours from here on; the file objects would close them behind the loop's back.
        assert self._process.stdin and self._process.stdout and self._process.stderr
        self._stdin = _detach(self._process.stdin)
        os.set_blocking(self._stdin, False)
        self._outputs = {_detach(self._process.stdout): self._chan.write, _detach(self._process.stderr): self._chan.write_stderr}

    def _start_on_terminal(self, command: list[str], environ: dict[str, str]) -> None:
        assert self._terminal
        name, (columns, rows, _, _) = self._terminal
        self._master, slave = pty.openpty()
        try:
            self._resize(columns, rows)
            # setsid makes the terminal the controlling one without an interpreter between fork and exec.
            self._process = subprocess.Popen(
                ["setsid", "-c", *command], stdin=slave, stdout=slave, stderr=slave, cwd=self._guest.home,
                env={**environ, "TERM": name or "dumb", "PS1": rf"{self._user}@{self._guest.hostname}:\w\$ "},
            )
        except OSError:
            os.close(self._master)
            self._master = None
            raise
        finally:
            os.close(slave)
        self._stdin = os.dup(self._master)
        self._outputs = {self._master: self._chan.write}

    def _on_end(self) -> None:
        """The command has ended (what it started may live on)."""
        assert self._process
        self._loop.remove_reader(self._ended)
        os.close(self._ended)
        self._guest.ended(self._process.pid)
        self._process.wait()
        if self._master in self._outputs:
            self._end_terminal(self._master)
        self._finish()

    def _end_terminal(self, master: int) -> None:
        """Pass on the rest of the output. A terminal is over with its leader, whoever else still has it open and writes."""
        for _ in range(_LAST_READS):
            if not self._on_output(master):
                break
        self._close_output(master)

    def _finish(self) -> None:
        """Report the exit as sshd does: when the command has ended and nobody can write to its output any more."""
        if self._lost or self._outputs or not self._process or self._process.returncode is None:
            return
        self._close_stdin()
        code = self._process.returncode
        if code < 0:
            self._chan.exit_with_signal(signal.Signals(-code).name.removeprefix("SIG"))
        else:
            self._chan.exit(code)

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        if self._sftp:
            self._sftp.connection_lost(exc)
            return
        for descriptor in list(self._outputs):
            self._close_output(descriptor)
        self._close_stdin()
        self._signal(signal.SIGHUP)

    # Signals and terminal

    def signal_received(self, signal_name: str) -> None:
        number = getattr(signal, f"SIG{signal_name.removeprefix('SIG')}", None)
        if isinstance(number, signal.Signals):
            self._signal(number)

    def break_received(self, msec: int) -> bool:
        self._signal(signal.SIGINT)
        return True

    def _signal(self, number: signal.Signals) -> None:
        """Signal the command's process group, while the command itself lives."""
        if not self._process or self._process.returncode is not None:
            return
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:
            self._process.send_signal(number)  # not yet the leader of its group

    def terminal_size_changed(self, width: int, height: int, pixwidth: int, pixheight: int) -> None:
        self._resize(width, height)

    def _resize(self, columns: int, rows: int) -> None:
        # A client without a terminal of its own says 0 x 0, with which many programs can't work.
        if self._master is not None:
            fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows or 24, columns or 80, 0, 0))

    # Client → command

    def data_received(self, data: bytes, datatype: int | None) -> None:
        if self._sftp:
            self._sftp.data_received(data, datatype)
        elif self._stdin is not None:
            self._backlog += data
            if not self._stalled:
                self._write()

    def eof_received(self) -> bool:
        if self._sftp:
            self._chan.exit(0)  # scp takes an SFTP session that ends without an exit status for a failed one
        elif self._master is None:  # closing a terminal would hang up, which the end of the client's input does not mean
            self._eof = True
            self._write()
        return True

    def _write(self) -> None:
        """Hand the backlog to the command; what it can't take yet keeps the channel from being read."""
        if self._stdin is None:
            return
        try:
            while self._backlog:
                del self._backlog[: os.write(self._stdin, self._backlog)]
        except BlockingIOError:
            if not self._stalled:
                self._stalled = True
                self._loop.add_writer(self._stdin, self._write)
                self._chan.pause_reading()
            return
        except OSError:  # the command has closed its input: what comes for it is dropped, as sshd does
            self._backlog.clear()
            self._close_stdin()
        if self._eof:
            self._close_stdin()
        if self._stalled:
            self._stalled = False
            if self._stdin is not None:
                self._loop.remove_writer(self._stdin)
            self._chan.resume_reading()

    def _close_stdin(self) -> None:
        if self._stdin is not None:
            self._loop.remove_writer(self._stdin)
            os.close(self._stdin)
            self._stdin = None

    # Command → client

    def _on_output(self, descriptor: int) -> bool:
        """Pass on what there is; says whether there was any."""
        try:
            data = os.read(descriptor, _PIECE)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno != errno.EIO:  # how a terminal says that nobody has it open any more
                raise
            data = b""
        if data and self._chan.is_closing():
            self.connection_lost(None)  # the client has closed the channel, which asyncssh tells a little later
        elif data:
            self._outputs[descriptor](data)
        else:
            self._close_output(descriptor)
            self._finish()
        return bool(data)

    def _close_output(self, descriptor: int) -> None:
        if self._outputs.pop(descriptor, None):
            self._loop.remove_reader(descriptor)
            os.close(descriptor)
            if descriptor == self._master:
                self._close_stdin()

    def pause_writing(self) -> None:
        if self._sftp:
            self._sftp.pause_writing()
        for descriptor in self._outputs:
            self._loop.remove_reader(descriptor)

    def resume_writing(self) -> None:
        if self._sftp:
            self._sftp.resume_writing()
        for descriptor in self._outputs:
            self._loop.add_reader(descriptor, self._on_output, descriptor)


class Files(asyncssh.SFTPServer):
    """SFTP with the same view of the file tree as commands have: relative paths start at home."""

    def __init__(self, chan: asyncssh.SSHServerChannel, home: str) -> None:
        super().__init__(chan)
        self._home = home.encode()

    def map_path(self, path: bytes) -> bytes:
        return posixpath.join(self._home, path)


def _detach(pipe: Any) -> int:
    """The pipe's descriptor, no longer closed by the file object."""
    descriptor = os.dup(pipe.fileno())
    pipe.close()
    return descriptor
