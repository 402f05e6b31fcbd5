"""How a user's key gets into a node: the program that runs there, in a home of this test's own."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cml_nova.remote.passage import _AUTHORIZE

OLD = "ssh-rsa AAAAB3 somebody"


@pytest.fixture
def authorize(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., list[str]]]:
    monkeypatch.setenv("HOME", str(tmp_path))
    before = os.umask(0o022)

    def run(key: str, seconds: float = 120) -> list[str]:
        exec(_AUTHORIZE, {"given": {"key": key, "seconds": seconds}})
        return (tmp_path / ".ssh" / "authorized_keys").read_text().splitlines()

    yield run
    os.umask(before)


def test_keys_of_before_stay(authorize: Callable[..., list[str]], tmp_path: Path) -> None:
    file = tmp_path / ".ssh" / "authorized_keys"
    file.parent.mkdir()
    file.write_text(OLD)  # without an end of the line
    file.chmod(0o644)
    [first, second] = authorize("ssh-ed25519 AAAA")
    assert first == OLD
    now = time.strftime("%Y%m%d%H%M%S")
    until = second.removeprefix('expiry-time="').partition('"')[0]
    assert second == f'expiry-time="{until}" ssh-ed25519 AAAA cml-tunnel'
    assert len(until) == 14 and now < until
    assert authorize("ssh-ed25519 BBBB")[:2] == [first, second]
    assert file.stat().st_mode & 0o777 == 0o644
    assert [path.name for path in file.parent.iterdir()] == ["authorized_keys"]


def test_those_of_ours_go_when_they_have_expired(authorize: Callable[..., list[str]], tmp_path: Path) -> None:
    theirs = 'expiry-time="20200101" ssh-ed25519 CCCC theirs'
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "authorized_keys").write_text(theirs + "\n")
    assert len(authorize("ssh-ed25519 AAAA", seconds=-10)) == 2
    lines = authorize("ssh-ed25519 BBBB")
    assert lines[0] == theirs
    assert [line.split()[2] for line in lines[1:]] == ["BBBB"]


def test_where_there_is_no_such_file(authorize: Callable[..., list[str]], tmp_path: Path) -> None:
    assert len(authorize("ssh-ed25519 AAAA")) == 1
    assert (tmp_path / ".ssh").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / ".ssh" / "authorized_keys").stat().st_mode & 0o777 == 0o600


def test_a_link_stays_one(authorize: Callable[..., list[str]], tmp_path: Path) -> None:
    (tmp_path / ".ssh").mkdir()
    (tmp_path / "keys").write_text(OLD + "\n")
    (tmp_path / ".ssh" / "authorized_keys").symlink_to(tmp_path / "keys")
    assert authorize("ssh-ed25519 AAAA")[0] == OLD
    assert (tmp_path / ".ssh" / "authorized_keys").is_symlink()
