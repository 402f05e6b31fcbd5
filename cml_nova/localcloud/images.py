"""The images of the local cloud: Python environments in which a guest's commands run.

An environment is a virtual environment made by pip from ``environments/<name>.txt``. The head of that file says which Python
versions the framework runs on (``# python: 3.8 - 3.11``) and which of its pins is the framework itself (``# framework: mxnet``).
``environments/<name>.no-deps.txt``, where there is one, is installed afterwards without dependencies.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

ENVIRONMENTS = Path(__file__).with_name("environments")
PLAIN = "plain"
SIMULATED = "simulated"  # its guests have no processes; see simulated.py
SSH_USER = "cml"
_MARKER = "image.json"  # written last: a directory without it is no image
_OLDEST, _NEWEST = 8, 20  # minor versions of Python 3 that are looked for on PATH

Progress = Callable[[str], None]


class ImageError(Exception):
    """An image is unknown, not built, or can't be built; the message says why and what to do."""


@dataclass(frozen=True)
class ImageInfo:
    """A built image. ``path``: the environment's directory; ``size``: bytes on disk; ``created_at``: seconds since the epoch."""

    name: str
    properties: dict[str, str]
    path: Path
    size: int
    created_at: float

    @property
    def bin(self) -> Path:
        return self.path / "bin"


@dataclass(frozen=True)
class Recipe:
    """What an image is made of."""

    name: str
    framework: str
    version: str
    oldest: tuple[int, int]
    newest: tuple[int, int]
    requirements: Path
    without_deps: Path | None
    digest: str


def recipes() -> list[str]:
    """The names of the images that can be built, without ``plain``, which needs no build."""
    return sorted(path.stem for path in ENVIRONMENTS.glob("*.txt") if "." not in path.stem)


def recipe(name: str) -> Recipe:
    """The recipe of an image.

    :raises ImageError: nothing of that name.
    """
    if name not in recipes():
        raise ImageError(f"there is no image '{name}'; there are: {', '.join([PLAIN, SIMULATED, *recipes()])}")
    requirements = ENVIRONMENTS / f"{name}.txt"
    without_deps = ENVIRONMENTS / f"{name}.no-deps.txt"
    text = requirements.read_text()
    python = re.search(r"^# python: 3\.(\d+) - 3\.(\d+)$", text, re.MULTILINE)
    package = re.search(r"^# framework: (\S+)$", text, re.MULTILINE)
    pin = re.search(rf"^{re.escape(package[1])}==(\S+)$", text, re.MULTILINE) if package else None
    if not python or not pin:
        raise ImageError(f"{requirements} lacks its '# python:' or '# framework:' line, or the framework's pin")
    extra = without_deps.read_text() if without_deps.exists() else ""
    return Recipe(
        name=name, framework=name, version=pin[1], oldest=(3, int(python[1])), newest=(3, int(python[2])), requirements=requirements,
        without_deps=without_deps if extra else None, digest=hashlib.sha256(f"{text}\0{extra}".encode()).hexdigest(),
    )


