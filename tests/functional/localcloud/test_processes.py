"""Life and death of a guest's processes, seen as processes of this machine."""

from __future__ import annotations

from contextlib import closing

import pytest

from cml_nova.localcloud.hypervisor import Hypervisor
from tests.functional.localcloud.guests import Machine, booted, cloud_config
from tests.harness.guests import alive
from tests.harness.waiting import until


def test_a_lost_connection_hangs_up_on_the_command_but_not_on_what_it_detached(machine: Machine) -> None:
    detached = machine.start_detached("exec sleep 1000")
    transport = machine.transport()
    channel = transport.open_session()
    channel.exec_command("echo $$; exec sleep 1000")
    attached = int(channel.makefile().readline())
    transport.close()
    until(lambda: not alive(attached), 5, "the end of the command")
    assert alive(detached)


@pytest.mark.parametrize("command", ["sleep 1000", "yes"])
def test_a_closed_channel_hangs_up_on_the_command(machine: Machine, command: str) -> None:
    with closing(machine.transport()) as transport:
        channel = transport.open_session()
        channel.exec_command(f"echo $$; exec {command}")
        pid = int(channel.makefile().readline())
        channel.close()
        until(lambda: not alive(pid), 5, "the end of the command")


def test_destroy_kills_everything_and_removes_the_files(cloud: Hypervisor) -> None:
    with booted(cloud) as machine:
        detached = machine.start_detached("exec sleep 1000")
        stubborn = machine.start_detached("trap '' TERM HUP INT; while :; do sleep 1; done")
        machine.start_detached("env -i sleep 1000 & echo $! >child; wait")
        child = int(until(lambda: (machine.home / "child").exists() and (machine.home / "child").read_text(), 5, "the child"))
        unmarked = machine.transport().open_session()
        unmarked.exec_command("echo $$; exec env -i sleep 1000")
        command = int(unmarked.makefile().readline())
        pids = [detached, stubborn, child, command]
        assert all(map(alive, pids))
        cloud.destroy(machine.server_id)
        assert [pid for pid in pids if alive(pid)] == []
        assert not machine.home.exists()
        assert not cloud.alive(machine.server_id)
        with pytest.raises(ConnectionRefusedError):
            machine.transport()
        cloud.destroy(machine.server_id)  # and once more


def test_destroy_outruns_a_guest_that_keeps_starting_processes(cloud: Hypervisor) -> None:
    with booted(cloud) as machine:
        machine.start_detached("for i in $(seq 200); do setsid sleep 1000 & sleep 0.01; done")
        until(lambda: len(cloud._processes.of(machine.server_id)) > 10, 10, "some processes")
        cloud.destroy(machine.server_id)
        assert cloud._processes.of(machine.server_id) == []


def test_destroy_leaves_other_guests_alone(cloud: Hypervisor, machine: Machine) -> None:
    pid = machine.start_detached("exec sleep 1000")
    with booted(cloud) as other:
        other.start_detached("exec sleep 1000")
    assert alive(pid)
    assert machine.run("echo here")[1] == b"here\n"


@pytest.mark.parametrize("command", ["poweroff", "sudo -n shutdown -h now", "systemctl poweroff"])
def test_a_guest_can_shut_itself_down_and_be_started_again(cloud: Hypervisor, powered_off: list[str], command: str) -> None:
    with booted(cloud) as machine:
        pid = machine.start_detached("exec sleep 1000")
        machine.run("echo kept >file")
        machine.start_detached(command)
        until(lambda: machine.server_id in powered_off, 5, "the message that the guest is off")
        assert not cloud.alive(machine.server_id)
        assert not alive(pid)
        cloud.boot(machine.server_id, machine.address, "plain", cloud_config(machine.host_key), "guest-name", {})
        assert machine.run("cat file")[1] == b"kept\n"
        powered_off.remove(machine.server_id)
