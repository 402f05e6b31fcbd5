"""Nodes on a private network of their own, which the workers reach by floating addresses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.base import Options
from tests.harness.client import Client
from tests.harness.process import free_port
from tests.harness.realcloud import RealCloud, register
from tests.harness.service import Standalone
from tests.harness.stack import Stack
from tests.realcloud.conftest import document, need
from tests.realcloud.test_training import SUM

_NETWORK, _RANGE = "cml-nodes-tests", "10.99.77.0/24"


@pytest.fixture
def private(session_stack: Stack[RealCloud], tmp_path: Path) -> Iterator[Options]:
    """A network with a router, made by the operator's tool; the options that it writes."""
    cloud = session_stack.cloud
    [external] = need(cloud.settings, "external_network")
    arguments = ("--create-network", _RANGE, "--network-name", _NETWORK, "--external", external)
    try:
        made = register(cloud.settings, cloud.registered, cloud.account_directory, network=arguments)
        cloud.rebase()
        yield {"cloud": {name: made["cloud"][name] for name in ("network", "floating_network")}}
    finally:
        remove(cloud)
        cloud.rebase()


def remove(cloud: RealCloud) -> None:
    network = cloud.admin.network
    for router in network.routers(project_id=cloud.nodes_project.id):
        for port in network.ports(device_id=router.id, device_owner="network:router_interface"):
            network.remove_interface_from_router(router, port_id=port.id)
        network.delete_router(router)
    for found in network.networks(project_id=cloud.nodes_project.id, name=_NETWORK):
        network.delete_network(found)


@pytest.fixture
def behind_a_router(private: Options, stack: Stack[RealCloud], tmp_path: Path) -> Iterator[Client]:
    """A second deployment, of the same account: all in one process, its nodes on the private network."""
    service = Standalone(tmp_path, stack.cloud, free_port(), private)
    try:
        service.start()
        with Stack.of(stack.cloud, service, service.url).guarded() as second:
            yield second.demo
    finally:
        service.stop()


def test_two_nodes_behind_a_router(behind_a_router: Client, cloud: RealCloud) -> None:
    job_id = behind_a_router.submit(document(cloud.settings, command="python3 train.py"), {"train.py": SUM})
    behind_a_router.succeed(job_id)
    for rank in range(2):
        assert behind_a_router.log(job_id, f"worker:{rank}").splitlines()[-1] == f"rank {rank} of 2 total 1"
    addresses = [node["address"] for node in behind_a_router.nodes(job_id)]
    assert all(address.startswith(_RANGE.removesuffix("0/24")) for address in addresses), "the job's own traffic stays on its network"
    assert cloud.servers(job_id) == []
