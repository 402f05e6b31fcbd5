"""Names to ids: the newest image of a framework, accelerators of a flavor, and messages that name the nearest."""

from __future__ import annotations

from typing import Any

import pytest

from cml_nova import exception
from cml_nova.compute.catalog import Catalog, accelerator
from tests.unit.compute.conftest import FakeConnection

UUID = "0d0c0b0a-0000-4000-8000-000000000001"


def image(name: str, version: str | None = None, **changes: Any) -> dict[str, Any]:
    labels = {"cml_framework": "tensorflow", "cml_framework_version": version} if version else {}
    return {"id": f"id-{name}", "name": name, "status": "active", "min_ram": 512, "min_disk": 1, **labels, **changes}


def flavor(id_: str, name: str, **extra_specs: str) -> dict[str, Any]:
    return {"id": id_, "name": name, "vcpus": 4, "ram": 8192, "disk": 20, "extra_specs": extra_specs}


@pytest.fixture
def catalog(cloud: FakeConnection) -> Catalog:
    return Catalog(cloud)  # type: ignore[arg-type]


def test_the_newest_image_by_number(catalog: Catalog, cloud: FakeConnection) -> None:
    cloud.image.answers = [(200, {"images": [image("a", "2.9.1"), image("b", "2.21.0"), image("c", "2.21.0rc1"), image("d", "2.3")]})]
    assert catalog.find_image("tensorflow").name == "b"
    assert cloud.image.calls[0]["params"] == {"cml_framework": "tensorflow", "status": "active"}
    assert len(cloud.image.calls) == 1


def test_an_image_of_a_version(catalog: Catalog, cloud: FakeConnection) -> None:
    cloud.image.answers = [(200, {"images": [image("a", "2.9.1"), image("b", "2.21.0")]})] * 2
    assert catalog.find_image("tensorflow", "2.9.1").name == "a"
    with pytest.raises(exception.NotFound, match=r"2\.9\.1, 2\.21\.0"):
        catalog.find_image("tensorflow", "9")


def test_no_image_of_a_framework(catalog: Catalog, cloud: FakeConnection) -> None:
    cloud.image.answers = [(200, {"images": []})]
    with pytest.raises(exception.NotFound, match="cml_framework=pytorch"):
        catalog.find_image("pytorch")


def test_images_are_those_with_a_framework_over_all_pages(catalog: Catalog, cloud: FakeConnection) -> None:
    cloud.image.answers = [(200, {"images": [image("a", "1"), image("plain")], "next": "/v2/images?marker=id-plain"}),
                           (200, {"images": [image("b", "2")]})]
    assert [found.name for found in catalog.images()] == ["a", "b"]
    assert cloud.image.calls[1]["params"]["marker"] == "id-plain"


def test_an_image_by_name_may_have_no_framework(catalog: Catalog, cloud: FakeConnection) -> None:
    cloud.image.answers = [(200, {"images": [image("plain", cml_ssh_port="2200", cml_ssh_user="me")]})]
    found = catalog.get_image("plain")
    assert (found.framework, found.ssh_port, found.ssh_user, found.min_ram) == (None, 2200, "me", 512)


@pytest.mark.parametrize("port", ["0", "70000", "ssh", "-1", ""])
def test_a_senseless_port_of_an_image_is_none(catalog: Catalog, cloud: FakeConnection, port: str) -> None:
    cloud.image.answers = [(200, {"images": [image("plain", cml_ssh_port=port)]})]
    assert catalog.get_image("plain").ssh_port is None


def test_an_image_by_id_is_one_request(catalog: Catalog, cloud: FakeConnection) -> None:
    cloud.image.answers = [(200, image("x", id=UUID))]
    assert catalog.get_image(UUID).id == UUID
    assert [call["path"] for call in cloud.image.calls] == [f"/images/{UUID}"]


def test_an_image_that_is_not_active_by_id(catalog: Catalog, cloud: FakeConnection) -> None:
    cloud.image.answers = [(200, image("x", id=UUID, status="queued"))]
    with pytest.raises(exception.NotFound, match="queued"):
        catalog.get_image(UUID)


def test_names_that_are_not_unique_and_names_that_are_not_there(catalog: Catalog, cloud: FakeConnection) -> None:
    cloud.image.answers = [(200, {"images": [image("a"), image("a", id="other")]}),
                           (200, {"images": []}), (200, {"images": [image("tensorflow", "2"), image("mxnet", "1")]})]
    with pytest.raises(exception.Conflict, match="2 images"):
        catalog.get_image("a")
    with pytest.raises(exception.NotFound, match=r"'tensorflw'.*did you mean 'tensorflow'\?"):
        catalog.get_image("tensorflw")


def test_a_flavor_by_name_or_id_is_one_request(catalog: Catalog, cloud: FakeConnection) -> None:
    cloud.compute.handler = lambda call: (200, {"flavors": [flavor("1", "cpu.small"), flavor("2", "gpu.small", **{"resources:VGPU": "1"})]})
    assert catalog.get_flavor("2").name == "gpu.small"
    assert catalog.get_flavor("gpu.small").accelerator_count == 1
    assert [call["path"] for call in cloud.compute.calls] == ["/flavors/detail"] * 2
    with pytest.raises(exception.NotFound, match=r"gpu\.small"):
        catalog.get_flavor("gpu.smal")


def test_an_id_goes_before_a_name(catalog: Catalog, cloud: FakeConnection) -> None:
    cloud.compute.handler = lambda call: (200, {"flavors": [flavor("a", "b"), flavor("b", "a")]})
    assert catalog.get_flavor("a").id == "a"


def test_a_network(catalog: Catalog, cloud: FakeConnection) -> None:
    cloud.network.answers = [(200, {"networks": [{"id": UUID, "name": "n"}]}), (200, {"networks": []}),
                             (200, {"networks": [{"name": "net"}]})]
    assert catalog.get_network("n") == UUID
    with pytest.raises(exception.NotFound, match="did you mean 'net'"):
        catalog.get_network("nat")


@pytest.mark.parametrize(("specs", "kind", "count"), [
    ({}, None, 0),
    ({"hw:cpu_policy": "dedicated"}, None, 0),
    ({"resources:VGPU": "1"}, "VGPU", 1),
    ({"resources:PGPU": "2", "trait:CUSTOM_NVIDIA_A100": "required"}, "NVIDIA_A100", 2),
    ({"resources:VGPU": "1", "trait:CUSTOM_NVIDIA_A100": "forbidden"}, "VGPU", 1),
    ({"resources:CUSTOM_GPU": "1", "trait:CUSTOM_FAST_DISK": "required", "trait:CUSTOM_GPU_T4": "required"}, "GPU_T4", 1),
    ({"resources:CUSTOM_GPU": "2"}, "GPU", 2),
    ({"resources:CUSTOM_GPU_A100": "4"}, "GPU_A100", 4),
    ({"resources1:CUSTOM_GPU_A100": "1", "resources2:CUSTOM_GPU_A100": "1"}, "GPU_A100", 2),
    ({"resources:CUSTOM_FPGA": "1"}, None, 0),
    ({"resources:VGPU": "0"}, None, 0),
    ({"resources:VGPU": "many"}, None, 0),
    ({"pci_passthrough:alias": "a100:2"}, "a100", 2),
    ({"pci_passthrough:alias": "a100"}, "a100", 1),
    ({"accel:device_profile": "gpu-a100"}, "gpu-a100", 1),
])
def test_accelerators(specs: dict[str, str], kind: str | None, count: int) -> None:
    assert accelerator(specs) == (kind, count)
