"""Files that are written as a whole."""

from __future__ import annotations

from pathlib import Path

from cml_nova.remote.runner.files import write_file


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_file(str(path), b"one", 0o644)
    write_file(str(path), b"two", 0o640)
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"two", 0o640)
    assert [each.name for each in tmp_path.iterdir()] == ["file"]
