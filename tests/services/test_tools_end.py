"""Tools that start servers of their own are told to end: nothing of them is left."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import sqlalchemy as sa

from tests.harness import guests

LIB = Path(__file__).resolve().parents[2] / "tools" / "lib"


def start(*command: object) -> subprocess.Popen[str]:
    env = {name: value for name, value in os.environ.items() if not (name.startswith("CML_TEST_") and name.endswith("_URL"))}
    return subprocess.Popen([sys.executable, *map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)


def test_servers_that_wait_for_tests(tmp_path: Path) -> None:
    with start(LIB / "run_tests.py", "--servers-only", "--state-dir", tmp_path) as process:
        assert process.stdout
        urls = []
        for line in process.stdout:
            if line.startswith("export "):
                urls.append(sa.make_url(line.strip().partition("=")[2]))
            if line.startswith("Stop with"):
                break
        process.terminate()
    assert process.returncode == 128 + signal.SIGTERM
    assert len(urls) == 3
    for url in urls:
        with socket.socket() as probe:
            assert probe.connect_ex((url.host, url.port)), f"{url.drivername} is still there"


def test_a_campaign_with_jobs_under_way(tmp_path: Path) -> None:
    with start(LIB / "chaos.py", "campaign", "--jobs", "20", "--kind", "tokens expired", "--directory", tmp_path) as process:
        assert process.stdout
        for line in process.stdout:
            if " job" in line:
                break
        process.terminate()
    assert process.returncode == 128 + signal.SIGTERM
    assert guests.started_with(tmp_path) == []
    assert guests.processes(tmp_path / "cloud") == []
