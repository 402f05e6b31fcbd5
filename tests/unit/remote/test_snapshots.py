"""What nodes say of their files: read with care."""

from __future__ import annotations

import io
import json
import os
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cml_nova import exception
from cml_nova.remote import HeldFile, Snapshot, archive, snapshots
from cml_nova.remote.runner import snapshots as node
from cml_nova.remote.runner.archive import unpack
from cml_nova.remote.runner.errors import Refused


def lines(*items: Any) -> bytes:
    return b"".join(json.dumps(item).encode() + b"\n" for item in items)


def test_list_is_read_however_it_is_cut() -> None:
    data = lines({"snapshot": "ab"}, ["a", 1, 2], ["b/ü", 3, -4])
    for size in (1, 7, len(data)):
        found = snapshots.parse([data[i:i + size] for i in range(0, len(data), size)], 2)
        assert found == Snapshot("ab", [HeldFile("a", 1, 2), HeldFile("b/ü", 3, -4)])


def test_one_more_file_than_is_wanted_is_listed_and_two_are_a_breach() -> None:
    files = [[str(number), 1, 1] for number in range(4)]
    assert len(snapshots.parse([lines({"snapshot": ""}, *files[:3])], 2).files) == 3
    with pytest.raises(exception.NodeCommandFailed, match="longer list"):
        snapshots.parse([lines({"snapshot": ""}, *files)], 2)


def test_line_without_end_is_cut_off_soon() -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(3):
            yield b"x" * 8192
        raise AssertionError("it went on reading")

    with pytest.raises(exception.NodeCommandFailed, match="longer list"):
        snapshots.parse(endless(), 1000)


@pytest.mark.parametrize("data", [
    b"", b"\n", b"[" * 10000 + b"\n", lines([]), lines({"snapshot": 5}), lines({"snapshot": "x" * 65}), lines({"snapshot": ""})[:-1],
    *(lines({"snapshot": ""}, item) for item in (
        {}, ["a", 1], ["a", 1, 2, 3], ["a", "1", 2], ["a", True, 2], [1, 1, 1], ["a", -1, 2], ["a", 1 << 60, 2], ["a", 1, 1 << 63],
        ["a", 1, 2.5], ["", 1, 1], ["..", 1, 1], ["a/../b", 1, 1], ["/a", 1, 1], ["a\n", 1, 1], ["a" * 1025, 1, 1], ["\udcff", 1, 1])),
    lines({"snapshot": ""}, ["a", 1, 1], ["./a", 1, 1]),
])
def test_what_is_no_list_is_refused(data: bytes) -> None:
    with pytest.raises(exception.NodeCommandFailed):
        snapshots.parse([data], 10)


def test_ranges() -> None:
    assert snapshots.ranges([]) == []
    assert snapshots.ranges([0, 1, 2, 5, 7, 8]) == [(0, 2), (5, 5), (7, 8)]


