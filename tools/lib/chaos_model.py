"""Proves, rule by rule, that a job's row is never one that it may not be, whatever workers, users, bus and clock do in whatever order.

``tools/chaos model`` plays the model of tests/harness/job_model/ against the real conductor and SQLite, from one seed after the other.
What it finds it makes as short as it can, and prints. Exit status 1 if there was anything.
"""

from __future__ import annotations

import argparse
import logging
import random
import tempfile
import time
from pathlib import Path

import bootstrap
import hypothesis
from hypothesis.stateful import run_state_machine_as_test

from tests.harness.job_model.life import JobLife
from tests.harness.job_model.site import Site

#: runs from one seed, and the longest of them
_RUNS, _STEPS = 25, 60


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the command's options."""
    command = commands.add_parser("model", help="the life of jobs, played against the conductor by a model", description=__doc__,
                                  formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("--seed", type=int, default=random.randrange(10**6), help="the first seed; by default a new one, which is printed")
    command.add_argument("--seconds", type=float, default=60, metavar="S",
                         help="begin with no more seeds after this time; %(default)s by default")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command; give the exit status."""
    logging.disable(logging.ERROR)  # of the conductor, which is meant to have trouble
    began, seed = time.monotonic(), options.seed
    limits = hypothesis.settings(database=None, deadline=None, max_examples=_RUNS, stateful_step_count=_STEPS,
                                 suppress_health_check=list(hypothesis.HealthCheck))
    with tempfile.TemporaryDirectory() as directory:
        site = Site(Path(directory))
        try:
            while time.monotonic() - began < options.seconds:
                bootstrap.say(f"seed {seed}: {_RUNS} runs of up to {_STEPS} steps")
                run_state_machine_as_test(hypothesis.seed(seed)(type("Life", (JobLife,), {"site": site})), settings=limits)
                seed += 1
        finally:
            site.close()
    bootstrap.say(f"{seed - options.seed} seeds, {time.monotonic() - began:.0f} s: nothing was wrong")
    return 0
