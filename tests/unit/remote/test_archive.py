"""What a hostile node may put into an archive, and what becomes of it."""

from __future__ import annotations

import io
import tarfile

import pytest

from cml_nova import exception
from cml_nova.remote import archive


def tar(*members: tuple[tarfile.TarInfo, bytes], format: int = tarfile.PAX_FORMAT) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=format) as file:
        for info, content in members:
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return data.getvalue()


def regular(name: str, content: bytes = b"x") -> tuple[tarfile.TarInfo, bytes]:
    return tarfile.TarInfo(name), content


def special(name: str, kind: bytes, target: str = "") -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info, b""


def take(data: bytes, limit: int = 1 << 20, step: int = 1000, most_files: int = 100) -> dict[str, bytes]:
    pieces = (data[i:i + step] for i in range(0, len(data), step))
    found = {}
    for path, size, content in archive.unpack(pieces, limit, most_files):
        found[path] = b"".join(content)
        assert len(found[path]) == size
    return found


def test_files_come_whole_whatever_the_pieces() -> None:
    files = {"a/b.txt": b"1" * 5000, "./empty": b"", "long/" + "n" * 200: b"2", "grüße": b"3"}
    data = tar(*(regular(name, content) for name, content in files.items()))
    for step in (1, 511, 512, 1 << 20):
        assert take(data, step=step) == {name.removeprefix("./"): content for name, content in files.items()}


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "a/../../x", "a//b", "a\nb", "n" * 2000])
def test_names_that_lead_elsewhere_are_refused(name: str) -> None:
    with pytest.raises(exception.NodeCommandFailed, match="not allowed"):
        take(tar(regular(name)))


def test_too_many_files_are_refused_whatever_they_are() -> None:
    data = tar(*(regular(str(number)) for number in range(5)), special("link", tarfile.SYMTYPE, "x"))
    assert len(take(data, most_files=6)) == 5
    with pytest.raises(exception.NodeCommandFailed, match="more than 5 files"):
        take(data, most_files=5)


def test_links_and_devices_are_left_out() -> None:
    kinds = [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE]
    members = [special(f"m{i}", kind, "/etc/passwd") for i, kind in enumerate(kinds)]
    assert take(tar(*members, regular("good"))) == {"good": b"x"}


def test_a_file_behind_a_link_is_only_a_file() -> None:
    assert take(tar(special("out", tarfile.SYMTYPE, "/etc"), regular("out/x"))) == {"out/x": b"x"}


def test_the_total_is_limited_by_what_the_headers_promise() -> None:
    with pytest.raises(exception.NodeCommandFailed, match="more than 5000 bytes"):
        take(tar(regular("a", b"1" * 3000), regular("b", b"1" * 1000)), limit=5000)
    with pytest.raises(exception.NodeCommandFailed, match="more than 5000 bytes"):
        take(tar(*(special(f"m{i}", tarfile.SYMTYPE, "x") for i in range(10))), limit=5000)


@pytest.mark.parametrize("data", [b"nonsense" * 200, b"\x1f\x8b" + b"x" * 2000])
def test_what_is_no_archive_is_told(data: bytes) -> None:
    with pytest.raises(exception.NodeCommandFailed, match="no proper archive"):
        take(data)


def test_an_archive_that_breaks_off_is_told() -> None:
    with pytest.raises(exception.NodeCommandFailed, match="breaks off"):
        take(tar(regular("a", b"1" * 5000))[:3000])


def test_a_giant_header_is_not_read() -> None:
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 1 << 40
    with pytest.raises(exception.NodeCommandFailed, match="no proper archive"):
        take(info.tobuf(tarfile.GNU_FORMAT) + bytes(5000))
