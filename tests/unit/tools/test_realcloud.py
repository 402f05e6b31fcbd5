"""Which parts the tests on a real cloud have, and what they are told of it; no cloud and no test is run here."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

LIB = Path(__file__).resolve().parents[3] / "tools" / "lib"
NAMED = {
    "CML_TEST_ADMIN_CLOUD": "root", "CML_TEST_USER_CLOUD": "anna", "CML_TEST_OTHER_CLOUD": "otto", "CML_TEST_IMAGE": "small",
    "CML_TEST_FLAVOR": "tiny", "CML_TEST_NETWORK": "net", "CML_TEST_SCARCE_FLAVOR": "gpu",
}


class Parts:
    """Notes the parts that are begun; the one named fails."""

    def __init__(self, failing: str) -> None:
        self.environs: dict[str, Mapping[str, str]] = {}
        self.failures: dict[str, str] = {}
        self._failing = failing

    def run(self, name: str, part: Any) -> None:
        if part.needs is None or (part.needs in self.environs and part.needs != self._failing):
            self.environs[name] = part.env

    def fail(self, name: str, reason: str) -> None:
        self.failures[name] = reason


@pytest.fixture(autouse=True)
def tools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(LIB), *sys.path])
    for name in (*NAMED, "OS_CLOUD", "REALCLOUD_DIR"):
        monkeypatch.delenv(name, raising=False)


def run(harness: Path | None, failing: str = "") -> Parts:
    """Run what the tests on a real cloud consist of."""
    import parts
    import realcloud

    noted, venv, tests = Parts(failing), SimpleNamespace(command=str), parts.Tests(["pytest"], [])
    with (realcloud.brought_up(noted, venv, tests, harness, Path("state")) if harness else
          nullcontext(realcloud.named(noted, tests))) as queue:
        for name, part in queue.items():
            noted.run(name, part)
    return noted


def harness(directory: Path, status: int) -> Path:
    """Make a harness whose cloud is up (status 0) or not."""
    program = directory / "status"
    program.write_text(f"#!/bin/sh\nexit {status}\n")
    program.chmod(0o755)
    return directory


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in NAMED.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("CML_TEST_USER_CLOUD")
    parts = run(None)
    assert parts.environs == {}
    assert "CML_TEST_USER_CLOUD" in parts.failures["realcloud"]
    assert "CML_TEST_IMAGE" not in parts.failures["realcloud"]


def test_cloud_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in NAMED.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("CML_TEST_ADMIN_CLOUD")
    monkeypatch.setenv("OS_CLOUD", "root")
    parts = run(None)
    assert list(parts.environs) == ["realcloud: contract", "realcloud: tests"]
    assert NAMED.items() <= parts.environs["realcloud: tests"].items()
    contract = parts.environs["realcloud: contract"]
    assert [contract[f"CML_CONTRACT_{name}"] for name in ("CLOUD", "ADMIN_CLOUD", "IMAGE")] == ["anna", "root", "small"]


@pytest.mark.parametrize("status", [0, 3])
def test_cloud_of_a_harness_is_left_as_it_was(tmp_path: Path, status: int) -> None:
    parts = run(harness(tmp_path, status))
    names = list(parts.environs)
    assert names[0] == "realcloud: up"
    assert {"realcloud: framework image", "realcloud: contract", "realcloud: tests"} <= set(names)
    assert ("realcloud: down" in names) == (status != 0)
    env = parts.environs["realcloud: tests"]
    assert env["CML_TEST_INJECT"] == str(tmp_path / "inject")
    assert ("CML_TEST_WHOLE_CLOUD" in env) == (status != 0), "others may use a cloud that was up"


@pytest.mark.parametrize("failing", ["realcloud: up", "realcloud: framework image"])
def test_without_the_cloud_or_the_image_no_tests_are_run(tmp_path: Path, failing: str) -> None:
    parts = run(harness(tmp_path, 3), failing)
    assert "realcloud: tests" not in parts.environs
    assert "realcloud: down" in parts.environs
