"""What the real-cloud benchmark reads in logs."""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tools" / "lib"))

import bench_logs

JOB, OTHER = "0de67ef0-91a8-44ef-b173-fddd33ef6a4d", "23fee6ec-0000-4444-8888-fddd33ef6a4d"
USER = "df41fb601dd44a4ba456165e61c19cd9"
PROJECT = "59fb0d3f48e84ad1a821fadd6a233b51"
CONDUCTOR = f"""\
2026-01-01 10:00:01.500 7 INFO cml_nova.conductor.dispatch [None req-1 - -] Job {JOB} goes to worker host:1 in generation 1
2026-01-01 10:00:01.600 7 INFO cml_nova.conductor.dispatch [None req-1 - -] Job {OTHER} goes to worker host:1 in generation 1
no line of a log: {JOB} goes to worker
"""
WORKER = f"""\
2026-01-01 10:00:02.000 8 DEBUG cml_nova.worker.steps.provision [-] Job {JOB} asks for 2 servers of pool 0 _create provision.py:1
2026-01-01 10:00:03.000 8 DEBUG cml_nova.worker.steps.provision [-] Job {JOB} has asked for 2 servers of pool 0 _create provision.py:1
2026-01-01 10:00:09.000 8 INFO cml_nova.worker.work [-] Job {JOB} goes from PROVISIONING to BOOTSTRAPPING
2026-01-01 10:00:12.000 8 DEBUG crew [-] Job {JOB}: node 1 at 10.0.0.2 is connected; its runner was up 1.50 s after the login
2026-01-01 10:00:11.000 8 DEBUG crew [-] Job {JOB}: node 0 at 10.0.0.1 is connected; its runner was up 0.25 s after the login
"""


def test_milestones_are_found_in_all_logs_and_the_last_node_counts() -> None:
    began = datetime(2026, 1, 1, 10).timestamp()
    assert bench_logs.marks([CONDUCTOR, WORKER], JOB, began) == pytest.approx(
        {"leased": 1.5, "asks for servers": 2, "asked for servers": 3, "active": 9, "logged in": 10.75, "runner up": 12})


def test_only_the_requests_of_the_user_itself_count() -> None:
    line = f'2026-01-01 10:00:00.000 1 INFO wsgi [{{first}} req-2 {{user}} {PROJECT} - - default] 127.0.0.1 "{{what}} HTTP/1.1" status: 200'
    log = "\n".join([
        line.format(first="None", user=USER, what=f"GET /v2.1/servers/{JOB}?tags=x"),
        line.format(first="None", user=USER, what=f"GET /v2.1/servers/{OTHER}"),
        line.format(first="None", user=USER, what="POST /v2.0/ports"),
        line.format(first="req-1", user=USER, what="GET /v2.0/ports"),  # sent on by Nova
        line.format(first="None", user=PROJECT, what="GET /v2.0/ports"),
    ])
    assert bench_logs.requests(log, USER) == {"GET /v2.1/servers/{id}": 2, "POST /v2.0/ports": 1}
