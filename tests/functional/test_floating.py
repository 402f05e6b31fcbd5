"""Nodes with floating addresses: the workers connect to these, the nodes talk by their fixed ones, and none is left at the end."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness.client import Client
from tests.harness.stack import Stack, make_stack
from tests.harness.training import WAIT, Gate, document
from tests.harness.waiting import until

SSH_PORT = 2200


@pytest.fixture(scope="module")
def floating_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack[Any]]:
    with make_stack(tmp_path_factory.mktemp("floating"), options={"cloud": {"floating_network": "local-external"}}) as made:
        yield made


@pytest.fixture
def stack(floating_stack: Stack[Any]) -> Iterator[Stack[Any]]:
    with floating_stack.guarded():
        yield floating_stack


@pytest.fixture
def client(stack: Stack[Any]) -> Client:
    return stack.demo


@pytest.fixture
def gate(stack: Stack[Any]) -> Iterator[Gate]:
    with Gate() as made:
        yield made


def floating(stack: Stack[Any]) -> list[dict[str, Any]]:
    """List the floating addresses of all projects."""
    return list(stack.cloud.get("/network/v2.0/floatingips")["floatingips"])


def limit(stack: Stack[Any], number: int) -> None:
    """Set how many floating addresses each project may have."""
    for project in stack.cloud.get("/identity/v3/projects")["projects"]:
        answer = stack.cloud.request("PUT", f"/network/v2.0/quotas/{project['id']}", {"quota": {"floatingip": number}})
        assert answer.status_code == 200, answer.text


def connected() -> set[str]:
    """List the addresses that some process of this machine is connected to at the SSH port."""
    found = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        address, port = line.split()[2].split(":")
        if line.split()[3] == "01" and int(port, 16) == SSH_PORT:
            found.add(str(ipaddress.IPv4Address(bytes.fromhex(address)[::-1])))
    return found


def test_workers_connect_by_floating_addresses_and_nodes_by_fixed_ones(stack: Stack[Any], client: Client, gate: Gate) -> None:
    script = "import os\nprint(open(os.environ['CML_HOSTFILE']).read())\n" + WAIT
    job_id = client.submit(document(workers=2, env=gate.env), gate.files(script))
    gate.expect(2)
    made = floating(stack)
    fixed = {node["address"] for node in client.nodes(job_id)}
    assert {one["fixed_ip_address"] for one in made} == fixed
    assert {one["floating_ip_address"] for one in made} <= connected()
    gate.open()
    client.succeed(job_id)
    log = client.log(job_id, "worker:0")
    assert all(address in log for address in fixed)
    assert not any(one["floating_ip_address"] in log for one in made)
    assert floating(stack) == []


@pytest.mark.fault("worker-vm-deleted")
def test_a_replaced_node_gets_another_and_the_old_one_goes(stack: Stack[Any], client: Client, gate: Gate) -> None:
    job_id = client.submit(document(workers=2, env=gate.env), gate.files(WAIT))
    gate.expect(2)
    before = {one["id"] for one in floating(stack)}
    lost = client.nodes(job_id)[0]
    stack.cloud.fault("server", server=lost["server_id"], fault="vanish")
    gate.expect(4)
    after = floating(stack)
    assert len(after) == 2
    assert len(before & {one["id"] for one in after}) == 1
    assert {one["fixed_ip_address"] for one in after} == {node["address"] for node in client.nodes(job_id)}
    gate.open()
    client.succeed(job_id)


@pytest.mark.fault("quota-exceeded")
def test_no_floating_address_by_quota_is_a_job_that_waits_and_holds_nothing(stack: Stack[Any], client: Client) -> None:
    limit(stack, 1)
    try:
        job_id = client.submit(document(workers=2), {"train.py": "print('my turn')"})
        waiting = client.wait(job_id, lambda job: job["status"] == "QUEUED" and job["cause"] == "QUOTA")
        assert "floatingip" in waiting["status_reason"]
        until(lambda: not floating(stack) and not stack.cloud.servers(job_id), 30, "a job that waits and holds nothing")
    finally:
        limit(stack, 50)
    client.succeed(job_id)


@pytest.mark.fault("cancel-building")
def test_a_cancel_while_servers_are_built_leaves_none(stack: Stack[Any], client: Client) -> None:
    stack.cloud.fault("boot", result="never", count=1)
    job_id = client.submit(document(workers=2), {"train.py": ""})
    until(lambda: len(floating(stack)) == 2, 60, "two floating addresses: they come with the ports, before the servers are active")
    client.cancel(job_id)
    assert client.finish(job_id)["status"] == "CANCELLED", json.dumps(client.events(job_id))
    assert floating(stack) == []


@pytest.mark.fault("floating-answer-lost")
def test_the_answer_to_a_request_for_one_is_lost(stack: Stack[Any], client: Client) -> None:
    stack.cloud.fault("http", service="network", method="POST", path="floatingips", status=503, when="after", count=1)
    job_id = client.submit(document(workers=2), {"train.py": "print('done')"})
    client.succeed(job_id)
    stack.cloud.heal()
    assert floating(stack) == []
