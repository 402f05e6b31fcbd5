"""What the cloud does inside a server: user data reaches it, its firewall is in force, and it is silent when it is gone."""

from __future__ import annotations

import socket
import uuid
from collections.abc import Iterator
from contextlib import ExitStack

import paramiko
import pytest

from cml_nova import exception
from cml_nova.compute.fleet import Fleet, Server
from tests.contract.conftest import Job, private, run
from tests.harness.waiting import until

PORT = 8765


@pytest.fixture(scope="module")
def connected(pair: Job) -> Iterator[list[tuple[Server, paramiko.Transport]]]:
    """The servers of the pair, and a connection to each."""
    with ExitStack() as stack:
        found = []
        for server in pair.servers():
            assert server.address
            transport = pair.connect(server.address)
            stack.callback(transport.close)
            found.append((server, transport))
        yield found


def test_host_key_and_user_key_come_from_user_data(connected: list[tuple[Server, paramiko.Transport]]) -> None:
    for _, transport in connected:
        code, output = run(transport, "pwd; printf %s \"$HOME\"")
        assert code == 0
        directory, home = output.splitlines()
        assert directory == home


def test_a_console_is_shown_to_who_owns_the_server(pair: Job, fleet: Fleet, connected: list[tuple[Server, paramiko.Transport]]) -> None:
    assert fleet.console(connected[0][0].id, 40).strip()


def test_a_console_of_no_server_is_not_found(fleet: Fleet) -> None:
    with pytest.raises(exception.NotFound):
        fleet.console(str(uuid.uuid4()), 40)


def test_other_keys_do_not_open_it(pair: Job, connected: list[tuple[Server, paramiko.Transport]]) -> None:
    server, _ = connected[0]
    transport = paramiko.Transport(socket.create_connection((server.address, pair.ssh_port), timeout=10))
    try:
        transport.start_client(timeout=30)
        with pytest.raises(paramiko.AuthenticationException):
            transport.auth_publickey(pair.ssh_user, private(pair.keys.host[0]))
    finally:
        transport.close()


@pytest.mark.real_network
def test_only_ssh_is_open_outside_and_everything_inside(connected: list[tuple[Server, paramiko.Transport]]) -> None:
    (first, listener), (_, inside) = connected
    assert first.address
    code, output = run(listener, f"nohup python3 -m http.server {PORT} >/dev/null 2>&1 & echo started")
    assert (code, output) == (0, "started\n")
    probe = f"import socket; print(socket.create_connection(('{first.address}', {PORT}), 5).getpeername()[1])"
    until(lambda: run(inside, f'python3 -c "{probe}"') == (0, f"{PORT}\n"), 60, "a connection from the other server", interval=0.5)
    with pytest.raises(TimeoutError):
        socket.create_connection((first.address, PORT), timeout=3).close()


def test_a_deleted_server_answers_no_more(job: Job) -> None:
    job.create(1)
    (server,) = job.active()
    address = server.address
    assert address
    job.connect(address).close()
    job.gone()

    def silent() -> bool:
        try:
            socket.create_connection((address, job.ssh_port), timeout=1).close()
        except OSError:
            return True
        return False

    until(silent, 30, f"silence at {address}")
