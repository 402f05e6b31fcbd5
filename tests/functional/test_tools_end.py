"""A tool that is told to end: all that it has started ends, in order, and its exit status says so."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.harness import guests
from tests.harness.waiting import until

TOOLS = Path(__file__).resolve().parents[2] / "tools"

#: a tool that has started a command, which has started another one that is slow to end; and takes its time itself
TOOL = f'''
import sys, time
sys.path.insert(0, {str(TOOLS / "lib")!r})
import bootstrap

def main(argv):
    try:
        return bootstrap.call(["sh", "-c", argv[0]])
    finally:
        print("command over", flush=True)
        time.sleep(1)
        print("tool over", flush=True)

bootstrap.run_tool("tool", main, sys.argv[1:])
'''
COMMAND = '''
sh -c 'trap "echo child over; exit" TERM; echo ready; while :; do sleep 0.1; done' &
trap 'wait; echo parent over; exit 0' TERM
wait
'''


def test_what_a_tool_has_called_ends_before_it(tmp_path: Path) -> None:
    (tmp_path / "tool.py").write_text(TOOL)
    with subprocess.Popen([sys.executable, tmp_path / "tool.py", COMMAND], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        process.terminate()
        lines = [process.stdout.readline() for _ in range(3)]
        process.terminate()  # whoever is impatient harms nothing
        lines += process.stdout.readlines()
    assert lines == ["child over\n", "parent over\n", "command over\n", "tool over\n"]
    assert process.returncode == 128 + signal.SIGTERM


def test_nobody_who_ignores_it_is_left(tmp_path: Path) -> None:
    (tmp_path / "tool.py").write_text(TOOL)
    stubborn = f"sh -c 'trap \"\" TERM; while :; do sleep 0.1; done' {tmp_path}/child & echo ready; wait"
    with subprocess.Popen([sys.executable, tmp_path / "tool.py", stubborn], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        process.terminate()
        assert process.stdout.readlines() == ["command over\n", "tool over\n"]
    assert process.returncode == 128 + signal.SIGTERM
    assert guests.started_with(tmp_path) == []


def test_while_the_environment_is_made(tmp_path: Path) -> None:
    """A tool that has not begun its own work yet, but only pip's."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\n[ "$1" = -c ] && exec echo 3.11\nsh -c "sleep 600" {tmp_path}/installing & echo made; wait\n')
    python.chmod(0o755)
    command = [TOOLS / "run-tests", "--state-dir", tmp_path / "state"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "CML_PYTHON": str(python)}) as process:
        until(lambda: any("installing" in found for found in guests.started_with(tmp_path)), 30, "the making of an environment")
        process.terminate()
    assert process.returncode == 128 + signal.SIGTERM
    assert guests.started_with(tmp_path) == []


def test_a_bench_stops_its_service_and_its_cloud(tmp_path: Path) -> None:
    command = [sys.executable, TOOLS / "lib" / "bench.py", "launch", "--nodes", "1", "--samples", "1000"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**os.environ, "TMPDIR": str(tmp_path)}) as process:
        until(lambda: any("cml-nova-standalone" in found for found in guests.started_with(tmp_path)), 60, "the service")
        until(lambda: guests.processes(next(tmp_path.glob("*"), tmp_path) / "cloud"), 60, "a machine's process")
        process.terminate()
    assert process.returncode == 128 + signal.SIGTERM
    assert guests.started_with(tmp_path) == []
