"""Make a bootable guest image with a framework, the Python that the service needs in a node, and nothing else; upload it to Glance."""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import bootstrap
import image_disk
import image_glance
import image_recipes
import image_root

#: what a build needs of its machine: what is looked for, and the Debian package that has it
TOOLS = {
    "mmdebstrap": "mmdebstrap", "mke2fs": "e2fsprogs", "sfdisk": "fdisk", "qemu-img": "qemu-utils", "grub-mkimage": "grub-common",
    "mformat": "mtools", str(image_disk.GRUB_BIOS / "boot.img"): "grub-pc-bin",
    str(image_disk.GRUB_EFI / "linux.mod"): "grub-efi-amd64-bin",
    "/usr/share/keyrings/debian-archive-keyring.gpg": "debian-archive-keyring",
}
SPACE = {"tensorflow": 8, "pytorch": 5}  # GiB that a build needs for a while; others 3
VERSION = "1"  # changes when these modules make another image of the same recipe


class BuildError(Exception):
    """The image can't be built; the message says why and what to do."""


def parse(argv: list[str]) -> argparse.Namespace:
    """Read the arguments.

    :raises SystemExit: they are wrong, or help was asked for.
    """
    parser = argparse.ArgumentParser(prog="tools/build-image", description=__doc__, allow_abbrev=False)
    parser.add_argument("framework", choices=image_recipes.frameworks(), help="what is in the image; custom: only Python")
    parser.add_argument("--package", action="append", default=[], metavar="NAME", help="one more package of the distribution (repeatable)")
    parser.add_argument("--python-package", action="append", default=[], metavar="REQUIREMENT",
                        help="one more Python package, as pip writes it; those that the framework's pins know have that version")
    parser.add_argument("--kernel", default="linux-image-cloud-amd64", metavar="PACKAGE",
                        help="linux-image-amd64 for devices that are passed through; default: %(default)s")
    parser.add_argument("--kernel-options", default="", metavar="WORDS",
                        help="more words on the kernel's command line; 'mitigations=off' makes emulated guests twice as fast")
    parser.add_argument("--mirror", action="append", default=[], metavar="WHERE",
                        help="where the packages come from, as mmdebstrap takes it: a URL, a line or a file of apt's sources (repeatable); "
                             "default: where this machine has its own from, if it runs the same release")
    parser.add_argument("--hook", action="append", default=[], metavar="PROGRAM", type=Path,
                        help="a program that is given the image's root directory before the disk is made (repeatable)")
    parser.add_argument("--compress", action="store_true", help="a smaller file, which takes longer to make")
    parser.add_argument("--rebuild", action="store_true", help="build anew what is built already, for instance for security updates")
    parser.add_argument("--no-install", action="store_true", help="do not install what this machine lacks for the build; say what it is")
    parser.add_argument("--state-dir", type=Path, metavar="DIR", default=bootstrap.default_state_dir(),
                        help="what is built goes to DIR/guest-images/NAME; default: %(default)s")
    upload = parser.add_argument_group("Glance")
    upload.add_argument("--upload", action="store_true", help="put the image into Glance, unless it is there")
    upload.add_argument("--os-cloud", metavar="NAME", default=os.environ.get("OS_CLOUD"), help="entry of clouds.yaml; default: OS_CLOUD")
    upload.add_argument("--name", metavar="NAME", help="default: cml-FRAMEWORK")
    upload.add_argument("--visibility", choices=["private", "shared", "community", "public"], default="private",
                        help="public takes the role admin; default: %(default)s")
    upload.add_argument("--boot", choices=["disk", "kernel"], default="disk",
                        help="disk: by its own boot loader, BIOS or UEFI, as every cloud does. kernel: Nova with libvirt loads kernel and "
                             "RAM disk itself (two more images), which is faster where guests are emulated; default: %(default)s")
    options = parser.parse_args(argv)
    options.name = options.name or f"cml-{options.framework}"
    if "/" in options.name or options.name.startswith("."):
        parser.error(f"--name {options.name}: it is a directory's name as well; leave out '/' and a '.' at the beginning")
    return options


