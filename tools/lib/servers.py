"""Private RabbitMQ, MariaDB and PostgreSQL servers for tests: on free loopback ports, with data that is gone afterwards.

The programs are Debian's; where they are missing and we may install packages, they are installed without starting anything
system-wide. PostgreSQL and MariaDB refuse to run as root; then they run as the users that their packages made.
"""

from __future__ import annotations

import contextlib
import glob
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import apt
from bootstrap import BootstrapError, say, whole

#: variable with a server's URL -> (what it is, Debian package)
SERVERS = {
    "CML_TEST_RABBIT_URL": ("RabbitMQ", "rabbitmq-server"),
    "CML_TEST_MYSQL_URL": ("MariaDB", "mariadb-server"),
    "CML_TEST_POSTGRES_URL": ("PostgreSQL", "postgresql"),
}
_START_SECONDS = 90
_SEARCH = "/usr/lib/rabbitmq/bin:/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin"


@dataclass
class Private:
    """A private server: its URL, what has to be stopped and removed, how its main process is started again, and the environment in which
    the server's own programs find it.
    """

    url: str
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    directory: Path | None = None
    launch: Callable[[], None] | None = None
    env: dict[str, str] = field(default_factory=dict)

    def stop(self, stop_signal: int = signal.SIGTERM) -> None:
        for process in reversed(self.processes):
            process.send_signal(stop_signal)
            _end(process)
        if self.directory:
            shutil.rmtree(self.directory, ignore_errors=True)

    def halt(self, stop_signal: int = signal.SIGTERM) -> None:
        """Stop the main process; ``launch`` starts it again with its data."""
        assert self.launch is not None, "this server can't be started again"
        process = self.processes.pop()
        process.send_signal(stop_signal)
        _end(process)

    def restart(self, pause: float = 0.0) -> None:
        """Stop the main process and start it again with its data.

        :param pause: seconds for which it is away at least.
        """
        self.halt()
        time.sleep(pause)
        assert self.launch is not None
        self.launch()


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextlib.contextmanager
def all_servers(log_dir: Path, wanted: Sequence[str] = tuple(SERVERS)) -> Iterator[dict[str, str]]:
    """Give the URL of each server: from the environment where it is set, else of a private one just started.

    :param wanted: keys of ``SERVERS``.
    :raises BootstrapError: a server can't be installed or does not start.
    """
    missing = [variable for variable in wanted if not os.environ.get(variable)]
    starters: dict[str, Callable[[Path], Private]] = {
        "CML_TEST_RABBIT_URL": start_rabbitmq, "CML_TEST_MYSQL_URL": start_mariadb, "CML_TEST_POSTGRES_URL": start_postgresql,
    }
    install(missing, log_dir)
    with contextlib.ExitStack() as stack:
        urls = {variable: os.environ[variable] for variable in wanted if variable not in missing}
        for variable in missing:
            began = time.monotonic()
            server = starters[variable](log_dir)
            stack.callback(server.stop)
            urls[variable] = server.url
            say(f"Started a private {SERVERS[variable][0]} in {time.monotonic() - began:.1f} s")
        yield urls


