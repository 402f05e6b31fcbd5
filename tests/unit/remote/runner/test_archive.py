"""Directories on their way, both ways."""

from __future__ import annotations

import hashlib
import io
import json
import os
import struct
import tarfile
from pathlib import Path

import pytest

from cml_nova.remote import archive
from cml_nova.remote.runner.archive import check_number_of_files, pack, pack_file, tar_header, unpack
from cml_nova.remote.runner.errors import Refused
from cml_nova.remote.runner.files import write_all

Member = tuple[dict[str, object], bytes]


def packed(root: Path, name: str) -> tarfile.TarFile:
    with open(root / "tar", "wb") as file:
        pack(str(root), name, 1000, file.fileno())
    return tarfile.open(fileobj=io.BytesIO((root / "tar").read_bytes()))


def test_packing_takes_files_and_what_links_inside_mean(tmp_path: Path) -> None:
    top = tmp_path / "output"
    (top / "deep").mkdir(parents=True)
    (top / "deep" / ("n" * 150)).write_bytes(b"1" * 1000)
    (top / "empty").touch()
    (top / "inner").symlink_to("empty")
    (top / "outer").symlink_to("/etc/passwd")
    os.mkfifo(top / "fifo")
    with packed(tmp_path, "output") as tar:
        assert {member.name: member.size for member in tar} == {"empty": 0, "inner": 0, "deep/" + "n" * 150: 1000}
    with packed(tmp_path, "missing") as tar:
        assert tar.getnames() == []


def test_a_file_that_shrinks_while_it_is_packed_keeps_the_archive_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"123")
    with open(path, "rb") as source, open(tmp_path / "tar", "wb") as sink:
        status = os.stat_result([0o100644, 0, 0, 1, 0, 0, 2000, 0, 0, 0])
        pack_file(sink.fileno(), source.fileno(), status, "file")
        write_all(sink.fileno(), bytes(1024))
    with tarfile.open(tmp_path / "tar") as tar:
        assert tar.extractfile("file").read() == b"123" + bytes(1997)


def test_too_many_files_are_refused_before_the_first_one_goes(tmp_path: Path) -> None:
    (tmp_path / "output" / "deep").mkdir(parents=True)
    for name in ("a", "deep/b", "deep/c"):
        (tmp_path / "output" / name).touch()
    check_number_of_files(str(tmp_path / "output"), 3)
    read, write = os.pipe()
    with pytest.raises(Refused, match="more than 2 files"):
        pack(str(tmp_path), "output", 2, write)
    os.close(write)
    assert os.read(read, 1) == b""
    os.close(read)


@pytest.mark.parametrize("name", ["a", "deep/" + "n" * 93, "deep/" + "n" * 95, "\u00e9" * 60, "line\nbreak"])
def test_headers_are_those_of_tarfile(name: str) -> None:
    header = tar_header(name, 1000, 1700000000, 0o640)
    with tarfile.open(fileobj=io.BytesIO(header + bytes(2048)), encoding="utf-8") as tar:
        info = tar.next()
    assert (info.name, info.size, info.mtime, info.mode, info.isreg()) == (name, 1000, 1700000000, 0o640, True)


def upload(root: Path, *members: Member, end: bool = True) -> None:
    with open(root / "in", "wb") as file:
        for fields, content in members:
            header = json.dumps({**fields, "size": len(content)}).encode()
            file.write(struct.pack(">I", len(header)) + header + content)
        file.write(bytes(4 if end else 0))
    with open(root / "in", "rb") as file:
        unpack(str(root), 0, "source", None, None, file.fileno())


def member(name: str, kind: str = "file", target: str = "", content: bytes = b"") -> Member:
    return {"type": kind, "name": name, "target": target, "mode": 0o4755, "mtime_ns": 1_500_000_000}, content


def test_unpacking_replaces_the_directory(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source/old").touch()
    upload(tmp_path, member("./a/b.py", content=b"1"), member("link", "link", "a/b.py"), member("dir", "directory"))
    assert sorted(path.name for path in (tmp_path / "source").iterdir()) == ["a", "dir", "link"]
    assert (tmp_path / "source/link").read_bytes() == b"1"
    assert (tmp_path / "source/a/b.py").stat().st_mode & 0o7777 == 0o755


@pytest.mark.parametrize("members", [
    [member("../x")], [member("/x")], [member("a/../../x")], [member("l", "link", "/etc")], [member("l", "link", "../..")],
    [member("d", "link", "."), member("d/l", "link", "../.."), member("d/l/x")], [member("h", "hard link", "x")],
])
def test_an_archive_that_leads_elsewhere_changes_nothing(tmp_path: Path, members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    root = tmp_path / "root"
    (root / "source").mkdir(parents=True)
    (root / "source/kept").touch()
    with pytest.raises(Refused):
        upload(root, *members)
    assert sorted(path.name for path in root.iterdir()) == ["in", "source"]
    assert [path.name for path in (root / "source").iterdir()] == ["kept"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["root"]


def test_files_that_break_off_change_nothing(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    with pytest.raises(Refused, match="break off"):
        upload(tmp_path, member("a", content=b"1"), end=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "source"]
    assert not list((tmp_path / "source").iterdir())


def test_a_package_arrives_as_it_was(tmp_path: Path) -> None:
    content = os.urandom(100_000)
    with tarfile.open(tmp_path / "package", "w:gz") as tar:
        for name, kind, data in (("./a/b.py", tarfile.REGTYPE, content), ("d", tarfile.DIRTYPE, b""), ("l", tarfile.SYMTYPE, b"")):
            info = tarfile.TarInfo(name)
            info.type, info.size, info.linkname, info.mode = kind, len(data), "a/b.py" if kind == tarfile.SYMTYPE else "", 0o750
            tar.addfile(info, io.BytesIO(data))
    package = (tmp_path / "package").read_bytes()
    (tmp_path / "in").write_bytes(b"".join(archive.gathered(archive.members([package], hashlib.sha256(package).hexdigest()), 1000)))
    with open(tmp_path / "in", "rb") as file:
        unpack(str(tmp_path), 0, "source", None, None, file.fileno())
    assert (tmp_path / "source/l").read_bytes() == content
    assert (tmp_path / "source/d").is_dir()
    assert (tmp_path / "source/a/b.py").stat().st_mode & 0o7777 == 0o750
