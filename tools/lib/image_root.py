"""Makes the root directory of a guest image by mmdebstrap and pip."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import image_ramdisk
import image_recipes
from image_recipes import PYTHON, SUITE, USER, Recipe

Run = Callable[..., None]
SITE = f"usr/local/lib/python{PYTHON[0]}.{PYTHON[1]}/dist-packages"
ENABLED = ("cml-firstboot.service", "cml-poweroff.path", "cml-resolver.service", "systemd-networkd.service", "ssh.service")
#: nothing of these does a node of a job any good, and each costs it time at boot
MASKED = (
    "apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer", "e2scrub_reap.service", "fstrim.timer",
    "systemd-pstore.service", "systemd-networkd-wait-online.service", "getty.target", "systemd-update-utmp.service",
    "systemd-update-utmp-runlevel.service", "systemd-update-done.service", "systemd-journal-catalog-update.service",
    "systemd-hwdb-update.service",
    "systemd-ask-password-wall.path", "systemd-ask-password-console.path", "systemd-boot-system-token.service",
    "systemd-binfmt.service", "proc-sys-fs-binfmt_misc.automount", "systemd-network-generator.service", "systemd-sysusers.service",
    "systemd-journal-flush.service", "systemd-initctl.socket", "systemd-machine-id-commit.service", "systemd-firstboot.service",
    "dev-hugepages.mount", "dev-mqueue.mount", "sys-kernel-debug.mount", "sys-kernel-tracing.mount", "sys-kernel-config.mount",
    "sys-fs-fuse-connections.mount", "modprobe@configfs.service", "modprobe@drm.service", "modprobe@fuse.service",
    "modprobe@loop.service", "modprobe@dm_mod.service", "modprobe@efi_pstore.service", "kmod-static-nodes.service",
    "systemd-modules-load.service", "remote-fs.target", "cryptsetup.target", "integritysetup.target", "veritysetup.target",
    "systemd-tmpfiles-clean.timer",
)
#: what looks at each boot for things that are not in these images; fstab's stays
GENERATORS = (
    "cryptsetup", "debug", "getty", "gpt-auto", "hibernate-resume", "integritysetup", "rc-local", "run", "system-update", "sysv",
    "veritysetup", "bless-boot",
)
LEFT_OUT = ("/usr/share/man/*", "/usr/share/doc/*", "/usr/share/locale/*", "/usr/share/info/*", "/usr/share/lintian/*",
            "/usr/lib/udev/hwdb.d/*", "/usr/share/bug/*")
KEPT = ("/usr/share/doc/*/copyright",)


def bootstrap_command(recipe: Recipe, root: Path, mirrors: Sequence[str]) -> list[str]:
    """Word the call of mmdebstrap. The files of etc/image/rootfs are there before the first package asks for its settings."""
    copy = f'tar -C {image_recipes.ETC / "rootfs"} --owner=0 --group=0 --mode=u+rw,go+rX,go-w -cf - . | tar -C "$1" -xpf -'
    command = [
        "mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", f"--include={','.join(recipe.packages)}",
        "--aptopt=Acquire::Languages \"none\"", "--aptopt=Acquire::Retries \"3\"", "--aptopt=APT::Install-Recommends \"false\"",
        "--dpkgopt=force-unsafe-io", f"--essential-hook={copy}",
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in LEFT_OUT), *(f"--dpkgopt=path-include={pattern}" for pattern in KEPT),
    ]
    return [*command, SUITE, str(root), *mirrors]


def host_mirrors() -> list[str]:
    """Where this machine has its packages from, if it runs the same release; otherwise mmdebstrap knows where Debian is."""
    release = platform.freedesktop_os_release()
    if (release.get("ID"), release.get("VERSION_CODENAME")) != ("debian", SUITE):
        return []
    places = [Path("/etc/apt/sources.list"), Path("/etc/apt/sources.list.d/debian.sources")]
    return [str(path) for path in places if path.exists() and path.stat().st_size]


def pip_command(requirements: Sequence[str], site: Path) -> list[str]:
    """Word a call of this Python's pip that installs for the guest's Python. There is no pip in the image."""
    tags = [f"--platform=manylinux_2_{minor}_x86_64" for minor in range(36, 4, -1)]
    tags += [f"--platform={old}_x86_64" for old in ("manylinux2014", "manylinux2010", "manylinux1", "linux")]
    return [
        sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--progress-bar=off", "--quiet",
        "--root-user-action=ignore", "--no-compile", "--only-binary=:all:", "--implementation=cp",
        f"--python-version={PYTHON[0]}.{PYTHON[1]}", *tags, f"--target={site}", "--upgrade", *requirements,
    ]


def build(recipe: Recipe, root: Path, mirrors: Sequence[str], run: Run) -> None:
    """Fill a directory with all that the image has.

    :param run: runs a command to its end, or raises.
    """
    run(bootstrap_command(recipe, root, mirrors or host_mirrors()), "the distribution's packages")
    site = root / SITE
    for call in recipe.requirements:
        run(pip_command(call, site), "the Python packages")
    if site.exists():
        shutil.rmtree(site / "bin", ignore_errors=True)
        # a guest may not write there, and would compile every module at every start
        run(["chroot", str(root), "python3", "-m", "compileall", "-q", "-j", "0", "/" + SITE], "compiling", check=False)
    run(["chroot", str(root), "useradd", "--create-home", "--uid", "1000", "--shell", "/bin/sh", USER], "the login")
    settle(root, run)
    image_ramdisk.build(root, kernel_files(root)[1], run)


def settle(root: Path, run: Run) -> None:
    """Enable and mask units, and remove what must not be the same in every node."""
    linger = root / "var/lib/systemd/linger"
    linger.mkdir(parents=True, exist_ok=True)
    (linger / USER).touch()  # its service manager runs from boot on: the training is a unit of it
    system = root / "etc/systemd/system"
    for unit in MASKED:
        path = system / unit
        path.unlink(missing_ok=True)
        path.symlink_to("/dev/null")
    generators = root / "etc/systemd/system-generators"
    generators.mkdir(exist_ok=True)
    for name in GENERATORS:
        path = generators / f"systemd-{name}-generator"
        path.unlink(missing_ok=True)
        path.symlink_to("/dev/null")
    run(["systemctl", f"--root={root}", "--quiet", "reenable", *ENABLED], "the units")
    run(["systemctl", f"--root={root}", "--quiet", "set-default", "multi-user.target"], "the units")
    run(["systemctl", f"--root={root}", "--quiet", "disable", "systemd-resolved.service"], "the units")  # cml-resolver.service starts it
    (root / "etc/machine-id").write_text("")  # made at boot; "uninitialized" would have every unit preset anew
    for path in [*root.glob("etc/ssh/ssh_host_*"), *root.glob("var/lib/dpkg/*-old"), *root.glob("var/cache/apt/*.bin")]:
        path.unlink()
    for path in (root / "var/lib/apt/lists", root / "var/log/apt"):
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
    for log in (root / "var/log").glob("*.log"):
        log.unlink()
    resolv = root / "etc/resolv.conf"
    resolv.unlink(missing_ok=True)
    resolv.symlink_to("../run/systemd/resolve/stub-resolv.conf")


def check_modules(recipe: Recipe, root: Path, run: Run) -> None:
    """Import the framework in the image.

    :raises subprocess.CalledProcessError: it can't be imported.
    """
    program = "; ".join(f"import {name}; print('{name}', {name}.__version__)" for name in recipe.modules)
    if program:
        run(["chroot", str(root), "runuser", "-u", USER, "--", "python3", "-c", program], "the framework in the image")


def kernel_files(root: Path) -> tuple[Path, Path]:
    """Give the paths of the kernel and of its initial RAM disk."""
    kernel = sorted((root / "boot").glob("vmlinuz-*"))[-1]
    return kernel, kernel.with_name("initrd.img-" + kernel.name.partition("-")[2])


def used(root: Path) -> int:
    """Give the bytes that the files take in blocks of a file system."""
    total = 0
    for directory, names, files in os.walk(root):
        total += 4096 * len(names)
        for name in files:
            info = os.lstat(os.path.join(directory, name))
            total += -(-info.st_size // 4096) * 4096 // (info.st_nlink or 1)
    return total