def start_rabbitmq(log_dir: Path) -> Private:
    """Start a broker of its own, with its own port mapper, so that no other Erlang program is met."""
    directory = _directory(None)
    port, dist_port, epmd_port = _free_ports(3)
    password = secrets.token_urlsafe(12)
    server = Private(f"rabbit://cml:{password}@127.0.0.1:{port}/", directory=directory)
    (directory / "rabbitmq.conf").write_text("\n".join([
        f"listeners.tcp.local = 127.0.0.1:{port}", "default_user = cml", f"default_pass = {password}",
        "default_permissions.configure = .*", "default_permissions.read = .*", "default_permissions.write = .*",
        "disk_free_limit.absolute = 50MB", "log.console = true", "log.console.level = warning", "log.file = false", ""]))
    (directory / "enabled_plugins").write_text("[].\n")
    env = {
        "PATH": f"{_SEARCH}:/bin:/sbin", "LANG": "C.UTF-8", "HOME": str(directory),
        "ERL_EPMD_ADDRESS": "127.0.0.1", "ERL_EPMD_PORT": str(epmd_port),
        "RABBITMQ_NODENAME": f"cml-{port}@localhost", "RABBITMQ_DIST_PORT": str(dist_port),
        "RABBITMQ_CONFIG_FILE": str(directory / "rabbitmq.conf"), "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "enabled_plugins"),
        "RABBITMQ_MNESIA_BASE": str(directory / "mnesia"), "RABBITMQ_LOG_BASE": str(directory / "log"),
        "RABBITMQ_PID_FILE": str(directory / "pid"), "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        "RABBITMQ_CONF_ENV_FILE": "/dev/null",
    }
    server.env = env
    log = log_dir / "rabbitmq.log"
    with _stopped_on_error(server):
        _spawn(server, [_program("epmd"), "-address", "127.0.0.1", "-port", str(epmd_port)], log, env=env)

        def launch() -> None:
            _spawn(server, [_program("rabbitmq-server")], log, env=env)
            # The broker greets with the AMQP protocol header when the client's is wrong, so this tells more than an open port.
            _await(server, log, lambda: _answers(port, b"AMQP????", b"AMQP"))

        server.launch = launch
        launch()
    return server


def start_mariadb(log_dir: Path) -> Private:
    """Start a database server whose user may create databases."""
    user = _package_user("mysql")
    directory = _directory(user)
    [port] = _free_ports(1)
    password = secrets.token_urlsafe(12)
    server = Private(f"mysql+pymysql://cml:{password}@127.0.0.1:{port}/", directory=directory)
    (directory / "init.sql").write_text(f"CREATE USER IF NOT EXISTS cml@'127.0.0.1' IDENTIFIED BY '{password}';\n"
                                        "GRANT ALL ON *.* TO cml@'127.0.0.1';\n")
    _give(directory, user)
    log = log_dir / "mariadb.log"
    with _stopped_on_error(server):
        if _set_up(server, [_program("mariadb-install-db"), "--no-defaults", f"--datadir={directory}/data", "--skip-test-db",
                            "--auth-root-authentication-method=normal"], log, user):
            raise BootstrapError(f"mariadb-install-db failed; see {log}")

        def launch() -> None:
            _spawn(server,
                   [_program("mariadbd"), "--no-defaults", f"--datadir={directory}/data", f"--port={port}", "--bind-address=127.0.0.1",
                    f"--socket={directory}/socket", f"--pid-file={directory}/pid", f"--init-file={directory}/init.sql",
                    "--skip-name-resolve", "--innodb-flush-log-at-trx-commit=2", "--innodb-buffer-pool-size=64M"], log, user)
            _await(server, log, lambda: _answers(port, b"", b"MariaDB"))

        server.launch = launch
        launch()
    return server


