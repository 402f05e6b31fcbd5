"""The file driver: whole objects, growing logs, lists, deletes; and nothing outside of its directory."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from oslo_config import cfg

from cml_nova.storage import get_storage
from cml_nova.storage.base import Entry
from cml_nova.storage.file import FileStorage
from tests.unit.api.conftest import make_conf


@pytest.fixture
def conf(tmp_path: Path) -> cfg.ConfigOpts:
    return make_conf(tmp_path)


@pytest.fixture
def storage(conf: cfg.ConfigOpts) -> FileStorage:
    return FileStorage(conf)


def files(conf: cfg.ConfigOpts) -> list[str]:
    root = Path(conf.storage.path)
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def test_it_is_the_default_driver(conf: cfg.ConfigOpts) -> None:
    assert isinstance(get_storage(conf), FileStorage)


def test_put_then_open(storage: FileStorage) -> None:
    assert storage.put("a/b", [b"one", b"two"]) == 6
    with storage.open("a/b") as file:
        assert file.read() == b"onetwo"
    assert storage.size("a/b") == 6
    assert storage.put("a/b", [b"new"]) == 3
    assert storage.read("a/b", 0, 100) == b"new"


def test_a_put_that_fails_leaves_what_was_there(storage: FileStorage, conf: cfg.ConfigOpts) -> None:
    storage.put("a", [b"old"])

    def pieces() -> Iterator[bytes]:
        yield b"half"
        raise RuntimeError("the sender went away")

    with pytest.raises(RuntimeError):
        storage.put("a", pieces())
    assert storage.read("a", 0, 10) == b"old"
    assert files(conf) == ["objects/a"]


def test_readers_see_an_object_only_when_it_is_complete(storage: FileStorage) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"half"
        assert storage.size("a") is None
        assert list(storage.list("a")) == []
        yield b"whole"

    storage.put("a", pieces())
    assert storage.size("a") == 9


def test_what_is_not_there(storage: FileStorage) -> None:
    storage.put("directory/object", [b""])
    for key in ("nope", "directory", "directory/object/below"):
        assert storage.size(key) is None
        assert storage.read(key, 0, 10) == b""
        with pytest.raises(FileNotFoundError):
            storage.open(key)
        if key == "nope":
            assert list(storage.list(key)) == []
    storage.delete("nope/deep/down")


def test_a_log_grows_and_may_be_told_twice(storage: FileStorage) -> None:
    storage.write_at("log", 0, b"hello ")
    storage.write_at("log", 6, b"world")
    storage.write_at("log", 0, b"hello ")
    storage.write_at("log", 3, b"lo world")
    assert storage.read("log", 0, 100) == b"hello world"
    assert storage.read("log", 6, 3) == b"wor"
    assert storage.read("log", 11, 3) == b""
    with pytest.raises(ValueError, match="gap"):
        storage.write_at("log", 12, b"!")
    assert storage.size("log") == 11


def test_list(storage: FileStorage) -> None:
    for key in ("j/b", "j/a/2", "j/a/1", "jj/x"):
        storage.put(key, [b"12345"])
    assert [entry.key for entry in storage.list("j")] == ["j/a/1", "j/a/2", "j/b"]
    entry = next(storage.list("j"))
    assert isinstance(entry, Entry)
    assert (entry.size, entry.modified_at > 1e9) == (5, True)


def test_delete_takes_all_below_and_nothing_beside(storage: FileStorage, conf: cfg.ConfigOpts) -> None:
    for key in ("jobs/1/logs/a", "jobs/1/b", "jobs/11/c"):
        storage.put(key, [b""])
    storage.delete("jobs/1")
    storage.delete("jobs/1")
    assert files(conf) == ["objects/jobs/11/c"]
    storage.delete("jobs/11/c")
    assert os.listdir(Path(conf.storage.path) / "objects") == []
    storage.put("jobs/1/b", [b"again"])
    assert storage.size("jobs/1/b") == 5


@pytest.mark.parametrize("key", ["", "/", "/etc/passwd", "a//b", "a/", "../a", "a/../../b", "a/./b", ".", "a\0b"])
def test_keys_stay_in_the_directory(storage: FileStorage, key: str) -> None:
    for action in (storage.open, storage.size, storage.delete, lambda k: storage.put(k, [b""]), lambda k: storage.read(k, 0, 1),
                   lambda k: storage.write_at(k, 0, b""), lambda k: list(storage.list(k))):
        with pytest.raises(ValueError, match="not a storage key"):
            action(key)


def test_others_on_the_host_can_not_read(storage: FileStorage, conf: cfg.ConfigOpts) -> None:
    storage.put("a/b", [b""])
    storage.write_at("a/log", 0, b"x")
    for path in Path(conf.storage.path).rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0
