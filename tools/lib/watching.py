"""Shows a job while it runs: a line for each change, the logs of all tasks, and a bar that moves."""

from __future__ import annotations

import codecs
import json
import shutil
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from keystoneauth1 import adapter
from keystoneauth1 import exceptions as ks_exceptions

Job = dict[str, Any]

_METRIC = "CML_METRIC "
_SHOWN = ("loss", "test_accuracy")  # the metrics that the bar has room for
_LOG_WAIT = 5  # seconds that the service may hold a log request back


class Screen:
    """Prints lines; on a terminal with a bar below them, elsewhere with a line at every tenth of the progress."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._terminal = sys.stdout.isatty()
        self._began = time.monotonic()
        self._bar = ""
        self._tenth = 0

    def line(self, text: str) -> None:
        """Print one line; thread-safe."""
        with self._lock:
            if self._bar:
                sys.stdout.write("\r\033[K")
            sys.stdout.write(text + "\n" + self._bar)
            sys.stdout.flush()

    def progress(self, status: str, percent: int, values: dict[str, float]) -> None:
        """Show how far a job is.

        :param values: the newest value of each metric.
        """
        numbers = "  ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in values.items())
        if not self._terminal:
            if percent // 10 > self._tenth:
                self._tenth = percent // 10
                self.line(f"  progress {percent} %  {numbers}")
            return
        width = 20
        bar = "#" * (width * percent // 100)
        text = f"[{bar:{width}}] {percent:3d} %  {time.monotonic() - self._began:4.0f} s  {status}  {numbers}"
        with self._lock:
            self._bar = text[: shutil.get_terminal_size().columns - 1]
            sys.stdout.write("\r\033[K" + self._bar)
            sys.stdout.flush()

    def clear(self) -> None:
        """Take the bar away."""
        with self._lock:
            if self._bar:
                sys.stdout.write("\r\033[K")
                sys.stdout.flush()
            self._bar = ""


class Watch:
    """Follows one job.

    :param api: of the service, with the user's session.
    """

    def __init__(self, api: adapter.Adapter, job_id: str, screen: Screen) -> None:
        self._api = api
        self._job_id = job_id
        self._screen = screen
        self._values: dict[str, float] = {}
        self._followers: dict[tuple[str, int], threading.Thread] = {}
        self._done = threading.Event()

    def run(self, check: Callable[[], None], seconds: float | None = None) -> Job:
        """Show the job until nothing is left of it in the cloud; give it as it is then.

        :param check: is called now and then, and raises when there is no sense in going on.
        :raises TimeoutError: that took longer than ``seconds``.
        """
        shown = None
        deadline = time.monotonic() + seconds if seconds else None
        while True:
            check()
            job: Job = self._api.get(f"/v1/jobs/{self._job_id}").json()["job"]
            self._follow()
            reason = (job["status_reason"] or "").partition("\n")[0]
            if (job["status"], reason) != shown:
                shown = job["status"], reason
                self._screen.line(f"-- {job['status']}" + (f": {reason}" if reason else ""))
            self._screen.progress(job["status"], job["progress"], dict(self._values))
            if job["phase"] == "DONE":
                self._finish()
                return job
            if deadline and time.monotonic() > deadline:
                raise TimeoutError(f"The job is still {job['status']} after {seconds:.0f} s: {job['status_reason']}")
            time.sleep(0.2)

    def _follow(self) -> None:
        """Start a thread for the log of each process that has no one yet."""
        for node in self._api.get(f"/v1/jobs/{self._job_id}/nodes").json()["nodes"]:
            for task in node["tasks"]:
                key = (task["name"], task["attempt"])
                if key not in self._followers and task["attempt"] > 0:
                    self._followers[key] = threading.Thread(target=self._follow_log, args=key, daemon=True)
                    self._followers[key].start()

    def _finish(self) -> None:
        """Let the followers read the logs to their ends."""
        self._follow()
        self._done.set()
        for thread in self._followers.values():
            thread.join(timeout=30)
        self._screen.clear()

    def _follow_log(self, task: str, attempt: int) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        offset, begun, ended = 0, "", False
        while not ended:
            last_time = self._done.is_set()
            try:
                answer = self._api.get(f"/v1/jobs/{self._job_id}/log", headers={"Accept": "text/plain"}, params={
                    "task": task, "attempt": attempt, "offset": offset, "wait": 0 if last_time else _LOG_WAIT})
            except ks_exceptions.ClientException as error:
                self._screen.line(f"{task:11} | (the log can't be read: {error})")
                return
            moved, offset = offset, int(answer.headers["X-Log-Next-Offset"])
            ended = answer.headers["X-Log-Eof"] == "true" or (last_time and moved == offset)
            *lines, begun = (begun + decoder.decode(answer.content, final=ended)).split("\n")
            for line in lines:
                self._show(task, line)
        if begun:
            self._show(task, begun)

    def _show(self, task: str, line: str) -> None:
        """Print a line of a log; a metric goes to the bar instead."""
        if not line.startswith(_METRIC):
            self._screen.line(f"{task:11} | {line}")
            return
        metric = json.loads(line[len(_METRIC):])  # the example's own lines, so they are as they should be
        if metric["name"] in _SHOWN:
            self._values[metric["name"]] = metric["value"]
