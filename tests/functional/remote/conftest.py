"""One local cloud for all tests of the SSH side; a machine of its own for each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cml_nova.remote.login import Access
from cml_nova.remote.machine import Machine
from tests.functional.remote.nodes import Server


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("nodes"))
    yield server
    server.hypervisor.stop()


@pytest.fixture
def access(server: Server) -> Access:
    return server.listen(f"127.71.0.{next(server.numbers)}")


@pytest.fixture
def machine(access: Access) -> Iterator[Machine]:
    machine = Machine(access)
    machine.connect(10)
    yield machine
    if not machine.connected:
        machine.connect(10)
    for attempt in {state.attempt for state in machine.processes()}:
        machine.stop(attempt, 0)
    machine.close()
