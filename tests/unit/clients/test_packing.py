"""Packages made of directories."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from cml_nova.api.archives import check_package
from cml_nova.clients.sdk import packing


def make(root: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def packed(root: Path, max_bytes: int = 1 << 20) -> tuple[bytes, packing.Packed]:
    file = io.BytesIO()
    done = packing.pack(root, file, max_bytes)
    return file.getvalue(), done


def members(data: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return {member.name: member for member in archive}


def test_same_bytes_for_the_same_files_whoever_packs_them_and_when(tmp_path: Path) -> None:
    files = {"train.py": "print()", "b/c.txt": "c", "b.txt": "b", "run.sh": "#!/bin/sh"}
    one, two = make(tmp_path / "code", files), make(tmp_path / "other" / "code", dict(reversed(files.items())))
    for root, mode, when in ((one, 0o700, 10), (two, 0o755, 2_000_000_000)):
        (root / "run.sh").chmod(mode)
        (root / "b.txt").chmod(mode & ~0o111)
        for path in root.rglob("*"):
            os.utime(path, (when, when))
    (first, done), (second, again) = packed(one), packed(two)
    assert first == second
    assert done == again == packing.Packed("code", done.sha256, 4)
    found = members(first)
    assert list(found) == ["b", "b/c.txt", "b.txt", "run.sh", "train.py"]
    assert {name: member.mode for name, member in found.items()} == {
        "b": 0o755, "b/c.txt": 0o644, "b.txt": 0o644, "run.sh": 0o755, "train.py": 0o644}
    assert {(m.uid, m.gid, m.uname, m.gname, m.mtime) for m in found.values()} == {(0, 0, "", "", 946684800)}


def test_the_service_takes_it(tmp_path: Path) -> None:
    root = make(tmp_path, {"train.py": "x" * 100, f"{'long' * 30}/{'name' * 30}.txt": "y", "ümlaut.txt": "z"})
    data, _ = packed(root)
    check_package(io.BytesIO(data), 1 << 20)


def test_what_is_ignored_stays_out(tmp_path: Path) -> None:
    root = make(tmp_path, {
        ".cmlignore": "*.log\n!keep.log\n/data/\n# a comment\nnotes\n", "train.py": "", "a.log": "", "keep.log": "", "sub/data/x": "",
        "data/x": "", "sub/notes/n": "", ".git/config": "", "__pycache__/x.pyc": "", "sub/__pycache__/y": "", "m.pyc": "", "sub/a.log": ""})
    data, done = packed(root)
    assert sorted(name for name, member in members(data).items() if member.isfile()) == [
        ".cmlignore", "keep.log", "sub/data/x", "train.py"]
    assert done.files == 4


def test_what_is_ignored_is_not_even_looked_at(tmp_path: Path) -> None:
    root = make(tmp_path, {".cmlignore": "data/\n", "train.py": ""})
    (root / "data").mkdir()
    (root / "data" / "loop").symlink_to(root / "data")
    assert packed(root)[1].files == 2


def test_links_to_files_become_files(tmp_path: Path) -> None:
    root = make(tmp_path / "code", {"train.py": "print()"})
    make(tmp_path, {"shared.py": "shared"})
    (root / "shared.py").symlink_to(tmp_path / "shared.py")
    data, _ = packed(root)
    assert members(data)["shared.py"].isreg()
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert archive.extractfile("shared.py").read() == b"shared"  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", ["directory", "nothing", "pipe"])
def test_what_is_no_file_is_named_with_the_way_out(tmp_path: Path, kind: str) -> None:
    root = make(tmp_path / "code", {"sub/train.py": ""})
    odd = root / "sub" / "odd"
    if kind == "pipe":
        os.mkfifo(odd)
    else:
        odd.symlink_to(tmp_path if kind == "directory" else tmp_path / "nowhere")
    with pytest.raises(packing.PackingError, match=r"sub/odd is .*leave it out with a line in .cmlignore: /sub/odd$"):
        packed(root)
    make(root, {".cmlignore": "/sub/odd\n"})
    packed(root)


def test_too_much_names_the_biggest_files(tmp_path: Path) -> None:
    root = make(tmp_path, {f"f{i}": "x" * i * 1000 for i in range(1, 9)})
    with pytest.raises(packing.PackingError) as caught:
        packed(root, 30_000)
    text = str(caught.value)
    assert [line.split()[-1] for line in text.splitlines() if line.startswith("  ")] == ["f8", "f7", "f6", "f5", "f4"]
    assert "8 files" in text and ".cmlignore" in text


@pytest.mark.parametrize("files", [{}, {".cmlignore": "*\n", "a": ""}])
def test_nothing_to_pack(tmp_path: Path, files: Mapping[str, str]) -> None:
    with pytest.raises(packing.PackingError, match="no file to pack"):
        packed(make(tmp_path, files))
    with pytest.raises(packing.PackingError, match="no such directory"):
        packed(tmp_path / "nowhere")


def test_what_can_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    make(tmp_path, {"sub/x": ""})
    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(packing.PackingError, match=r"can't be read: Permission denied\.$"):
        packed(tmp_path)


def test_body_can_be_sent_again(tmp_path: Path) -> None:
    path = make(tmp_path, {"x": "abc"}) / "x"
    with path.open("rb") as file:
        body = packing.Body(file)
        assert len(body) == 3
        assert [b"".join(body), b"".join(body)] == [b"abc", b"abc"]


def test_git_state(tmp_path: Path) -> None:
    root = make(tmp_path / "code", {"train.py": "", "sub/x": ""})
    assert packing.git_state(root) == {}

    def git(*args: str) -> str:
        options = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        return subprocess.run(["git", "-C", root, *options, *args], check=True, capture_output=True, text=True).stdout

    git("init")
    assert packing.git_state(root) == {}
    git("add", ".")
    git("commit", "-m", "x")
    commit = git("rev-parse", "HEAD").strip()
    assert packing.git_state(root) == {"git_commit": commit, "git_dirty": "false"}
    make(root, {"new.py": ""})
    assert packing.git_state(root) == {"git_commit": commit, "git_dirty": "true"}
    assert packing.git_state(root / "sub") == {"git_commit": commit, "git_dirty": "false"}