class ImageStore:
    """The images below one directory. Several processes may use it at the same time."""

    def __init__(self, images_dir: Path) -> None:
        self._dir = images_dir.absolute()
        self._dir.mkdir(parents=True, exist_ok=True)

    def list(self) -> list[ImageInfo]:
        """Those that are built; ``plain`` and ``simulated`` always."""
        plain = self._plain(print_nothing)
        found = (self._read(name) for name in (PLAIN, *recipes()))
        return [*(image for image in found if image), _simulated(plain)]

    def get(self, name: str) -> ImageInfo:
        """One built image.

        :raises ImageError: unknown or not built.
        """
        if name == PLAIN:
            return self._plain(print_nothing)
        if name == SIMULATED:
            return _simulated(self._plain(print_nothing))
        image = self._read(recipe(name).name)
        if not image:
            raise ImageError(f"the image '{name}' is not built; build it with: cml-nova-localcloud image build {name}")
        return image

    def build(self, name: str, progress: Progress) -> ImageInfo:
        """Build an image, unless it is there and its recipe has not changed since.

        :param progress: is called with one line of text at a time.
        :raises ImageError: no fitting Python, or pip failed.
        """
        if name == PLAIN:
            return self._plain(progress)
        if name == SIMULATED:
            return self.get(SIMULATED)
        wanted = recipe(name)
        with self._lock(name, progress):
            image = self._read(name, wanted.digest)
            if image:
                progress(f"image {name}: up to date")
                return image
            return self._build(wanted, progress)

    def _build(self, wanted: Recipe, progress: Progress) -> ImageInfo:
        python, version = find_python(wanted)
        path = self._dir / wanted.name
        _remove(path)
        progress(f"image {wanted.name}: {wanted.framework} {wanted.version} with Python {version} ({python})")
        _run([python, "-m", "venv", str(path)], progress)
        pip = [str(path / "bin" / "python"), "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--progress-bar=off"]
        _run([*pip, "-r", str(wanted.requirements)], progress)
        if wanted.without_deps:
            _run([*pip, "--no-deps", "-r", str(wanted.without_deps)], progress)
        image = self._finish(path, wanted.digest, wanted.framework, wanted.version, version)
        progress(f"image {wanted.name}: done, {image.size // 2**20} MiB")
        return image

    def _plain(self, progress: Progress) -> ImageInfo:
        """The Python that runs the cloud, with its standard library only."""
        version = ".".join(map(str, sys.version_info[:3]))
        digest = hashlib.sha256(f"{sys.base_prefix}\0{version}".encode()).hexdigest()
        image = self._read(PLAIN, digest)
        if image:
            return image
        with self._lock(PLAIN, progress):
            image = self._read(PLAIN, digest)
            if image:
                return image
            path = self._dir / PLAIN
            _remove(path)
            venv.EnvBuilder(symlinks=True, with_pip=False).create(path)
            return self._finish(path, digest, "custom", version, version)

    def _finish(self, path: Path, digest: str, framework: str, version: str, python: str) -> ImageInfo:
        properties = {
            "cml_framework": framework, "cml_framework_version": version, "cml_python_version": python,
            "cml_ssh_user": SSH_USER, "cml_ssh_port": "2200",
        }
        marker = {"digest": digest, "properties": properties, "size": _size(path), "created_at": time.time()}
        temporary = path / f"{_MARKER}.tmp"
        temporary.write_text(json.dumps(marker, indent=1))
        temporary.rename(path / _MARKER)
        return ImageInfo(path.name, properties, path, int(str(marker["size"])), float(str(marker["created_at"])))

    def _read(self, name: str, digest: str | None = None) -> ImageInfo | None:
        """The built image, or None if it is not there or not made from ``digest``."""
        path = self._dir / name
        try:
            marker: dict[str, Any] = json.loads((path / _MARKER).read_text())
        except FileNotFoundError:
            return None
        if digest and marker["digest"] != digest:
            return None
        return ImageInfo(name, marker["properties"], path, marker["size"], marker["created_at"])

    @contextmanager
    def _lock(self, name: str, progress: Progress) -> Iterator[None]:
        """Only one process builds an image at a time; the lock goes with the process that holds it."""
        with (self._dir / f".{name}.lock").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                progress(f"image {name}: waiting for another build of it")
                fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _simulated(plain: ImageInfo) -> ImageInfo:
    """The image for tests of scale. It has nothing of its own, and no framework by which anybody would get it who does not name it."""
    login = {name: value for name, value in plain.properties.items() if name.startswith("cml_ssh_")}
    return replace(plain, name=SIMULATED, properties={**login, "cml_simulated": "true"}, size=0)


def print_nothing(line: str) -> None:
    """The progress callback of those who do not care."""


def find_python(wanted: Recipe) -> tuple[str, str]:
    """The path and version of a Python that the recipe allows: the one that runs this, else the newest on PATH.

    :raises ImageError: there is none; says what was looked at.
    """
    seen = []
    names = [sys.executable, *(f"python3.{minor}" for minor in range(_NEWEST, _OLDEST - 1, -1))]
    for candidate in filter(None, map(shutil.which, names)):
        version, problem = _ask_python(candidate)
        if not problem and wanted.oldest <= version[:2] <= wanted.newest:
            return candidate, ".".join(map(str, version))
        seen.append(f"{candidate} ({problem or '.'.join(map(str, version))})")
    low, high = (".".join(map(str, bound)) for bound in (wanted.oldest, wanted.newest))
    raise ImageError(
        f"the image '{wanted.name}' needs Python {low} to {high} with its venv module; found only: {', '.join(seen)}. "
        f"Install one (for instance as python{high} on PATH) and build again"
    )


def _ask_python(executable: str) -> tuple[tuple[int, ...], str | None]:
    """The version of an interpreter, and why it is of no use if it is not (a version manager's shim, no venv module)."""
    program = "import sys, venv, ensurepip; print(*sys.version_info[:3])"
    try:
        answer = subprocess.run([executable, "-c", program], capture_output=True, text=True, timeout=30, check=False, env=_environ())
    except (OSError, subprocess.TimeoutExpired) as error:
        return (), str(error)
    if answer.returncode:
        return (), (answer.stderr.strip().splitlines() or [f"exit code {answer.returncode}"])[-1]
    return tuple(map(int, answer.stdout.split())), None


def _environ() -> dict[str, str]:
    """The user's environment with all their pip settings, but not with this process's module path."""
    return {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}


def _run(command: list[str], progress: Progress) -> None:
    tail: list[str] = []
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", env=_environ()
    ) as process:
        assert process.stdout
        for line in process.stdout:
            tail = [*tail[-9:], line.rstrip()]
            progress(line.rstrip())
    if process.returncode:
        raise ImageError(f"'{' '.join(command)}' failed with exit code {process.returncode}: " + " | ".join(tail))


def _remove(path: Path) -> None:
    """Remove an image; its marker first, so that nobody takes a half-removed one for whole."""
    (path / _MARKER).unlink(missing_ok=True)
    if path.exists():
        shutil.rmtree(path)


def _size(path: Path) -> int:
    files = (os.path.join(directory, name) for directory, _, names in os.walk(path) for name in names)
    return sum(os.lstat(file).st_size for file in files)
