"""Which guests may boot, on which addresses, and how fast many do."""

from __future__ import annotations

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import asyncssh
import pytest

from cml_nova.localcloud.hypervisor import AddressInUse, Hypervisor, HypervisorError
from cml_nova.localcloud.images import ImageError
from tests.functional.localcloud.guests import PORT, Machine, cloud_config, new_address


def test_an_address_is_given_to_one_guest_only(cloud: Hypervisor, machine: Machine) -> None:
    with pytest.raises(AddressInUse):
        cloud.boot("second", machine.address, "plain", None, "second", {})
    assert not cloud.alive("second")
    machine.fault("cut")
    with pytest.raises(AddressInUse):
        cloud.boot("second", machine.address, "plain", None, "second", {})


def test_an_address_on_which_another_program_listens_is_in_use(cloud: Hypervisor) -> None:
    address = new_address()
    with socket.create_server((address, PORT)), pytest.raises(AddressInUse):
        cloud.boot("second", address, "plain", None, "second", {})
    assert not cloud.alive("second")


@pytest.mark.parametrize(("server_id", "address"), [("../up", "127.70.9.9"), ("", "127.70.9.9"), ("a", "192.0.2.1")])
def test_bad_ids_and_outside_addresses_are_refused(cloud: Hypervisor, server_id: str, address: str) -> None:
    with pytest.raises(HypervisorError):
        cloud.boot(server_id, address, "plain", None, "guest", {})


def test_an_unknown_image_is_refused(cloud: Hypervisor) -> None:
    with pytest.raises(ImageError, match="there is no image 'cobol'"):
        cloud.boot("a", new_address(), "cobol", None, "guest", {})


def test_fifty_guests_start_and_answer_quickly(cloud: Hypervisor) -> None:
    begin = time.monotonic()
    host_key = asyncssh.generate_private_key("ssh-ed25519")
    machines = [Machine(cloud, f"many-{number}", new_address(), host_key, Path()) for number in range(50)]
    user_data = cloud_config(host_key)

    def boot(machine: Machine) -> tuple[int, bytes, bytes]:
        cloud.boot(machine.server_id, machine.address, "plain", user_data, machine.server_id, {})
        return machine.run("echo $HOSTNAME")

    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(boot, machines))
        list(pool.map(lambda machine: cloud.destroy(machine.server_id), machines))
    assert [out.decode().strip() for _, out, _ in answers] == [machine.server_id for machine in machines]
    assert time.monotonic() - begin < 15
