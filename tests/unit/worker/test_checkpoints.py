"""Which files belong to a checkpoint, and what stays of it in the storage."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from oslo_config import cfg

from cml_nova import conf as cml_conf
from cml_nova.remote import HeldFile, Snapshot
from cml_nova.storage.base import checkpoint_prefix
from cml_nova.storage.file import FileStorage
from cml_nova.worker.checkpoints import Change, Checkpoint, File, Store, compare


def holds(*paths: str, **versions: int) -> Snapshot:
    """A node's directory: files of version 1, or of the version given."""
    files = {path: 1 for path in paths} | versions
    return Snapshot("s", [HeldFile(path, 10, version) for path, version in sorted(files.items())])


def base(**versions: int) -> Checkpoint:
    """What the nodes were given before an attempt."""
    return Checkpoint("", 2, 0.0, base={path: File(10, version, f"old/{path}") for path, version in versions.items()})


def save(change: Change | None, ident: str = "1/x") -> Checkpoint:
    """Do as if all files of a change had been stored."""
    assert change
    written = {rank: {path: replace(file, key=file.key or f"{ident}/{rank}-{path}") for path, file in files.items()}
               for rank, files in change.result.written.items()}
    return replace(change.result, id=ident, written=written)


def contents(checkpoint: Checkpoint) -> dict[str, str]:
    return {path: file.key for path, file in checkpoint.files.items()}


EMPTY = Checkpoint("", 1, 0.0)


def test_nothing_is_nothing_to_save() -> None:
    assert compare(EMPTY, {0: holds(), 1: holds()}) is None
    assert compare(base(a=1), {0: holds("a"), 1: holds("a")}) is None
    assert compare(EMPTY, {}) is None


def test_what_is_new_is_wanted_and_what_is_saved_is_not() -> None:
    first = compare(EMPTY, {0: holds("a", "b")})
    assert first
    assert first.wanted == {0: [0, 1]}
    second = compare(save(first), {0: holds("a", "c", b=2)})
    assert second
    assert second.wanted == {0: [1, 2]}
    assert contents(save(second, "1/y")) == {"a": "1/x/0-a", "b": "1/y/0-b", "c": "1/y/0-c"}
    assert compare(save(second, "1/y"), {0: holds("a", "c", b=2)}) is None


def test_file_that_its_writer_deleted_is_gone() -> None:
    first = save(compare(EMPTY, {0: holds("a", "b")}))
    assert contents(save(compare(first, {0: holds("b")}), "1/y")) == {"b": "1/x/0-b"}


def test_copies_on_other_nodes_neither_count_nor_keep_a_file() -> None:
    """All nodes were given a and b; one goes on with them, the others just have them."""
    change = compare(base(a=1, b=1), {0: holds("a", "b"), 1: holds("b", "c"), 2: holds("a", "b")})
    assert change
    assert change.wanted == {1: [1]}
    assert contents(save(change)) == {"b": "old/b", "c": "1/x/1-c"}


def test_file_that_was_given_and_is_changed_belongs_to_who_changed_it() -> None:
    change = compare(base(a=1), {0: holds("a"), 1: holds(a=2)})
    assert contents(save(change)) == {"a": "1/x/1-a"}


def test_deleted_by_one_and_written_by_another_is_written() -> None:
    assert contents(save(compare(base(a=1), {0: holds(), 1: holds(a=2)}))) == {"a": "1/x/1-a"}


def test_of_several_writers_the_lowest_rank_counts_and_only_its_file_is_wanted() -> None:
    change = compare(EMPTY, {2: holds("a", "c"), 0: holds(a=7), 1: holds("a", "b")})
    assert change
    assert change.wanted == {0: [0], 1: [1], 2: [1]}
    first = save(change)
    assert contents(first) == {"a": "1/x/0-a", "b": "1/x/1-b", "c": "1/x/2-c"}
    then = compare(first, {0: holds(), 1: holds("a", "b"), 2: holds("a", "c")})
    assert then
    assert then.wanted == {1: [0]}, "the next one's counts when the first one's is deleted"


def test_node_that_can_not_be_asked_keeps_what_is_saved_of_it() -> None:
    first = save(compare(base(a=1), {0: holds("x"), 1: holds("a", "b")}))
    assert contents(first) == {"x": "1/x/0-x", "b": "1/x/1-b"}
    assert compare(first, {1: holds("a", "b")}) is None
    assert compare(first, {1: holds("a", "b", "x")}) is None, "not even a file of the same path takes its place"


def test_no_path_is_file_and_directory() -> None:
    change = compare(EMPTY, {0: holds("a", "b/c"), 1: holds("a/x", "b", "b/d")})
    assert change
    assert set(save(change).files) == {"a", "b/c", "b/d"}


def test_the_next_attempt_is_given_the_whole_set() -> None:
    saved = save(compare(EMPTY, {0: holds("a"), 1: holds("b")}))
    assert saved.for_attempt(1) is saved
    given = saved.for_attempt(2)
    assert (given.attempt, given.base, given.written) == (2, saved.files, {})
    assert compare(given, {0: holds("a", "b"), 1: holds("a", "b")}) is None


def test_copy_of_a_node() -> None:
    saved = save(compare(base(a=1, b=1), {0: holds("b", "x"), 1: holds("a", "b", "y")}))
    assert set(saved.of_node(0)) == {"b", "x"}
    assert set(saved.of_node(1)) == {"a", "b", "y"}
    assert set(saved.of_node(2)) == {"a", "b"}


@pytest.fixture
def storage(tmp_path: Path) -> FileStorage:
    conf = cfg.ConfigOpts()
    cml_conf.register_opts(conf)
    conf.set_override("path", str(tmp_path), group="storage")
    return FileStorage(conf)


def keys(storage: FileStorage) -> set[str]:
    prefix = checkpoint_prefix("j") + "/"
    return {entry.key.removeprefix(prefix) for entry in storage.list(checkpoint_prefix("j"))}


def test_manifest_is_read_as_it_was_written(storage: FileStorage) -> None:
    saved = save(compare(base(a=1, b=1), {0: holds("b", "x"), 1: holds("a", "b", y=-5)}), "3/u")
    store = Store(storage, "j", 3)
    store.save(saved)
    assert store.load("3/u") == saved
    with pytest.raises(FileNotFoundError):
        store.load("3/v")


def test_prune_leaves_the_checkpoint_and_what_later_workers_write(storage: FileStorage) -> None:
    for key in ("1/a/0-0", "1/a/manifest", "2/b/0-0", "2/b/0-1", "2/b/manifest", "3/c/0-0"):
        Store(storage, "j", 0).put(key, iter([b"x"]))
    current = Checkpoint("2/b", 2, 0.0, base={"old": File(1, 1, "1/a/0-0")}, written={0: {"new": File(1, 1, "2/b/0-1")}})
    Store(storage, "j", 2).prune(current, lambda: True)
    assert len(keys(storage)) == 6, "one that is told to stop deletes nothing more"
    Store(storage, "j", 2).prune(current, lambda: False)
    assert keys(storage) == {"1/a/0-0", "2/b/0-1", "2/b/manifest", "3/c/0-0"}


def test_every_save_has_a_place_of_its_own(storage: FileStorage) -> None:
    store = Store(storage, "j", 7)
    assert store.new_id() != store.new_id()
    assert store.new_id().startswith("7/")
