"""When the tools' virtual environment is made or changed; pip itself is not run here."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

LIB = Path(__file__).resolve().parents[3] / "tools" / "lib"


class Pip:
    """Stands in for the commands that would make an environment, and counts them."""

    def __init__(self) -> None:
        self.made: list[str] = []
        self.installed: list[str] = []

    def __call__(self, command: list[str], log_path: Path, failure: str) -> None:
        if command[1:3] == ["-m", "venv"]:
            self.made.append(command[3])
            bin_dir = Path(command[3], "bin")
            bin_dir.mkdir(parents=True)
            (bin_dir / "python").symlink_to(sys.executable)
        else:
            self.installed.append(command[-1].rpartition("[")[2].rstrip("]"))


@pytest.fixture
def bootstrap(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(sys, "path", [str(LIB), *sys.path])
    import bootstrap
    return bootstrap


@pytest.fixture
def pip(bootstrap: Any, monkeypatch: pytest.MonkeyPatch) -> Pip:
    pip = Pip()
    monkeypatch.setattr(bootstrap, "_run", pip)
    return pip


def test_tools_that_ask_for_less_or_more_do_not_install_in_turns(bootstrap: Any, pip: Pip, tmp_path: Path) -> None:
    for extras in (["cli"], ["cli", "test"], ["cli"], ["cli", "test"], ["test"]):
        bootstrap.prepare(extras, tmp_path)
    assert pip.made == [str(tmp_path / "venv")]
    assert pip.installed == ["cli,server", "cli,server,test"]


def test_new_requirements_are_installed_for_all_tools_at_once(
        bootstrap: Any, pip: Pip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bootstrap.prepare(["cli", "test"], tmp_path)
    monkeypatch.setattr(bootstrap, "_digest", lambda path: "another")
    bootstrap.prepare(["cli"], tmp_path)
    bootstrap.prepare(["cli", "test"], tmp_path)
    assert pip.installed == ["cli,server,test", "cli,server,test"]


def test_an_environment_that_was_never_finished_is_made_anew(bootstrap: Any, pip: Pip, tmp_path: Path) -> None:
    bootstrap.prepare(["cli"], tmp_path)
    (tmp_path / "venv" / "cml_nova.json").unlink()
    bootstrap.prepare(["cli"], tmp_path)
    assert len(pip.made) == len(pip.installed) == 2


def test_a_link_to_another_state_directorys_environment_will_do(bootstrap: Any, pip: Pip, tmp_path: Path) -> None:
    first = bootstrap.prepare(["cli", "test"], tmp_path / "first")
    (tmp_path / "second").mkdir()
    (tmp_path / "second" / "venv").symlink_to(tmp_path / "first" / "venv")
    second = bootstrap.prepare(["cli"], tmp_path / "second")
    assert second.path == first.path
    assert len(pip.installed) == 1


def test_without_a_python_that_fits_the_way_out_is_named(bootstrap: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    old = tmp_path / "python"
    old.write_text("#!/bin/sh\necho 3.9\n")
    old.chmod(0o755)
    monkeypatch.setenv("CML_PYTHON", str(old))
    with pytest.raises(bootstrap.BootstrapError, match=r"3\.11 to 3\.13.*CML_PYTHON"):
        bootstrap.prepare(["cli"], tmp_path / "state")
    assert not (tmp_path / "state" / "venv").exists()
