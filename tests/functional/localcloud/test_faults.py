"""What the local cloud can do to a guest, and what a client and the guest's processes notice of it."""

from __future__ import annotations

import os
import socket
from contextlib import closing
from pathlib import Path

import paramiko
import pytest

from cml_nova.localcloud.hypervisor import Hypervisor, HypervisorError
from tests.functional.localcloud.guests import PORT, Machine, booted
from tests.harness.guests import alive
from tests.harness.waiting import until


def test_crash_ends_everything_at_once(cloud: Hypervisor, machine: Machine) -> None:
    pid = machine.start_detached("exec sleep 1000")
    transport = machine.transport()
    machine.fault("crash")
    assert not alive(pid)
    assert not cloud.alive(machine.server_id)
    until(lambda: not transport.is_active(), 5, "the loss of the connection")
    with pytest.raises(ConnectionRefusedError):
        machine.transport()
    machine.fault("crash")
    with pytest.raises(HypervisorError, match="not running"):
        machine.fault("hang")


def test_a_hung_guest_accepts_connections_and_answers_nothing_until_it_resumes(cloud: Hypervisor, machine: Machine) -> None:
    machine.start_detached("for i in $(seq 1000); do echo tick >>ticks; sleep 0.02; done")
    ticks = machine.home / "ticks"
    until(ticks.exists, 5, "the first tick")
    with closing(machine.transport()) as transport:
        channel = transport.open_session()
        channel.settimeout(0.5)
        channel.exec_command("cat")
        machine.fault("hang")
        size = ticks.stat().st_size
        channel.sendall(b"hello")
        with pytest.raises(TimeoutError):
            channel.recv(100)
        with socket.create_connection((machine.address, PORT), timeout=0.5) as late:
            with pytest.raises(TimeoutError):
                late.recv(100)
            assert ticks.stat().st_size == size
            assert cloud.alive(machine.server_id)
            machine.fault("resume")
            late.settimeout(10)
            assert late.recv(100).startswith(b"SSH-2.0-")
        channel.settimeout(10)
        assert channel.recv(100) == b"hello"
        until(lambda: ticks.stat().st_size > size, 5, "another tick")


def test_a_guest_hangs_also_while_a_process_waits_in_the_kernel_for_its_child_to_become_another_program(machine: Machine) -> None:
    """As each shell does for a moment: the child has its memory until then, and is caught by the signal at a door here."""
    pid = machine.start_detached("""mkfifo door; exec python3 -c 'import os
os.posix_spawn("/bin/touch", ["touch", "touched"], os.environ, file_actions=[(os.POSIX_SPAWN_OPEN, 0, "door", os.O_RDONLY, 0)])
open("spawned", "w")'""")
    until(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "D", 10, "the parent's wait")
    machine.fault("hang")
    door = os.open(machine.home / "door", os.O_RDWR)
    try:
        machine.fault("resume")
        until(lambda: (machine.home / "touched").exists() and (machine.home / "spawned").exists(), 10, "both to go on")
    finally:
        os.close(door)


def test_a_hung_guest_can_be_destroyed(cloud: Hypervisor) -> None:
    with booted(cloud) as machine:
        pid = machine.start_detached("exec sleep 1000")
        machine.fault("hang")
        cloud.destroy(machine.server_id)
        assert not alive(pid)


def test_a_cut_path_loses_connections_and_refuses_new_ones_while_processes_live(cloud: Hypervisor, machine: Machine) -> None:
    pid = machine.start_detached("exec sleep 1000")
    with socket.create_connection((machine.address, PORT), timeout=10) as sock:
        assert sock.recv(100)
        machine.fault("cut")
        with pytest.raises(ConnectionResetError):
            while sock.recv(1000):
                pass
    for _ in range(2):
        with pytest.raises(ConnectionRefusedError):
            machine.transport()
    assert alive(pid)
    assert cloud.alive(machine.server_id)
    machine.fault("mend")
    assert machine.run("echo back")[1] == b"back\n"
    assert alive(pid)


def test_a_guest_that_was_cut_and_hung_needs_both_made_good(machine: Machine) -> None:
    machine.fault("cut")
    machine.fault("hang")
    machine.fault("mend")
    with socket.create_connection((machine.address, PORT), timeout=0.3) as sock, pytest.raises(TimeoutError):
        sock.recv(100)
    machine.fault("resume")
    assert machine.run("echo back")[1] == b"back\n"


def test_rekey_changes_the_host_key_and_drops_connections(machine: Machine) -> None:
    transport = machine.transport()
    machine.fault("rekey")
    until(lambda: not transport.is_active(), 5, "the loss of the connection")
    with pytest.raises(paramiko.SSHException, match="host key"):
        machine.transport()


def test_an_unknown_fault_is_refused(machine: Machine) -> None:
    with pytest.raises(HypervisorError, match="there is no fault 'flood'"):
        machine.fault("flood")
