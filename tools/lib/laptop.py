"""The oldest client packages that are supported: those of Debian 12, for its own Python."""

from __future__ import annotations

import subprocess
from pathlib import Path

import apt

PYTHON = "/usr/bin/python3"
#: module -> Debian package
_PACKAGES = {"openstackclient": "python3-openstackclient", "pathspec": "python3-pathspec"}


def install(log_dir: Path) -> None:
    """Install what is missing of them. :raises BootstrapError: that can't be done here."""
    missing = [package for module, package in _PACKAGES.items() if not _has(module)]
    if missing:
        apt.install(missing, "The tests of the clients with Debian's packages", log_dir)


def _has(module: str) -> bool:
    try:
        return subprocess.call([PYTHON, "-c", f"import {module}"], stderr=subprocess.DEVNULL) == 0
    except OSError:
        return False
