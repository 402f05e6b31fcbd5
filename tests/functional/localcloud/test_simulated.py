"""Guests without processes, as the service's own SSH client sees them: they must be to it what real ones are."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from cml_nova import exception
from cml_nova.localcloud.hypervisor import Hypervisor
from cml_nova.localcloud.images import ImageStore
from cml_nova.remote import cloud_config
from cml_nova.remote.keys import generate_keypair
from cml_nova.remote.machine import Access, Leave, Machine, Options, ProcessSpec
from cml_nova.remote.protocol import ProcessState

PORT = 2200
ADDRESS = f"127.{random.randrange(65, 255)}.{random.randrange(256)}.1"  # several runs may be at work on a machine
FOREVER = "simulate --seconds 600 --lines-per-minute 6000"


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hypervisor]:
    base = tmp_path_factory.mktemp("cloud")
    hypervisor = Hypervisor(base, ImageStore(base / "images"), PORT)
    hypervisor.start()
    yield hypervisor
    hypervisor.stop()


@pytest.fixture
def access(cloud: Hypervisor) -> Iterator[Access]:
    login, login_public = generate_keypair()
    host, host_public = generate_keypair()
    user_data = cloud_config(host, host_public, [login_public], "cml").encode()
    cloud.boot("node", ADDRESS, "simulated", user_data, "node", {})
    yield Access(ADDRESS, PORT, "cml", login, host_public)
    cloud.destroy("node")


@pytest.fixture
def machine(access: Access) -> Iterator[Machine]:
    machine = Machine(access, options=Options(sample_interval=0.2))
    machine.connect(10)
    yield machine
    machine.close()


def start(machine: Machine, command: str, attempt: int = 1) -> None:
    machine.start(ProcessSpec(attempt, "worker:0", command, {}))


def follow(machine: Machine, known: int = 0, enough: int | None = None) -> tuple[str, list[ProcessState]]:
    """Give the log from an offset on, and the states, to the end or until there is enough of the log (in bytes)."""
    pieces: list[bytes] = []
    states: list[ProcessState] = []
    stop = Leave()

    def on_log(attempt: int, task: str, offset: int, data: bytes, times: list[tuple[int, float]]) -> None:
        assert offset == known + sum(map(len, pieces))
        pieces.append(data)
        if enough is not None and sum(map(len, pieces)) >= enough:
            stop.set()

    machine.follow({(1, "worker:0"): known} if known else {}, on_log, states.append, stop)
    return b"".join(pieces).decode(), states


def numbers(text: str) -> list[int]:
    return [int(line.removeprefix("simulated line ")) for line in text.splitlines()]


def test_a_process_does_what_its_command_says(access: Access, machine: Machine) -> None:
    """It is started, by another client, once somebody follows what runs there: who follows it later may see its end only."""
    other, stop = Machine(access), Leave()
    other.connect(10)
    pieces: list[bytes] = []
    states: list[ProcessState] = []

    def on_log(attempt: int, task: str, offset: int, data: bytes, times: list[tuple[int, float]]) -> None:
        if task == "worker:0":
            pieces.append(data)
        elif offset == 0:
            start(other, "simulate --seconds 0.5 --lines-per-minute 600 --exit 3")

    def on_state(state: ProcessState) -> None:
        if state.task == "worker:0":
            states.append(state)
            if state.exit_code is not None:
                stop.set()

    machine.start(ProcessSpec(1, "worker:1", FOREVER, {}))
    machine.follow({}, on_log, on_state, stop)
    other.close()
    text = b"".join(pieces).decode()
    assert numbers(text) == list(range(6))
    assert [(state.state, state.exit_code) for state in states] == [("RUNNING", None), ("EXITED", 3)]
    assert states[-1].log_size == len(text)
    assert states[-1].ended_at is not None and states[-1].started_at is not None
    assert states[-1].ended_at - states[-1].started_at == pytest.approx(0.5)


def test_how_long_a_process_ran_is_told_exactly_after_a_greeting_that_was_long_under_way(
        access: Access, monkeypatch: pytest.MonkeyPatch) -> None:
    """It makes the node's clock seem to be behind ours. What is told of later came faster."""
    late = Machine(access)
    with monkeypatch.context() as patch:
        patch.setattr("cml_nova.remote.machine.time", SimpleNamespace(monotonic=time.monotonic, time=lambda: time.time() + 60))
        late.connect(10)
    began = time.time()
    start(late, "simulate --seconds 0.5 --lines-per-minute 600")
    _, states = follow(late)
    late.close()
    assert states[-1].ended_at is not None and states[-1].started_at is not None
    assert began <= states[-1].started_at <= states[-1].ended_at <= time.time()
    assert states[-1].ended_at - states[-1].started_at == pytest.approx(0.5)


