"""The sweep of tools/chaos: no death of a daemon, wherever it strikes, loses a job or leaves anything of it in the cloud."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).resolve().parents[2] / "tools" / "lib" / "chaos.py"


def sweep(directory: Path, *arguments: str) -> int:
    """Run the tool, and pass on what it prints: each point that failed, and what was wrong."""
    command = [sys.executable, str(TOOL), "sweep", "--directory", str(directory), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout
        for line in process.stdout:
            print(line, end="", flush=True)
        return process.wait()


@pytest.mark.fault("daemon-killed-anywhere")
@pytest.mark.timeout(3600)
def test_every_death_is_survived(tmp_path: Path) -> None:
    assert sweep(tmp_path) == 0
