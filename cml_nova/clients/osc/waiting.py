"""Waiting for the end of a job, and what is told of it meanwhile: on the standard error only."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

from cml_nova.clients.osc.base import FAILURE, TERMINAL, TIMEOUT, reattach, say
from cml_nova.clients.osc.columns import duration
from cml_nova.clients.osc.jobfile import seconds


def add_options(parser: argparse.ArgumentParser, *, wait: bool = True) -> None:
    """Add ``--wait`` and ``--timeout``.

    :param wait: False for a command that waits anyway.
    """
    if wait:
        parser.add_argument("--wait", action="store_true", help="Wait for the end of the job; the exit code tells how it ended: "
                            "0 succeeded, 1 failed, 3 --timeout is over, 4 cancelled")
    parser.add_argument("--timeout", metavar="<time>", type=seconds,
                        help="Time after which the wait is over (exit code 3) and the job goes on, such as 90s, 15m, 2h")


def wait(client: Any, job: Any, timeout: float | None) -> tuple[Any, int]:
    """Wait for the end of a job; give it as it is then, and the exit code that tells of it.

    :param timeout: seconds, or None for as long as it takes.
    """
    from openstack import exceptions

    progress = Progress(client)
    try:
        job = client.wait_for_job(job, callback=progress, timeout=timeout, interval=1)
    except exceptions.ResourceTimeout:
        progress.close()
        say(f"The job has not ended after {duration(timeout or 0)}; it goes on. `openstack ml job wait {job.id}` waits again.")
        return client.get_job(job.id), TIMEOUT
    except KeyboardInterrupt as error:
        progress.close()
        reattach(error, f"The job {job.id} goes on. `openstack ml job wait {job.id}` waits again, "
                        f"`openstack ml job cancel {job.id}` ends it.")
    progress(job)
    progress.close()
    return job, TERMINAL.get(job.status, FAILURE)


class Progress:
    """Tells what a job does: a line that is written anew on a terminal, else a line for each change."""

    def __init__(self, client: Any, now: Callable[[], float] = time.time) -> None:
        self._client, self._now = client, now
        self._terminal = sys.stderr.isatty()
        self._shown = ""

    def __call__(self, job: Any) -> None:
        line = self._line(job)
        if line == self._shown:
            return
        self._shown = line
        sys.stderr.write(f"\r\x1b[K{line}" if self._terminal else f"{line}\n")
        sys.stderr.flush()

    def close(self) -> None:
        """End the line of a terminal."""
        if self._terminal and self._shown:
            sys.stderr.write("\n")
            sys.stderr.flush()

    def _line(self, job: Any) -> str:
        if job.status in TERMINAL:
            return f"{job.name}: {job.status}" + (f": {job.status_reason}" if job.status != "SUCCEEDED" and job.status_reason else "")
        words = {"QUEUED": self._queued, "BUILDING": self._building, "RUNNING": self._running}
        text = words.get(job.status, lambda job: job.status.lower())(job)
        return f"{job.name}: {text}" + (f" (attempt {job.attempt})" if (job.attempt or 0) > 1 else "")

    def _queued(self, job: Any) -> str:
        place = f", number {job.queue_position} in the queue" if job.queue_position else ""
        return f"queued{place}" + (f": {job.status_reason}" if job.status_reason else "")

    def _building(self, job: Any) -> str:
        nodes = list(self._client.job_nodes(job))
        return f"building: {sum(node.status == 'ACTIVE' for node in nodes)} of {len(nodes)} machines are up"

    def _running(self, job: Any) -> str:
        percent = job.progress or 0
        if not percent:
            return "running"
        left = self._left(job, percent) if self._terminal else ""  # it changes with every look, and each change is a line elsewhere
        return f"running: {percent} %{left}"

    def _left(self, job: Any, percent: int) -> str:
        if not job.started_at or percent >= 100:
            return ""
        passed = self._now() - datetime.fromisoformat(job.started_at.replace("Z", "+00:00")).timestamp()
        return f", about {duration(passed * (100 - percent) / percent)} left"