def tar(*files: tuple[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


HELD = Snapshot("s", [HeldFile("a", 1, 1), HeldFile("b", 2, 1), HeldFile("c", 3, 1)])


def test_picked_files_are_given_by_their_numbers() -> None:
    found = snapshots.picked([tar(("0", b"x"), ("2", b"xyz"))], HELD, [0, 2])
    assert [(number, b"".join(content)) for number, content in found] == [(0, b"x"), (2, b"xyz")]


@pytest.mark.parametrize("files", [
    [("0", b"x")], [("0", b"x"), ("1", b"xy")], [("2", b"xyz"), ("0", b"x")], [("0", b"x"), ("2", b"xy")],
    [("0", b"x"), ("2", b"xyz"), ("3", b"")], [("a", b"x"), ("2", b"xyz")],
])
def test_other_files_than_were_asked_for_are_refused(files: list[tuple[str, bytes]]) -> None:
    with pytest.raises(exception.NodeCommandFailed):
        for _, content in snapshots.picked([tar(*files)], HELD, [0, 2]):
            list(content)


# the node's side


@pytest.fixture
def top(tmp_path: Path) -> Path:
    top = tmp_path / "checkpoints"
    (top / "step").mkdir(parents=True)
    (top / "step" / "weights").write_bytes(b"five")
    (top / "last").write_bytes(b"step")
    return top


def taken(tmp_path: Path, most: int = 10, *, hold: bool = True) -> Snapshot:
    read, write = os.pipe()
    try:
        node.snapshot(str(tmp_path), "checkpoints", most, hold, write)
    finally:
        os.close(write)
    with open(read, "rb") as file:
        return snapshots.parse([file.read()], most)


def picked(tmp_path: Path, held: Snapshot, *numbers: int) -> list[bytes]:
    read, write = os.pipe()
    try:
        node.pick(str(tmp_path), held.id, snapshots.ranges(numbers), write)
    finally:
        os.close(write)
        with open(read, "rb") as file:
            data = file.read()
    return [b"".join(content) for _, content in snapshots.picked([data], held, numbers)]


def test_snapshot_holds_what_is_deleted_or_replaced_since(tmp_path: Path, top: Path) -> None:
    held = taken(tmp_path)
    assert held.files == [HeldFile(path, 4, (top / path).stat().st_mtime_ns) for path in ("last", "step/weights")]
    (top / "step" / "weights").unlink()
    (top / "new").write_bytes(b"else")
    (top / "new").rename(top / "last")
    assert picked(tmp_path, held, 0, 1) == [b"step", b"five"]


def test_file_that_is_written_in_place_since_is_refused(tmp_path: Path, top: Path) -> None:
    held = taken(tmp_path)
    (top / "last").write_bytes(b"torn")
    os.utime(top / "last", ns=(1, 1))
    with pytest.raises(Refused, match=r"'last' was written to.*\.tmp"):
        picked(tmp_path, held, 0, 1)
    assert picked(tmp_path, held, 1) == [b"five"]


def test_next_snapshot_and_release_let_go(tmp_path: Path, top: Path) -> None:
    first, second = taken(tmp_path), taken(tmp_path)
    with pytest.raises(Refused, match="newer one"):
        picked(tmp_path, first, 0)
    assert picked(tmp_path, second, 0) == [b"step"]
    node.release(str(tmp_path))
    assert not (tmp_path / "snapshots").exists()


def test_what_is_no_finished_file_is_left_out(tmp_path: Path, top: Path) -> None:
    for name in (".hidden", "x.tmp", "y.tmp/in", ".z/in"):
        (top / name).parent.mkdir(exist_ok=True)
        (top / name).write_bytes(b"")
    os.mkfifo(top / "fifo")
    (top / "out").symlink_to("/etc/hostname")
    (top / "nowhere").symlink_to("missing")
    (top / "latest").symlink_to("step/weights")
    assert [file.path for file in taken(tmp_path).files] == ["last", "latest", "step/weights"]


def test_too_many_files_are_not_held(tmp_path: Path, top: Path) -> None:
    assert len(taken(tmp_path, 1).files) == 2
    assert not (tmp_path / "snapshots").exists()


def test_file_that_is_being_written_is_waited_for(tmp_path: Path, top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, now = [0.0], time.time()
    monkeypatch.setattr(node, "time", type("Clock", (), {
        "time": lambda: now, "monotonic": lambda: clock[0], "sleep": lambda seconds: clock.__setitem__(0, clock[0] + seconds)}))
    with open(top / "last", "ab") as file:
        file.write(b"more")
        file.flush()
        with pytest.raises(Refused, match=r"'last' is being written.*\.tmp"):
            taken(tmp_path)
        os.utime(top / "last", (1, 1))
        assert len(taken(tmp_path).files) == 2, "a file that is open and rests, like a log, is taken as it is"
    (top / "last").write_bytes(b"done")
    assert len(taken(tmp_path).files) == 2


def test_restored_files_are_the_same_to_the_nanosecond_and_come_in_time_only(tmp_path: Path, top: Path) -> None:
    def send(before: int) -> None:
        read, write = os.pipe()
        os.write(write, b"".join(archive.bundle([("a/b", 3, 1_234_567_890_123_456_789, [b"xy", b"z"])])))
        os.close(write)
        try:
            unpack(str(tmp_path), 0, "checkpoints", None, before, read)
        finally:
            os.close(read)

    (tmp_path / "tasks" / "2").mkdir(parents=True)
    with pytest.raises(Refused, match="attempt 2 has begun"):
        send(2)
    assert (top / "last").exists()
    send(3)
    assert taken(tmp_path, hold=False).files == [HeldFile("a/b", 3, 1_234_567_890_123_456_789)]
    assert not (tmp_path / "snapshots").exists(), "a list alone holds nothing"


def test_bundle_refuses_a_content_of_another_size() -> None:
    with pytest.raises(ValueError, match="2 bytes instead of 3"):
        list(archive.bundle([("a", 3, 1, [b"xy"])]))
