"""A short campaign of tools/chaos: many jobs at once, faults of all kinds, and every job ends as it should and leaves nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).resolve().parents[2] / "tools" / "lib" / "chaos.py"
SEED = 2


@pytest.mark.fault("campaign")
@pytest.mark.timeout(1200)
def test_no_fault_loses_a_job_or_leaves_anything(tmp_path: Path) -> None:
    command = [sys.executable, str(TOOL), "campaign", "--seed", str(SEED), "--jobs", "24", "--faults", "60", "--directory", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout
        for line in process.stdout:
            print(line, end="", flush=True)
        assert process.wait() == 0