class Commands:
    """Runs the commands of a build; all of their output goes to a log."""

    def __init__(self, log: Path) -> None:
        self._log = log

    def __call__(self, command: list[str], what: str, *, check: bool = True, input: str | None = None,
                 lines: list[str] | None = None) -> None:
        """Run one to its end.

        :param what: what it makes, for the message.
        :param lines: takes its standard output.
        :raises BuildError: it failed, and ``check``.
        """
        env = dict(os.environ, DEBIAN_FRONTEND="noninteractive", PATH=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
        with self._log.open("a") as log:
            log.write(f"\n+ {' '.join(command)}\n")
            log.flush()
            with bootstrap.started(command, text=True, errors="replace", env=env, stdin=subprocess.PIPE, stderr=log,
                                   stdout=subprocess.PIPE if lines is not None else log) as done:
                output, _ = done.communicate(input or "")
        if lines is not None:
            lines.append(output)
        if done.returncode and check:
            end = "\n".join(self._log.read_text(errors="replace").splitlines()[-12:])
            raise BuildError(f"{what}: {command[0]} ended with code {done.returncode}. The whole output is in {self._log}; its end:\n{end}")


def check_host(options: argparse.Namespace, run: Commands) -> None:
    """See to it that this machine can build.

    :raises BuildError: it can't.
    """
    machine = os.uname().machine
    if machine != "x86_64":
        raise BuildError(f"images are for x86_64, and their programs are run in the build; this machine is {machine}. Build on another")
    if os.geteuid() != 0:
        raise BuildError("the files in an image belong to root and other users, which only root can write. Run this with sudo")
    missing = missing_packages()
    if missing and (options.no_install or not shutil.which("apt-get")):
        raise BuildError(f"this machine lacks packages. Install them: apt-get install {' '.join(missing)}")
    if missing:
        bootstrap.say(f"Installing {', '.join(missing)}")
        run(["apt-get", "-q", "update"], "apt's lists", check=False)  # an old list may do
        run(["apt-get", "-q", "-y", "--no-install-recommends", "install", *missing], "what the build needs")
    needed = SPACE.get(options.framework, 3)
    free = shutil.disk_usage(options.state_dir).free / 2**30
    if free < needed:
        raise BuildError(f"{options.state_dir} has {free:.1f} GiB free; the build needs {needed} for a while. "
                         "Make room, or choose another --state-dir")


def missing_packages() -> list[str]:
    """Give the packages whose commands or files are not here."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    found = {tool for tool in TOOLS if (os.path.exists(tool) if tool[0] == "/" else shutil.which(tool, path=path))}
    return sorted({package for tool, package in TOOLS.items() if tool not in found})


def build(options: argparse.Namespace, directory: Path) -> dict[str, Any]:
    """Build the image into ``directory`` unless it is there; give what is known of it.

    :raises BuildError: it can't be built.
    """
    recipe = image_recipes.recipe(options.framework, tuple(options.package), tuple(options.python_package), options.kernel)
    kernel_options = f"{image_disk.KERNEL_OPTIONS} {options.kernel_options}".strip()
    hooks = [[str(hook), image_glance.checksum(hook)] for hook in options.hook]
    digest = f"{VERSION}-{recipe.digest()}-{json.dumps([options.mirror, hooks, options.compress, kernel_options])}"
    known = read(directory)
    if known and known["digest"] == digest and not options.rebuild:
        bootstrap.say(f"{options.name}: built already, {directory}")
        return known
    run = Commands(directory / "build.log")
    check_host(options, run)
    (directory / "image.json").unlink(missing_ok=True)
    clock = Clock(options.name)
    with tempfile.TemporaryDirectory(prefix="build-", dir=directory) as work:
        root = Path(work) / "root"
        image_root.build(recipe, root, options.mirror, run)
        clock.lap("packages")
        for hook in options.hook:
            run([str(hook.resolve()), str(root)], f"the hook {hook}")
        image_root.check_modules(recipe, root, run)
        clock.lap("tried in a chroot")
        for path, name in zip(image_root.kernel_files(root), ("vmlinuz", "initrd.img"), strict=True):
            shutil.copyfile(path, directory / name)
        image_disk.build(root, Path(work), directory / "disk.qcow2", kernel_options=kernel_options, compress=options.compress,
                         run=run)
        size = image_disk.size_for(image_root.used(root))
        clock.lap(f"disk: {(directory / 'disk.qcow2').stat().st_size // 2**20} MiB")
    known = {"digest": digest, "properties": recipe.properties(), "min_disk": -(-size // 2**30), "min_ram": recipe.min_ram,
             "kernel_options": kernel_options,
             "built_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "seconds": round(clock.total())}
    write(directory, known)
    return known


class Clock:
    """Says how long each part took."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._began = self._last = time.monotonic()

    def lap(self, what: str) -> None:
        now = time.monotonic()
        bootstrap.say(f"{self._name}: {what} ({now - self._last:.0f} s)")
        self._last = now

    def total(self) -> float:
        return time.monotonic() - self._began


def read(directory: Path) -> dict[str, Any] | None:
    """Give what is known of a built image; None if there is none."""
    try:
        known: dict[str, Any] = json.loads((directory / "image.json").read_text())
    except FileNotFoundError:
        return None
    return known


def write(directory: Path, known: dict[str, Any]) -> None:
    """Say that an image is whole, and what it is."""
    temporary = directory / "image.json.new"
    temporary.write_text(json.dumps(known, indent=1) + "\n")
    temporary.rename(directory / "image.json")


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Let one command at a time build an image and put it into Glance."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            bootstrap.say(f"Waiting for another command that is at work in {directory}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def put_into_glance(options: argparse.Namespace, known: dict[str, Any], directory: Path) -> None:
    """Upload a built image.

    :raises BuildError: the cloud can't be reached, or refuses.
    """
    import keystoneauth1.exceptions
    import openstack

    try:
        with openstack.connect(cloud=options.os_cloud) as connection:
            image_glance.upload(connection, known, directory, name=options.name, visibility=options.visibility, boot=options.boot,
                                say=bootstrap.say)
    except (openstack.exceptions.SDKException, keystoneauth1.exceptions.ClientException, image_glance.UploadError) as error:
        raise BuildError(f"upload to the cloud {options.os_cloud or 'of the environment'}: {error}") from error


def main(argv: list[str]) -> None:
    """Build, and upload if asked to.

    :raises SystemExit: with a message if that failed.
    """
    options = parse(argv)
    directory = options.state_dir.resolve() / "guest-images" / options.name
    try:
        with locked(directory):
            known = build(options, directory)
            bootstrap.say(f"{options.name}: {directory / 'disk.qcow2'}")
            if options.upload:
                put_into_glance(options, known, directory)
    except (BuildError, image_recipes.RecipeError, OSError) as error:
        sys.exit(f"build-image: {error}")


if __name__ == "__main__":
    bootstrap.run_tool("build-image", main, sys.argv[1:])
