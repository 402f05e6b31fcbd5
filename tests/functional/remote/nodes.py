"""Guests of the local cloud to be connected to, and what tests of them share."""

from __future__ import annotations

import io
import itertools
import tarfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cml_nova.localcloud.hypervisor import Hypervisor
from cml_nova.localcloud.images import ImageStore
from cml_nova.remote import cloud_config
from cml_nova.remote.keys import generate_keypair
from cml_nova.remote.login import Access
from cml_nova.remote.machine import Leave, Machine, ProcessSpec
from cml_nova.remote.protocol import ProcessState

PORT = 2200


class Server:
    """Guests of the local cloud: each has an address with an SSH server, a home directory, and processes."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.numbers = itertools.count(1)  # of the addresses of tests
        self.private, self.public = generate_keypair()
        self.hypervisor = Hypervisor(base, ImageStore(base / "images"), PORT)
        self.hypervisor.start()

    def listen(self, address: str) -> Access:
        private, public = generate_keypair()
        user_data = cloud_config(private, public, [self.public], "cml")
        self.hypervisor.boot(name_of(address), address, "plain", user_data.encode(), "node", {})
        return Access(address, PORT, "cml", self.private, public)

    def home(self, address: str) -> Path:
        return self.base / "guests" / name_of(address)

    def cut(self, address: str) -> None:
        """Reset the connections of a machine; it can be reached again at once."""
        self.hypervisor.fault(name_of(address), "cut")
        self.hypervisor.fault(name_of(address), "mend")


def name_of(address: str) -> str:
    return address.replace(".", "-")


class Record:
    """Collects what ``follow`` delivers, and checks that the pieces of a log fit together."""

    def __init__(self) -> None:
        self.logs: dict[tuple[int, str], bytearray] = {}
        self.times: dict[tuple[int, str], list[tuple[int, float]]] = {}
        self.states: list[ProcessState] = []
        self.stop = Leave()

    def on_log(self, attempt: int, task: str, offset: int, data: bytes, times: list[tuple[int, float]]) -> None:
        log = self.logs.setdefault((attempt, task), bytearray())
        assert offset == len(log)
        log += data
        self.times.setdefault((attempt, task), []).extend(times)

    def offsets(self) -> dict[tuple[int, str], int]:
        return {key: len(log) for key, log in self.logs.items()}

    def follow(self, machine: Machine) -> None:
        machine.follow(self.offsets(), self.on_log, self.states.append, self.stop)

    def text(self, attempt: int = 1, task: str = "worker:0") -> str:
        return self.logs.get((attempt, task), bytearray()).decode()


def spec(command: str | list[str], attempt: int = 1, task: str = "worker:0", **env: str) -> ProcessSpec:
    return ProcessSpec(attempt, task, command, env)


def connect_all(machines: Sequence[Machine], timeout: float) -> None:
    """Connect many machines at a time."""
    with ThreadPoolExecutor(len(machines), "connect") as pool:
        list(pool.map(lambda machine: machine.connect(timeout), machines))


def run(machine: Machine, command: str | list[str], attempt: int = 1, **env: str) -> tuple[ProcessState, str]:
    """Run a process to its end."""
    machine.start(spec(command, attempt, **env))
    record = Record()
    record.follow(machine)
    return record.states[-1], record.text(attempt)


def archive(files: dict[str, bytes], mode: str = "w:gz") -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode=mode) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return data.getvalue()
