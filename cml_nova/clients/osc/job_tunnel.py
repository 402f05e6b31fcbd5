"""``ml job ssh`` and ``ml job port forward``."""

from __future__ import annotations

import argparse
import functools
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from osc_lib import exceptions

from cml_nova.clients.osc.base import Command, UsageError, find_job, reattach, say
from cml_nova.clients.osc.job import add_job
from cml_nova.clients.osc.jobfile import at_least

#: keys of the user's own that are tried where one is needed
_KEYS = ("id_ed25519", "id_ecdsa", "id_rsa")
_PIECE = 65536


def add_place(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which machine is meant."""
    place = parser.add_mutually_exclusive_group()
    place.add_argument("--task", metavar="<role:index>", help="Task whose machine is meant, such as worker:1 (default: the first)")
    place.add_argument("--node", metavar="<rank>", type=at_least(0), help="Rank of the machine that is meant")


def guarded(action: Callable[..., Any]) -> Callable[..., Any]:
    """Word the client library's errors of tunnels as a command does."""
    @functools.wraps(action)
    def run(*args: Any) -> Any:
        from cml_nova.clients import sdk

        try:
            return action(*args)
        except sdk.TunnelError as error:
            raise exceptions.CommandError(str(error)) from None

    return run


class ForwardPort(Command):
    """Let a port of this machine lead to a port of a job's machine, such as TensorBoard's, until Ctrl-C or the end of the job"""

    def get_parser(self, prog_name: str) -> Any:
        parser = super().get_parser(prog_name)
        add_job(parser)
        parser.add_argument("port", metavar="<port>", type=at_least(1), help="Port that something on the job's machine listens on")
        parser.add_argument("--local-port", metavar="<port>", type=at_least(0),
                            help="Port of this machine (default: the same; 0: any free one)")
        add_place(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        args = parsed_args
        local = args.port if args.local_port is None else args.local_port
        job = find_job(self.client, args.job)
        try:
            forward = self.client.forward_port(job, args.port, local, task=args.task, node=args.node, notify=say)
        except (OSError, OverflowError) as error:
            reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
            raise exceptions.CommandError(f"Port {local} of this machine can't be had ({reason}); choose another one with --local-port "
                                          "(0 for any that is free).") from None
        with forward:
            say(f"http://{forward.address[0]}:{forward.address[1]} is port {args.port} of {_place(args)} of {job.name} until Ctrl-C.")
            try:
                forward.wait()
            except KeyboardInterrupt as error:
                reattach(error, f"The way to port {args.port} is closed; the job {job.id} goes on.")


class Ssh(Command):
    """Log in to a job's machine, or run a command on it, as the user that the training runs as; the exit code is that of ssh"""

    def get_parser(self, prog_name: str) -> Any:
        parser = super().get_parser(prog_name)
        add_job(parser)
        add_place(parser)
        parser.add_argument("--identity", metavar="<file>", type=Path,
                            help="Private key of your own to log in with, whose public half is beside it as .pub "
                                 "(default: one that is made for this login)")
        mode = parser.add_mutually_exclusive_group()
        mode.add_argument("--dry-run", action="store_true",
                          help="Print an ssh command that does the same, whose options scp, sftp and rsync -e take, too")
        mode.add_argument("--stdio", action="store_true", help="Be the ProxyCommand of an ssh: needs --identity")
        parser.epilog = "A command follows two dashes: openstack ml job ssh <job> -- nvidia-smi -l"
        parser.parse_args = functools.partial(_parse, parser.parse_args)
        return parser

    @guarded
    def take_action(self, parsed_args: argparse.Namespace) -> int:
        args = parsed_args
        job = find_job(self.client, args.job)
        if args.dry_run:
            self.app.stdout.write(shlex.join(self._own_command(job, args)) + "\n")
            return 0
        if args.stdio:
            if args.identity is None:
                raise UsageError("--stdio needs --identity: the key that ssh logs in with.")
            _, tunnel = self._open(job, args, args.identity)
            tunnel.relay(lambda: os.read(0, _PIECE), _write_out, _close_out)
            if tunnel.word:
                say(tunnel.word)
            return 0
        with tempfile.TemporaryDirectory(prefix="ml-job-ssh-") as directory:
            return self._run(job, args, Path(directory))

    def _open(self, job: Any, args: argparse.Namespace, identity: Path) -> tuple[Any, Any]:
        """Open a tunnel to the SSH server for a key."""
        ticket = self.client.create_job_tunnel(job, public_key=_public(identity), task=args.task, node=args.node)
        return ticket, self.client.open_tunnel(ticket)

    def _run(self, job: Any, args: argparse.Namespace, directory: Path) -> int:
        identity = args.identity or directory / "key"
        if args.identity is None:
            _call(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(identity)])
        ticket, tunnel = self._open(job, args, identity)
        (directory / "known_hosts").write_text(f"{_alias(job)} {ticket.host_key}\n")
        with socket.create_server(("127.0.0.1", 0)) as listener:
            threading.Thread(target=_carry, args=(listener, tunnel), name="ssh", daemon=True).start()
            # Nothing of the user's own configuration, which is about other machines: the way there is made already.
            code = _call(["ssh", "-F", "/dev/null", "-p", str(listener.getsockname()[1]), "-l", ticket.user,
                          *_options(job, identity, UserKnownHostsFile=str(directory / "known_hosts"), GlobalKnownHostsFile="/dev/null"),
                          "--", "127.0.0.1", *args.command])
        tunnel.abort()
        if tunnel.word:
            say(tunnel.word)
        return code

    def _own_command(self, job: Any, args: argparse.Namespace) -> list[str]:
        """Give the command of an ssh for which this one is the ProxyCommand."""
        identity = args.identity or next((path for path in (Path.home() / ".ssh" / name for name in _KEYS) if path.exists()), None)
        if identity is None:
            raise UsageError("--dry-run needs --identity: the key that you log in with; ssh-keygen makes one.")
        ticket = self.client.create_job_tunnel(job, public_key=_public(identity), task=args.task, node=args.node)
        before = sys.argv[:sys.argv.index("ml")] if "ml" in sys.argv else ["openstack"]
        proxy = [*before, "ml", "job", "ssh", "--stdio", "--identity", str(identity), "--node", str(ticket.node), job.id]
        return ["ssh", *_options(job, identity, ProxyCommand=shlex.join(proxy).replace("%", "%%"), UserKnownHostsFile="/dev/null",
                                 KnownHostsCommand=f"/bin/echo {_alias(job)} {ticket.host_key}"),
                f"{ticket.user}@{_alias(job)}", *args.command]


def _parse(parse: Callable[..., Any], args: Sequence[str], namespace: Any = None) -> Any:
    """Parse what comes before two dashes; what follows is the command."""
    words = list(args)
    at = words.index("--") if "--" in words else len(words)
    parsed = parse(words[:at], namespace)
    parsed.command = words[at + 1:]
    return parsed


def _place(args: argparse.Namespace) -> str:
    return args.task or (f"node {args.node}" if args.node is not None else "the first task")


def _alias(job: Any) -> str:
    """The name under which a job's machines are known: they share a host key."""
    return f"ml-job-{job.id}"


def _options(job: Any, identity: Path, **more: str) -> list[str]:
    """Options of ssh: who is trusted, and who we are."""
    options = {"HostKeyAlias": _alias(job), "StrictHostKeyChecking": "yes", "CheckHostIP": "no", "IdentitiesOnly": "yes", **more}
    return ["-i", str(identity), *(word for name, value in options.items() for word in ("-o", f"{name}={value}"))]


def _public(identity: Path) -> str:
    """Read the public half of a key."""
    path = identity.with_name(f"{identity.name}.pub")
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--identity: the public half of the key, {path}, can't be read: {getattr(error, 'strerror', error)}.") from None


def _call(command: list[str]) -> int:
    """Run a program in our place: Ctrl-C is its own business; give its exit code.

    :raises CommandError: there is no such program.
    """
    before = signal.signal(signal.SIGINT, lambda number, frame: None)  # not ignored: the program would inherit that
    try:
        code = subprocess.call(command)
    except FileNotFoundError:
        raise exceptions.CommandError(f"This needs the program {command[0]}: install the OpenSSH client.") from None
    finally:
        signal.signal(signal.SIGINT, before)
    return code if code >= 0 else 128 - code


def _carry(listener: socket.socket, tunnel: Any) -> None:
    """Connect the one connection that comes with the tunnel."""
    try:
        connection, _ = listener.accept()
    except OSError:
        return  # ssh did not even connect
    listener.close()
    with connection:
        tunnel.relay_socket(connection)


def _write_out(data: bytes) -> None:
    while data:
        data = data[os.write(1, data):]


def _close_out() -> None:
    """Tell ssh that no more comes from the node: it waits for that, and the service for ssh."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.close(nothing)
