"""Who may log in to a guest, and what it shows of itself before."""

from __future__ import annotations

from contextlib import closing

import asyncssh
import paramiko
import pytest

from cml_nova.localcloud.hypervisor import Hypervisor
from tests.functional.localcloud.guests import PORT, USER_KEY, Machine, booted, new_address, paramiko_key


def test_the_host_key_is_the_one_of_the_user_data(machine: Machine) -> None:
    with closing(machine.transport()) as transport:
        assert transport.get_remote_server_key().get_base64() == paramiko_key(machine.host_key).get_base64()


def test_a_wrong_key_is_refused(machine: Machine) -> None:
    with pytest.raises(paramiko.AuthenticationException):
        machine.transport(asyncssh.generate_private_key("ssh-ed25519"))


def test_public_keys_are_the_only_way_in(machine: Machine) -> None:
    transport = paramiko.Transport((machine.address, PORT))
    with closing(transport):
        transport.start_client(timeout=10)
        with pytest.raises(paramiko.BadAuthenticationType) as refusal:
            transport.auth_none("cml")
    assert refusal.value.allowed_types == ["publickey"]


def test_keys_given_to_users_count_too(cloud: Hypervisor) -> None:
    with booted(cloud, in_users=True) as machine:
        assert machine.run("echo in")[1] == b"in\n"


@pytest.mark.parametrize("user_data", [None, b"#!/bin/sh\n", b"#cloud-config\n[", b"#cloud-config\nssh_keys: 3\n", b"\xff\xfe"])
def test_a_guest_without_usable_user_data_boots_and_lets_nobody_in(cloud: Hypervisor, user_data: bytes | None) -> None:
    address = new_address()
    cloud.boot("no-keys", address, "plain", user_data, "guest", {})
    with closing(paramiko.Transport((address, PORT))) as transport, pytest.raises(paramiko.AuthenticationException):
        transport.connect(username="cml", pkey=paramiko_key(USER_KEY))
    cloud.destroy("no-keys")