def test_any_other_command_ends_with_127_and_says_why(machine: Machine) -> None:
    start(machine, "python3 train.py")
    text, states = follow(machine)
    assert states[-1].exit_code == 127
    assert "simulate --seconds" in text


def test_what_runs_goes_on_while_nobody_is_connected(access: Access, machine: Machine) -> None:
    start(machine, FOREVER)
    known, _ = follow(machine, enough=100)
    machine.close()
    again = Machine(access)
    boot = machine.hello.boot_id if machine.hello else ""
    assert again.connect(10).boot_id == boot
    start(again, FOREVER)  # the same start is no second one
    assert [state.state for state in again.processes()] == ["RUNNING"]
    rest, _ = follow(again, known=len(known), enough=1000)
    assert numbers(known + rest) == list(range(len(numbers(known + rest))))
    again.close()


def test_a_stop_is_seen_and_is_for_good(machine: Machine) -> None:
    start(machine, FOREVER)
    machine.stop(1, 5)
    assert [(state.state, state.stopped_by) for state in follow(machine)[1]] == [("STOPPED", "TERM")]
    with pytest.raises(exception.NodeCommandFailed, match="attempt 1 is over"):
        machine.start(ProcessSpec(1, "worker:1", FOREVER, {}))
    start(machine, FOREVER, attempt=2)
    with pytest.raises(exception.NodeCommandFailed, match="can't start"):
        start(machine, FOREVER, attempt=3)


def test_uploads_are_taken_and_dropped_and_directories_are_empty(machine: Machine, tmp_path: Path) -> None:
    machine.write("hostfile", b"10.0.0.1\n")
    machine.upload("code", None, iter([bytes(1024)]))
    assert len(set(machine.free_ports(5))) == 5
    assert machine.gpus() is None
    assert b"".join(machine.fetch("output")).strip(b"\0") == b""


def test_samples_come_while_processes_are_followed(machine: Machine) -> None:
    start(machine, FOREVER)
    samples: list[dict[str, object]] = []
    stop = Leave()

    def on_sample(sample: dict[str, object]) -> None:
        samples.append(sample)
        stop.set()

    machine.follow({}, lambda *_: None, lambda _: None, stop, on_sample)
    assert samples[0]["cpu_percent"] == 50.0


def test_a_machine_that_lost_power_says_that_its_processes_are_lost(cloud: Hypervisor, access: Access, machine: Machine) -> None:
    start(machine, FOREVER)
    cloud.fault("node", "crash")
    with pytest.raises(exception.RemoteError):
        machine.processes()
    user_data = cloud_config(*generate_keypair(), [generate_keypair()[1]], "cml").encode()
    assert not cloud.alive("node")
    cloud.boot("node", ADDRESS, "simulated", user_data, "node", {})
    with pytest.raises(exception.HostKeyRefused):  # as the others, it takes its host key from the user data
        Machine(access).connect(10)


def test_a_hung_guest_gives_no_sign_of_life(cloud: Hypervisor, access: Access) -> None:
    machine = Machine(access, options=Options(dead_after=1.5))
    machine.connect(10)
    start(machine, FOREVER)
    cloud.fault("node", "hang")
    with pytest.raises(exception.RemoteError, match="no sign of life"):
        follow(machine)
    cloud.fault("node", "resume")
    again = Machine(access)
    again.connect(10)
    assert [state.state for state in again.processes()] == ["RUNNING"]
    again.close()
