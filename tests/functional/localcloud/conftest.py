"""One local cloud for the tests of guests; a machine of its own for each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cml_nova.localcloud.hypervisor import Hypervisor
from cml_nova.localcloud.images import ImageStore
from tests.functional.localcloud.guests import PORT, Machine, booted


@pytest.fixture(scope="package")
def store(tmp_path_factory: pytest.TempPathFactory) -> ImageStore:
    return ImageStore(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="package")
def powered_off() -> list[str]:
    """The servers that said that they shut down."""
    return []


@pytest.fixture(scope="package")
def cloud(tmp_path_factory: pytest.TempPathFactory, store: ImageStore, powered_off: list[str]) -> Iterator[Hypervisor]:
    hypervisor = Hypervisor(tmp_path_factory.mktemp("state"), store, PORT, on_power_off=powered_off.append)
    hypervisor.start()
    yield hypervisor
    hypervisor.stop()


@pytest.fixture
def machine(cloud: Hypervisor) -> Iterator[Machine]:
    with booted(cloud) as machine:
        yield machine