def start_postgresql(log_dir: Path) -> Private:
    """Start a database cluster whose user may create databases."""
    user = _package_user("postgres")
    directory = _directory(user)
    [port] = _free_ports(1)
    password = secrets.token_urlsafe(12)
    server = Private(f"postgresql+psycopg://cml:{password}@127.0.0.1:{port}/postgres", directory=directory)
    (directory / "password").write_text(password)
    _give(directory, user)
    log = log_dir / "postgresql.log"
    with _stopped_on_error(server):
        if _set_up(server, [_program("initdb"), "-D", f"{directory}/data", "-U", "cml", "-A", "scram-sha-256",
                            f"--pwfile={directory}/password", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"], log, user):
            raise BootstrapError(f"initdb failed; see {log}")

        def launch() -> None:
            _spawn(server, [_program("postgres"), "-D", f"{directory}/data", "-p", str(port), "-c", "listen_addresses=127.0.0.1",
                            "-c", "unix_socket_directories=", "-c", "fsync=off"], log, user)
            # An SSL request is answered with one byte, S or N, by a server that is ready to talk.
            _await(server, log, lambda: _answers(port, b"\x00\x00\x00\x08\x04\xd2\x16\x2f", b""))

        server.launch = launch
        launch()
    return server


def _installed(variable: str) -> bool:
    """Tell whether a server is there, and the user that it runs as; MariaDB's program may be there without."""
    program, user = {"CML_TEST_RABBIT_URL": ("rabbitmq-server", None), "CML_TEST_MYSQL_URL": ("mariadbd", _package_user("mysql")),
                     "CML_TEST_POSTGRES_URL": ("initdb", _package_user("postgres"))}[variable]
    return _find(program) is not None and (user is None or any(entry.pw_name == user for entry in pwd.getpwall()))


def install(wanted: Sequence[str], log_dir: Path) -> None:
    """Install the packages of servers that are missing."""
    variables = [variable for variable in wanted if not _installed(variable)]
    if not variables:
        return
    try:
        apt.install([SERVERS[variable][1] for variable in variables], "These tests", log_dir)
    except BootstrapError as error:
        raise BootstrapError(f"{error} Install {', '.join(SERVERS[v][0] for v in variables)}, or name running servers: "
                             f"{' '.join(v + '=URL' for v in variables)}.") from None


def _find(program: str) -> str | None:
    search = os.pathsep.join([*sorted(glob.glob("/usr/lib/postgresql/*/bin"), reverse=True), _SEARCH])
    return shutil.which(program, path=search)


def _program(name: str) -> str:
    path = _find(name)
    if path is None:
        raise BootstrapError(f"{name} is not installed")
    return path


def _package_user(name: str) -> str | None:
    """Give the user that a server must run as, or None for ourselves."""
    return name if os.geteuid() == 0 else None


def _directory(user: str | None) -> Path:
    """Make a data directory outside of the state directory: other users could not reach it there, and socket paths are short."""
    directory = Path(tempfile.mkdtemp(prefix="cml-nova-test-"))
    _give(directory, user)
    return directory


def _give(directory: Path, user: str | None) -> None:
    if user:
        for path in [directory, *directory.rglob("*")]:
            shutil.chown(path, user)


def _set_up(server: Private, command: list[str], log_path: Path, user: str | None) -> int:
    """Run a command that prepares a server; give its exit code."""
    setup = _spawn(server, command, log_path, user)
    code = setup.wait()
    server.processes.remove(setup)
    return code


def _spawn(server: Private, command: list[str], log_path: Path, user: str | None = None,
           env: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
    """Start one of a server's processes."""
    entry = pwd.getpwnam(user) if user else None
    if env is None:
        env = {"PATH": f"{_SEARCH}:/bin:/sbin", "LANG": "C.UTF-8", "HOME": entry.pw_dir if entry else os.path.expanduser("~")}
    with log_path.open("ab") as log, whole():
        process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=env, cwd="/", start_new_session=True,
                                   user=entry.pw_uid if entry else None, group=entry.pw_gid if entry else None,
                                   extra_groups=[] if entry else None)
        server.processes.append(process)
    return process


@contextlib.contextmanager
def _stopped_on_error(server: Private) -> Iterator[None]:
    try:
        yield
    except BaseException:
        server.stop()
        raise


def _await(server: Private, log: Path, ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not ready():
        if server.processes[-1].poll() is not None:
            raise BootstrapError(f"{server.processes[-1].args[0]} ended with code {server.processes[-1].returncode}; see {log}")  # type: ignore[index]
        if time.monotonic() > deadline:
            raise BootstrapError(f"{server.processes[-1].args[0]} does not answer after {_START_SECONDS} s; see {log}")  # type: ignore[index]
        time.sleep(0.1)


def _answers(port: int, question: bytes, expected: bytes) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), 2) as connection:
            connection.sendall(question)
            answer = connection.recv(256)
            return bool(answer) and expected in answer
    except OSError:
        return False


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in sockets]
