"""Makes a package of a directory: the same bytes for the same files, without what was not meant."""

from __future__ import annotations

import gzip
import hashlib
import os
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

#: largest total size of a package's files, in bytes, unless more is asked for
MAX_BYTES = 512 << 20
#: file in the directory that says what stays out, in the syntax of .gitignore
IGNORE_FILE = ".cmlignore"
_NEVER = (".git/", ".hg/", ".svn/", "__pycache__/", "*.pyc", ".ipynb_checkpoints/")
#: 2000-01-01: early times (0, before 1980) upset zip and make
_MTIME = 946684800
_PIECE = 1 << 20
_SHOWN = 5


class PackingError(Exception):
    """A directory can't be packed; the message says why and what to do."""


@dataclass(frozen=True)
class Packed:
    """What was packed: name of the directory, digest and number of files."""

    name: str
    sha256: str
    files: int


class Body:
    """A file as a request's body; from its start again where the request is sent again, with a new token for instance."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def __len__(self) -> int:
        return os.fstat(self._file.fileno()).st_size

    def __iter__(self) -> Iterator[bytes]:
        self._file.seek(0)
        while piece := self._file.read(_PIECE):
            yield piece


def pack(directory: str | os.PathLike[str], target: BinaryIO, max_bytes: int = MAX_BYTES) -> Packed:
    """Write a directory's content into a file as .tar.gz.

    Left out is what ``.cmlignore`` says, and what is never meant: caches of Python and directories of version control. Links to files
    become the files. Owners, times, and modes but for "executable" are always the same.

    :param target: an empty file, open for reading and writing.
    :param max_bytes: largest total size of the files.
    :raises PackingError: there is nothing to pack, too much, or something that can't be packed.
    """
    root = Path(directory)
    if not root.is_dir():
        raise PackingError(f"{root}: there is no such directory.")
    try:
        entries = list(_walk(root, "", _spec(root)))
        sizes = {name: (root / name).stat().st_size for name, is_directory in entries if not is_directory}
    except OSError as error:
        raise PackingError(f"{error.filename} can't be read: {error.strerror}.") from None
    if not sizes:
        raise PackingError(f"{root}: there is no file to pack; {IGNORE_FILE} may leave out too much.")
    if sum(sizes.values()) > max_bytes:
        raise PackingError(_too_much(root, sizes, max_bytes))
    with gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=target, mtime=0) as packed, \
            tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, is_directory in entries:
            _add(archive, root, name, is_directory)
    target.seek(0)
    digest = hashlib.file_digest(target, "sha256")  # type: ignore[arg-type]
    return Packed(root.resolve().name, digest.hexdigest(), len(sizes))


def digest(directory: str | os.PathLike[str]) -> str:
    """Give the sha256 that the package of a directory would have.

    :raises PackingError: it can't be packed.
    """
    with tempfile.TemporaryFile() as file:
        return pack(directory, file).sha256


def _spec(root: Path) -> Any:
    import pathspec  # only who packs needs it

    try:
        lines = (root / IGNORE_FILE).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        lines = []
    except (OSError, UnicodeError) as error:
        raise PackingError(f"{root / IGNORE_FILE} can't be read: {error}") from None
    try:
        return pathspec.GitIgnoreSpec.from_lines([*_NEVER, *lines])
    except ValueError as error:
        raise PackingError(f"{root / IGNORE_FILE}: {error}") from None


def _walk(root: Path, below: str, spec: Any) -> Iterator[tuple[str, bool]]:
    """Give (path below root, is it a directory) of what is to be packed, in order; nothing below a directory that is left out."""
    with os.scandir(root / below) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        name = f"{below}{entry.name}"
        is_directory = entry.is_dir(follow_symlinks=False)
        if spec.match_file(f"{name}/" if is_directory else name):
            continue
        if is_directory:
            yield name, True
            yield from _walk(root, f"{name}/", spec)
        elif entry.is_file():
            yield name, False
        else:
            what = "a link to a directory or to nothing" if entry.is_symlink() else "neither file nor directory"
            raise PackingError(f"{root / name} is {what}; replace it, or leave it out with a line in {IGNORE_FILE}: /{name}")


def _add(archive: tarfile.TarFile, root: Path, name: str, is_directory: bool) -> None:
    member = tarfile.TarInfo(name)
    member.mtime = _MTIME
    if is_directory:
        member.type, member.mode = tarfile.DIRTYPE, 0o755
        archive.addfile(member)
        return
    try:
        with (root / name).open("rb") as file:
            status = os.fstat(file.fileno())
            member.size = status.st_size
            member.mode = 0o755 if status.st_mode & 0o100 else 0o644
            archive.addfile(member, file)
    except OSError as error:
        raise PackingError(f"{root / name} can't be packed: {error}; it may have changed meanwhile.") from None


def _too_much(root: Path, sizes: dict[str, int], max_bytes: int) -> str:
    biggest = sorted(sizes, key=lambda name: sizes[name], reverse=True)[:_SHOWN]
    lines = "\n".join(f"  {_mib(sizes[name])}  {name}" for name in biggest)
    return (f"{root} has {_mib(sum(sizes.values()))} in {len(sizes)} files, more than the {_mib(max_bytes)} that are allowed. "
            f"The biggest are:\n{lines}\nLeave out what the training does not need with lines in {root / IGNORE_FILE} (syntax of "
            f".gitignore), and keep data elsewhere.")


def _mib(size: int) -> str:
    return f"{size / (1 << 20):.1f} MiB"


def git_state(directory: str | os.PathLike[str]) -> dict[str, str]:
    """Say which commit a directory is at, and whether it has changes since, as metadata for a job: ``git_commit``, ``git_dirty``.

    Empty where it is no work tree of git, or there is no git.
    """
    commit = _git(directory, "rev-parse", "--verify", "HEAD")
    changes = _git(directory, "status", "--porcelain", "--", ".")
    if commit is None or changes is None:
        return {}
    return {"git_commit": commit.strip(), "git_dirty": "true" if changes else "false"}


def _git(directory: str | os.PathLike[str], *args: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", os.fspath(directory), *args], capture_output=True, text=True, errors="replace", check=False,
                              env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"})
    except OSError:
        return None
    return done.stdout if done.returncode == 0 else None
