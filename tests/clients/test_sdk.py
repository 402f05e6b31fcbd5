"""The client library with the oldest and the newest openstacksdk."""

from __future__ import annotations

import re
from pathlib import Path

from tests.clients.conftest import REPOSITORY, Laptop

SCRIPTS = Path(__file__).parent


def test_a_day(laptop: Laptop) -> None:
    assert laptop.run(SCRIPTS / "sdk_day.py") == "OK\n"


def test_the_examples_of_the_documentation(laptop: Laptop, tmp_path: Path) -> None:
    """All code of the page, one after the other, as it stands there."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "train.py").write_text('print("CML_METRIC", \'{"name": "loss", "value": 0.5}\')')
    script = tmp_path / "example.py"
    script.write_text("\n".join(re.findall(r"```python\n(.*?)```", (REPOSITORY / "doc" / "sdk.md").read_text(), re.DOTALL)))
    printed = laptop.run(script, directory=tmp_path)
    assert "SUCCEEDED 100" in printed
    assert "worker:1 [0.5]" in printed
