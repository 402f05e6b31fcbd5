"""Connections to nodes: cut, silent, frozen, many at a time; and what becomes of a machine without any."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from cml_nova import exception
from cml_nova.localcloud.hypervisor import Hypervisor
from cml_nova.localcloud.images import ImageStore
from cml_nova.remote import cloud_config
from cml_nova.remote.keys import generate_keypair
from cml_nova.remote.login import LOGINS, Access
from cml_nova.remote.machine import Machine, Options
from tests.functional.remote.nodes import PORT, Record, Server, connect_all, name_of, run, spec
from tests.harness.waiting import until


def test_a_process_outlives_its_session_and_the_session_process(machine: Machine, server: Server) -> None:
    machine.start(spec("echo one; sleep 1; echo two"))
    os.kill(machine.hello.pid, signal.SIGKILL)
    record = Record()
    with pytest.raises(exception.RemoteError):
        record.follow(machine)
    until(lambda: not machine.connected, 20, "the end of the connection")
    machine.connect(10)
    record.follow(machine)
    assert record.text() == "one\ntwo\n"
    assert record.states[-1].exit_code == 0


def test_a_silent_path_is_noticed(server: Server, access: Access) -> None:
    machine = Machine(access, options=Options(dead_after=6))
    machine.connect(10)
    machine.start(spec("sleep 600"))
    pid = machine.hello.pid
    time.sleep(7)  # longer than dead_after: the heartbeat alone keeps the connection up
    assert machine.processes()[0].state == "RUNNING"
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(exception.RemoteError, match="no sign of life for 6 s"):
            Record().follow(machine)
    finally:
        os.kill(pid, signal.SIGKILL)
    machine.connect(10)
    machine.stop(1, 0)
    machine.close()


@pytest.mark.fault("node-frozen")
def test_a_frozen_machine_is_given_up_in_time_and_found_again(machine: Machine, server: Server, access: Access) -> None:
    machine.start(spec("for i in 1 2 3 4 5 6 7 8; do echo $i; sleep 0.2; done"))
    other = Machine(access)
    server.hypervisor.fault(name_of(access.address), "hang")
    try:
        before = time.monotonic()
        with pytest.raises(exception.RemoteError):
            other.connect(1)
        assert time.monotonic() - before < 4
    finally:
        server.hypervisor.fault(name_of(access.address), "resume")
    other.connect(10)
    record = Record()
    record.follow(other)
    other.close()
    assert record.text() == "1\n2\n3\n4\n5\n6\n7\n8\n"


@pytest.mark.fault("image-without-python")
def test_a_machine_without_python_says_so(server: Server, access: Access) -> None:
    server.hypervisor.fault(name_of(access.address), "crash")  # its address is needed
    images = ImageStore(server.base / "bare")
    info = images.get("plain")
    (info.bin / "python3").unlink()
    (info.bin / "python3").write_text("#!/bin/sh\necho Welcome to this machine\necho python3: not found >&2\nexit 127\n")
    (info.bin / "python3").chmod(0o755)
    bare = Hypervisor(server.base / "bare", images, PORT + 1)
    bare.start()
    try:
        private, public = generate_keypair()
        bare.boot("bare", access.address, "plain", cloud_config(private, public, [server.public], "cml").encode(), "node", {})
        with pytest.raises(exception.RemoteError, match=r"(?s)Welcome.*python3: not found"):
            Machine(Access(access.address, PORT + 1, "cml", server.private, public)).connect(10)
    finally:
        bare.stop()


def test_a_machine_that_nobody_asks_for_powers_itself_off(server: Server, access: Access) -> None:
    machine = Machine(access, options=Options(power_off_after=1))
    machine.connect(10)
    run(machine, "true")
    machine.start(spec("sleep 1.5", task="worker:1"))
    machine.close()
    time.sleep(1.3)
    assert server.hypervisor.alive(name_of(access.address)), "it went off while a process was running"
    until(lambda: not server.hypervisor.alive(name_of(access.address)), 20, "the machine's end")


@pytest.mark.fault("slow-sshd")
def test_slow_machines_are_logged_in_to_a_bounded_number_at_a_time(server: Server) -> None:
    machines = [Machine(server.listen(f"127.71.2.{number + 1}")) for number in range(LOGINS + 16)]
    server.hypervisor.login_delay = delay = 3
    try:
        before = time.monotonic()
        connect_all(machines, 60)
        took = time.monotonic() - before
    finally:
        server.hypervisor.login_delay = 0
        for machine in machines:
            machine.close()
    assert took > 2 * delay, "all at once"


@pytest.mark.fault("many-nodes")
def test_thirty_nodes_are_up_and_logging_quickly(server: Server) -> None:
    machines = [Machine(server.listen(f"127.71.1.{i + 1}")) for i in range(30)]
    before = time.monotonic()
    connect_all(machines, 30)
    connected = time.monotonic() - before
    records = [Record() for _ in machines]

    def work(machine: Machine, record: Record) -> None:
        machine.free_ports(1)
        machine.start(spec("echo $CML_OUTPUT_DIR"))
        record.follow(machine)

    threads = [threading.Thread(target=work, args=pair) for pair in zip(machines, records, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.monotonic() - before
    for machine, record in zip(machines, records, strict=True):
        assert record.text() == f"{machine.hello.root}/output\n"
        machine.close()
    print(f"30 nodes: connected {connected:.2f} s, log of all complete {took:.2f} s")
    assert took < 20  # on two busy cores; it is about 1 s on idle ones
