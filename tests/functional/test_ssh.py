"""SSH to the machines: whom we trust, and what a cut path does."""

from __future__ import annotations

import asyncio
import time

import asyncssh
import pytest

from tests.harness import guests
from tests.harness.client import Client
from tests.harness.cloud import LocalCloud
from tests.harness.training import TICK, WAIT, Gate, document, ticked
from tests.harness.waiting import until


@pytest.mark.fault("mitm")
def test_wrong_host_key_is_refused_and_shown(client: Client, cloud: LocalCloud, gate: Gate) -> None:
    """Another machine answers under the node's address: nothing is said to it, and the user is told."""
    job_id = client.submit(document(env=gate.env), gate.files(WAIT))
    gate.expect(2)
    server = client.nodes(job_id)[0]["server_id"]
    cloud.fault("server", server=server, fault="rekey")
    until(lambda: any("host key" in event["message"].lower() for event in client.events(job_id)), 60, "an event about the host key")
    gate.expect(4)
    assert client.nodes(job_id)[0]["server_id"] != server, "a machine that answers with a foreign key is not used again"
    gate.open()
    client.succeed(job_id)


@pytest.mark.fault("ssh-cut")
def test_cut_path_stops_nothing_and_loses_no_line(client: Client, cloud: LocalCloud, gate: Gate) -> None:
    job_id = client.submit(document(env=gate.env), gate.files(TICK))
    visitors = gate.expect(2)
    server = client.nodes(job_id)[1]["server_id"]
    cloud.fault("server", server=server, fault="cut")
    before = client.log_size(job_id)
    until(lambda: client.log_size(job_id) > before + 500, 20, "the other machine's log goes on")
    assert client.job(job_id)["status"] == "RUNNING"
    cloud.fault("server", server=server, fault="mend")
    assert all(guests.alive(visitor.pid) for visitor in visitors)
    gate.open()
    client.succeed(job_id)
    assert len(gate.visitors) == 2, "the training was not started anew"
    for task in ("worker:0", "worker:1"):
        lines = client.log(job_id, task).splitlines()
        assert lines == ticked(len(lines))


@pytest.mark.fault("slow-sshd")
def test_machines_that_take_their_time_with_each_login_are_waited_for(client: Client, cloud: LocalCloud, gate: Gate) -> None:
    cloud.fault("settings", login_delay=3)
    cloud.forget_calls()
    job_id = client.submit(document(env=gate.env), gate.files(TICK))
    gate.expect(2)
    server = client.nodes(job_id)[1]["server_id"]
    cloud.fault("server", server=server, fault="cut")
    cloud.fault("server", server=server, fault="mend")
    gate.open()
    job = client.succeed(job_id)
    assert (job["attempt"], job["infra_restarts"], cloud.calls()["compute POST /servers"]) == (1, 0, 1)
    for task in ("worker:0", "worker:1"):
        lines = client.log(job_id, task).splitlines()
        assert lines == ticked(len(lines))


@pytest.mark.fault("ssh-cut-long")
def test_paths_cut_for_longer_than_every_time_out(client: Client, cloud: LocalCloud, gate: Gate) -> None:
    """Longer than connect_timeout and unreachable_after together, which are 5 and 6 s here and 30 s each with an operator."""
    job_id = client.submit(document(env=gate.env), gate.files(TICK))
    gate.expect(2)
    servers = [node["server_id"] for node in client.nodes(job_id)]
    for server in servers:
        cloud.fault("server", server=server, fault="cut")
    until(lambda: all(node["unreachable_since"] for node in client.nodes(job_id)), 30, "both nodes are shown as unreachable")
    time.sleep(12)
    assert client.job(job_id)["status"] == "RUNNING"
    for server in servers:
        cloud.fault("server", server=server, fault="mend")
    until(lambda: not any(node["unreachable_since"] for node in client.nodes(job_id)), 30, "both nodes answer again")
    gate.open()
    assert client.succeed(job_id)["attempt"] == 1
    assert len(gate.visitors) == 2
    for task in ("worker:0", "worker:1"):
        lines = client.log(job_id, task).splitlines()
        assert lines == ticked(len(lines))


def test_keys_of_the_user_open_the_machines(client: Client, cloud: LocalCloud, gate: Gate) -> None:
    key = asyncssh.generate_private_key("ssh-ed25519")
    public = key.export_public_key().decode().strip()
    job_id = client.submit(document(workers=1, env=gate.env, ssh_authorized_keys=[public]), gate.files(WAIT))
    gate.expect(1)
    address = client.nodes(job_id)[0]["address"]

    async def run() -> str:
        async with asyncssh.connect(address, 2200, username="cml", client_keys=[key], known_hosts=None, config=[]) as connection:
            return str((await connection.run("echo from the user", check=True)).stdout)

    assert asyncio.run(run()) == "from the user\n"
    gate.open()
    client.succeed(job_id)
