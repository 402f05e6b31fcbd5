"""The example trainings killed at random moments: they go on from their checkpoints, and their models are as good as undisturbed ones."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).resolve().parents[2] / "tools" / "lib" / "chaos.py"
SEED = 1


@pytest.mark.parametrize("example", ["tensorflow-digits", "mxnet-digits"])
@pytest.mark.timeout(1200)
def test_killed_example_goes_on_from_its_checkpoint(example: str, tmp_path: Path) -> None:
    state_dir = os.environ["CML_TEST_STATE_DIR"]  # where the images are
    command = [sys.executable, str(TOOL), "--state-dir", state_dir, "examples", "--example", example, "--seed", str(SEED),
               "--directory", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout
        for line in process.stdout:
            print(line, end="", flush=True)
        assert process.wait() == 0
