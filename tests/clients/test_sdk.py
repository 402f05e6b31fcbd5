"""The client library with the oldest and the newest openstacksdk."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.clients.conftest import REPOSITORY, Laptop
from tests.harness.cloud import LocalCloud
from tests.harness.process import free_port

SCRIPTS = Path(__file__).parent
EXAMPLE = """
import os, pathlib
print('CML_METRIC {"name": "loss", "value": 0.5}')
pathlib.Path(os.environ["CML_OUTPUT_DIR"], "model").write_text("weights")
"""


def test_a_day(laptop: Laptop, cloud: LocalCloud) -> None:
    assert laptop.run(SCRIPTS / "sdk_day.py", cloud.url) == "OK\n"


def test_vendor_hook(laptop: Laptop, tmp_path: Path) -> None:
    clouds = yaml.safe_load(laptop.clouds_yaml.read_text())
    clouds["clouds"]["local"]["vendor_hook"] = "cml_nova.clients.sdk:register"
    hooked = Laptop(laptop.python, tmp_path / "clouds.yaml")
    hooked.clouds_yaml.write_text(yaml.safe_dump(clouds))
    script = tmp_path / "script.py"
    script.write_text("import openstack\nfor each in (1, 2):\n    print(len(list(openstack.connect().machine_learning.frameworks())))")
    assert hooked.run(script) == "3\n3\n"


def test_the_examples_of_the_documentation(laptop: Laptop, tmp_path: Path) -> None:
    """All code of the page, one after the other, as it stands there."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "train.py").write_text(EXAMPLE)
    script = tmp_path / "example.py"
    script.write_text("\n".join(re.findall(r"```python\n(.*?)```", (REPOSITORY / "doc" / "sdk.md").read_text(), re.DOTALL)))
    printed = laptop.run(script, directory=tmp_path)
    assert "SUCCEEDED 100" in printed
    assert "worker:1 [0.5]" in printed
    assert (tmp_path / "results" / "output" / "worker-1" / "model").read_text() == "weights"


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[LocalCloud]:
    """A cloud without the service."""
    cloud = LocalCloud(tmp_path / "cloud")
    cloud.start()
    yield cloud
    cloud.stop()


def test_cloud_without_the_service(python: str, elsewhere: LocalCloud) -> None:
    told = Laptop(python, elsewhere.directory / "clouds.yaml").run(SCRIPTS / "sdk_missing.py")
    assert told == (
        "ServiceNotFound: This cloud's catalog has no public endpoint of a service of the type 'machine-learning' in the region local. "
        "`openstack catalog list` shows what it has; where the service is there under another type or only by its URL, say so in "
        "clouds.yaml: machine_learning_service_type or machine_learning_endpoint_override.\n")


def test_service_that_does_not_answer(python: str, tmp_path: Path) -> None:
    """It is in the catalog, but nobody listens: that is said, and not that there is no such service."""
    cloud = LocalCloud(tmp_path / "cloud", ml_endpoint=f"http://127.0.0.1:{free_port()}")
    cloud.start()
    try:
        told = Laptop(python, cloud.directory / "clouds.yaml").run(SCRIPTS / "sdk_missing.py")
    finally:
        cloud.stop()
    assert "Unable to establish connection" in told
