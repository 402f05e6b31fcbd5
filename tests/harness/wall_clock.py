"""Wall clocks of daemons that are wrong, from their start on or all of a sudden."""

from __future__ import annotations

import os
from pathlib import Path

from tests.harness.process import Daemon

#: is imported by every Python that starts, before anything else could take hold of the right clock
_SITE = '''import time

_right = time.time


def _wrong():
    with open({control!r}) as seconds:
        return _right() + float(seconds.read())


time.time = _wrong
'''


class WallClock:
    """What ``time.time()`` tells a daemon. Nothing else is changed: not the monotonic clock, and not the time stamps of files.

    :param directory: its own, where what makes the clock wrong is kept.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._control = directory / "seconds"
        self.set(0)
        (directory / "sitecustomize.py").write_text(_SITE.format(control=str(self._control)))

    def set(self, seconds: float) -> None:
        """Let it be wrong by so many seconds from now on; it is ahead if they are more than 0."""
        self._control.with_suffix(".new").write_text(str(seconds))
        self._control.with_suffix(".new").replace(self._control)

    def give_to(self, daemon: Daemon) -> None:
        """Let a daemon go by it from its next start on."""
        daemon.env["PYTHONPATH"] = os.pathsep.join([str(self._directory), *filter(None, [daemon.env.get("PYTHONPATH")])])
