"""The oldest client packages that are supported: those of Debian 12, for its own Python."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import apt
from bootstrap import BootstrapError

PYTHON = "/usr/bin/python3"
#: module -> Debian package
_PACKAGES = {"openstackclient": "python3-openstackclient", "pathspec": "python3-pathspec", "websocket": "python3-websocket"}
#: of openstacksdk
_VERSION = "0.101."


def install(log_dir: Path) -> None:
    """Install what is missing of them. :raises BootstrapError: that can't be done here, or this is another system."""
    missing = [package for module, package in _PACKAGES.items() if _ask(f"import {module}") is None]
    if not shutil.which("ssh"):
        missing.append("openssh-client")
    if missing:
        apt.install(missing, "The tests of the clients with Debian 12's packages", log_dir)
    version = _ask("import openstack.version; print(openstack.version.__version__)")
    if version is None or not version.startswith(_VERSION):
        raise BootstrapError(f"The tests of the clients with the oldest packages need Debian 12: {PYTHON} has openstacksdk {version}, "
                             f"not {_VERSION}.")


def _ask(program: str) -> str | None:
    """Give what a program prints; None if it fails."""
    try:
        done = subprocess.run([PYTHON, "-c", program], capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
