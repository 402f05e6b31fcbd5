"""Installs Debian packages that tests need, where we may."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from bootstrap import BootstrapError, call, say

#: held by the tool that installs
_LOCK = "/run/cml-nova-apt.lock"
#: seconds that apt-get waits for another one
_WAIT = 600


def install(packages: Sequence[str], needed_by: str, log_dir: Path) -> None:
    """Install packages, with a policy that keeps maintainer scripts from starting daemons.

    :param needed_by: what they are for, for the message.
    :raises BootstrapError: there is no apt-get, we are not root and may not become it, or it failed.
    """
    become = [] if os.geteuid() == 0 else ["sudo", "-n"]
    if not shutil.which("apt-get") or (become and (not shutil.which("sudo") or subprocess.call(
            ["sudo", "-n", "true"], stderr=subprocess.DEVNULL))):
        raise BootstrapError(f"{needed_by} need {' '.join(packages)}, and installing that needs apt-get and root.")
    say(f"Installing {' '.join(packages)} with apt-get")
    policy = Path("/usr/sbin/policy-rc.d")
    log_path = log_dir / "apt.log"
    script = (
        # One of our tools after the other, because of the policy; then after whatever else the machine is installing.
        f"set -e; export DEBIAN_FRONTEND=noninteractive; exec 9> {_LOCK}; flock 9; "
        f"if [ ! -e {policy} ]; then trap 'rm -f {policy}' EXIT; trap 'exit 143' TERM; "
        f"printf '#!/bin/sh\\nexit 101\\n' > {policy}; chmod 755 {policy}; fi; "
        f"install='apt-get -o DPkg::Lock::Timeout={_WAIT} install -y --no-install-recommends {' '.join(packages)}'; "
        "$install || { apt-get update; $install; }")
    with log_path.open("ab") as log:
        code = call([*become, "sh", "-c", script], stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    if code:
        raise BootstrapError(f"apt-get could not install {' '.join(packages)}; see {log_path}")
