"""What goes into a guest image: packages of the distribution, packages of Python, and what the image is called in Glance.

The pins of the frameworks are those of the stand-in cloud's images: what is tried there is what runs here.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from cml_nova.localcloud import images as pins

REPOSITORY = Path(__file__).resolve().parents[2]
ETC = REPOSITORY / "etc" / "image"
SUITE, RELEASE = "bookworm", "12"
PYTHON = (3, 11)  # the suite's
USER = "cml"

#: what every node needs: a kernel, an init with units for users, SSH, the network, the runner's Python
BASE = (
    "initramfs-tools", "zstd", "busybox-static", "systemd-sysv", "udev", "libpam-systemd", "systemd-resolved", "libnss-myhostname",
    "openssh-server", "python3", "iproute2", "procps", "ca-certificates",
)

#: what the wheels of a framework expect of the distribution
LIBRARIES = {"mxnet": ("libgomp1", "libquadmath0")}
MIN_RAM = {"tensorflow": 1536, "pytorch": 1024, "mxnet": 512}  # MiB


class RecipeError(Exception):
    """The image can't be described; the message says why and what to do."""


@dataclass(frozen=True)
class Recipe:
    """What an image is made of.

    :ivar requirements: arguments to ``pip install``, one tuple for each call.
    :ivar packages: of the distribution.
    :ivar min_ram: MiB that a node needs to train with it at all.
    """

    framework: str
    version: str
    packages: tuple[str, ...]
    requirements: tuple[tuple[str, ...], ...] = ()
    modules: tuple[str, ...] = ()
    min_ram: int = 512
    kernel: str = "linux-image-cloud-amd64"

    def digest(self) -> str:
        """Hash everything in this repository that decides what the image is like."""
        digest = hashlib.sha256(json.dumps(self.__dict__, sort_keys=True, default=str).encode())
        for name in sorted({word for call in self.requirements for word in call if word.endswith(".txt")}):
            digest.update(Path(name).read_bytes())
        for path in sorted(path for path in ETC.rglob("*") if path.is_file()):
            digest.update(f"{path.relative_to(ETC)}\0{path.stat().st_mode & 0o111}\0".encode() + path.read_bytes())
        return digest.hexdigest()

    def properties(self) -> dict[str, str]:
        """What Glance says of the image, for this service, for Nova and for people."""
        return {
            "cml_framework": self.framework, "cml_framework_version": self.version, "cml_ssh_user": USER,
            "os_type": "linux", "os_distro": "debian", "os_version": RELEASE, "os_admin_user": USER, "architecture": "x86_64",
            "hw_disk_bus": "virtio", "hw_vif_model": "virtio", "hw_rng_model": "virtio",
        }


def frameworks() -> list[str]:
    """The names that ``recipe`` knows."""
    return [*pins.recipes(), "pytorch", "custom"]


def recipe(framework: str, packages: tuple[str, ...] = (), python_packages: tuple[str, ...] = (),
           kernel: str = "linux-image-cloud-amd64") -> Recipe:
    """Describe the image of a framework.

    :param packages: more packages of the distribution.
    :param python_packages: more requirements as pip writes them; those that the framework's pins name have the pinned version.
    :raises RecipeError: no such framework, or its pins do not fit the distribution's Python.
    """
    base = (*BASE, kernel, *packages)
    if framework == "pytorch":
        # of the distribution: PyPI's build carries two gigabytes for GPUs
        return Recipe("pytorch", "1.13.1", (*base, "python3-torch"), _calls((), python_packages), ("torch",), MIN_RAM[framework], kernel)
    if framework == "custom":
        return Recipe("custom", ".".join(map(str, PYTHON)), base, _calls((), python_packages), (), 384, kernel)
    try:
        known = pins.recipe(framework)
    except pins.ImageError as error:
        raise RecipeError(f"there is no recipe for '{framework}'; there are: {', '.join(frameworks())}") from error
    if not known.oldest <= PYTHON <= known.newest:
        raise RecipeError(f"{framework} {known.version} is pinned for Python {known.oldest} to {known.newest}; {SUITE} has {PYTHON}")
    constraint = ("--constraint", str(known.requirements))
    package = {"tensorflow": "tensorflow-cpu"}.get(framework, framework)
    calls = [*_calls(constraint, (package, "numpy", *python_packages))]
    if known.without_deps:
        calls.append(("--no-deps", "--requirement", str(known.without_deps)))
    return Recipe(framework, known.version, (*base, *LIBRARIES.get(framework, ())), tuple(calls), (framework,), MIN_RAM[framework], kernel)


def _calls(options: tuple[str, ...], packages: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    return ((*options, *packages),) if packages else ()
