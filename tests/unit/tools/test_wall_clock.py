"""The wall clocks that daemons are given can be set wrong, and right again, while they run."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from tests.harness.process import Daemon
from tests.harness.wall_clock import WallClock

TELL = "from time import time\nfor _ in iter(input, 'end'): print(time(), flush=True)"


def test_a_clock_jumps_and_jumps_back(tmp_path: Path) -> None:
    clock = WallClock(tmp_path / "clock")
    daemon = Daemon("any", ["python"], tmp_path / "log")
    clock.give_to(daemon)
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", TELL], env=daemon.env, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdin and process.stdout
        for seconds in (0, 7200, -7200, 0):
            clock.set(seconds)
            process.stdin.write("tell\n")
            process.stdin.flush()
            assert abs(float(process.stdout.readline()) - time.time() - seconds) < 600
        process.stdin.write("end\n")
        process.stdin.flush()
        assert process.wait() == 0
