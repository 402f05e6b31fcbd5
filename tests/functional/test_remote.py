"""Real SSH against a small server of our own: host keys, the runner's life, logs over a bad path, transfers, many nodes."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncssh
import pytest

from cml_nova import exception
from cml_nova.remote.keys import generate_keypair
from cml_nova.remote.machine import Access, Machine, Options, ProcessSpec, connect_all
from cml_nova.remote.protocol import ProcessState

PORT = 2200


class Server:
    """An SSH server with a home directory for each address; commands run by ``/bin/sh -c``."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.private, public = generate_keypair()
        self.authorized = asyncssh.import_authorized_keys(public)
        self.host_keys: dict[str, str] = {}
        self.connections: list[asyncssh.SSHServerConnection] = []
        self.pids: list[int] = []
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()

    def listen(self, address: str) -> Access:
        private, public = generate_keypair()
        server = self

        class Handler(asyncssh.SSHServer):
            def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
                server.connections.append(conn)

        async def run(process: asyncssh.SSHServerProcess) -> None:
            home = self.home(address)
            home.mkdir(parents=True, exist_ok=True)
            child = await asyncio.create_subprocess_exec(
                "/bin/sh", "-c", process.command or "", cwd=home, env={"HOME": str(home), "PATH": "/usr/bin:/bin:" + os.environ["PATH"]},
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE)
            self.pids.append(child.pid)
            await process.redirect(child.stdin, child.stdout, child.stderr)
            process.exit(await child.wait())

        async def begin() -> None:
            await asyncssh.listen(
                address, PORT, server_factory=Handler, process_factory=run, encoding=None, reuse_address=True,
                server_host_keys=[asyncssh.import_private_key(private)], authorized_client_keys=self.authorized)

        asyncio.run_coroutine_threadsafe(begin(), self.loop).result(10)
        return Access(address, PORT, "cml", self.private, public)

    def home(self, address: str) -> Path:
        return self.base / address

    def cut(self) -> None:
        """Drop every connection without a word to the programs."""
        def abort() -> None:
            for connection in self.connections:
                connection.abort()
            self.connections.clear()
        self.loop.call_soon_threadsafe(abort)

    def stop(self) -> None:
        self.cut()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("nodes"))
    yield server
    server.stop()


@pytest.fixture
def access(server: Server, request: pytest.FixtureRequest) -> Access:
    number = access_numbers.setdefault(request.node.name, len(access_numbers) + 1)
    return server.listen(f"127.71.0.{number}")


access_numbers: dict[str, int] = {}


@pytest.fixture
def machine(access: Access) -> Iterator[Machine]:
    machine = Machine(access)
    machine.connect(10)
    yield machine
    if not machine.connected:
        machine.connect(10)
    for attempt in {state.attempt for state in machine.processes()}:
        machine.stop(attempt, 0)
    machine.close()


class Record:
    """Collects what ``follow`` delivers, and checks that the pieces of a log fit together."""

    def __init__(self) -> None:
        self.logs: dict[tuple[int, str], bytearray] = {}
        self.states: list[ProcessState] = []
        self.stop = threading.Event()

    def on_log(self, attempt: int, task: str, offset: int, data: bytes) -> None:
        log = self.logs.setdefault((attempt, task), bytearray())
        assert offset == len(log)
        log += data

    def offsets(self) -> dict[tuple[int, str], int]:
        return {key: len(log) for key, log in self.logs.items()}

    def follow(self, machine: Machine) -> None:
        machine.follow(self.offsets(), self.on_log, self.states.append, self.stop)

    def text(self, attempt: int = 1, task: str = "worker:0") -> str:
        return self.logs.get((attempt, task), bytearray()).decode()


def spec(command: str | list[str], attempt: int = 1, task: str = "worker:0", **env: str) -> ProcessSpec:
    return ProcessSpec(attempt, task, command, env)


def run(machine: Machine, command: str | list[str], attempt: int = 1, **env: str) -> tuple[ProcessState, str]:
    """Run a process to its end."""
    machine.start(spec(command, attempt, **env))
    record = Record()
    record.follow(machine)
    return record.states[-1], record.text(attempt)


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    """Wait until the condition holds; fail when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_process_runs_and_its_end_is_told_after_its_whole_log(machine: Machine) -> None:
    state, text = run(machine, "echo out; echo err >&2; echo $GREETING; exit 7", GREETING="grüße")
    assert text == "out\nerr\ngrüße\n"
    assert (state.state, state.exit_code, state.signal, state.oom) == ("EXITED", 7, None, False)
    assert state.log_size == len(text.encode())
