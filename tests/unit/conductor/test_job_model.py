"""The conductor keeps its word whatever happens to jobs, and in whatever order: see tests/harness/job_model/."""

from __future__ import annotations

from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.harness.job_model.life import JobLife
from tests.harness.job_model.site import Site

#: the same runs each time; `tools/chaos model` makes others
SETTINGS = settings(derandomize=True, database=None, deadline=None, max_examples=40, stateful_step_count=25,
                    suppress_health_check=list(HealthCheck))


def test_life_of_jobs(tmp_path: Path) -> None:
    site = Site(tmp_path)
    try:
        run_state_machine_as_test(type("Life", (JobLife,), {"site": site}), settings=SETTINGS)
    finally:
        site.close()
