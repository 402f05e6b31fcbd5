"""Whom the worker trusts: the host key that it has put into a node, and no other."""

from __future__ import annotations

import asyncssh
import pytest

from cml_nova import exception
from cml_nova.remote.keys import generate_keypair
from cml_nova.remote.login import Access, fingerprint
from cml_nova.remote.machine import Machine
from tests.functional.remote.nodes import Server, name_of, spec
from tests.harness.waiting import until


@pytest.mark.fault("mitm")
def test_another_host_key_is_refused_with_both_fingerprints(server: Server, access: Access) -> None:
    other = generate_keypair()[1]
    with pytest.raises(exception.HostKeyRefused) as caught:
        Machine(Access(access.address, access.port, access.user, access.private_key, other)).connect(10)
    for key in (access.host_key, other):
        assert fingerprint(asyncssh.import_public_key(key).public_data) in caught.value.message
    assert not (server.home(access.address) / ".cml").exists(), "something was done on a machine that is not ours"


def test_another_login_key_and_a_closed_port_are_plain_errors(access: Access) -> None:
    for wrong in (Access(access.address, access.port, access.user, generate_keypair()[0], access.host_key),
                  Access(access.address, 2199, access.user, access.private_key, access.host_key)):
        with pytest.raises(exception.RemoteError) as caught:
            Machine(wrong).connect(10)
        assert not isinstance(caught.value, exception.HostKeyRefused)


@pytest.mark.fault("mitm")
def test_a_changed_host_key_is_refused_at_the_next_connect(machine: Machine, server: Server, access: Access) -> None:
    machine.start(spec("true"))
    server.hypervisor.fault(name_of(access.address), "rekey")
    until(lambda: not machine.connected, 20, "the end of the connection")
    with pytest.raises(exception.HostKeyRefused):
        machine.connect(10)
    server.hypervisor.destroy(name_of(access.address))
    fresh = Machine(server.listen(access.address))
    fresh.connect(10)
    assert fresh.processes() == []
    machine.access = fresh.access
    fresh.close()


@pytest.mark.fault("ip-reused")
def test_another_machine_under_an_old_address_is_never_trusted(machine: Machine, server: Server, access: Access) -> None:
    server.hypervisor.destroy(name_of(access.address))
    until(lambda: not machine.connected, 20, "the end of the connection")
    newcomer = Machine(server.listen(access.address))
    with pytest.raises(exception.HostKeyRefused):
        machine.connect(10)
    newcomer.connect(10)
    assert newcomer.processes() == []
    machine.access = newcomer.access
    newcomer.close()
