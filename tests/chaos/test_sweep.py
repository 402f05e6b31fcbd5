"""The sweep of tools/chaos: no death of a daemon, wherever it strikes, loses a job or leaves anything of it in the cloud."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).resolve().parents[2] / "tools" / "lib" / "chaos.py"


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("job", ["train", "cancel"])
def test_every_death_is_survived(job: str, tmp_path: Path) -> None:
    """What it prints names each point that failed, and what was wrong; the ends of the daemons' logs are below the directory."""
    command = [sys.executable, str(TOOL), "sweep", "--job", job, "--directory", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout
        for line in process.stdout:
            print(line, end="", flush=True)
        assert process.wait() == 0
