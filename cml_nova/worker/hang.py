"""Tells when an attempt hangs, from what its nodes say of how long its processes have given no sign of life. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from cml_nova.remote.protocol import Idle

#: longest and shortest time, in seconds, between what a node says of that
_INTERVAL_MAX, _INTERVAL_MIN = 5.0, 0.5


@dataclass(frozen=True)
class Hang:
    """An attempt that hangs.

    :ivar task: the one that hangs alone, or the last one that was heard of.
    :ivar seconds: since it was.
    :ivar alone: the others may go on; it has a heartbeat that stands still.
    """

    task: str
    seconds: float
    alone: bool

    def __str__(self) -> str:
        if self.alone:
            return f"Task {self.task} hangs: for {self.seconds:.0f} s it has neither printed a line nor touched its heartbeat file"
        return (f"The job hangs: for {self.seconds:.0f} s no process has printed a line or touched its heartbeat file; "
                f"the last one was {self.task}")


def interval(hang_timeout: float) -> float:
    """Give the seconds between two words of a node on the silence of its processes."""
    return min(_INTERVAL_MAX, max(_INTERVAL_MIN, hang_timeout / 4))


def find_hang(running: Collection[str], known: Mapping[str, Idle], hang_timeout: float) -> Hang | None:
    """Tell whether the attempt hangs.

    :param running: the tasks whose processes run.
    :param known: what is known of them; nothing of those whose nodes do not answer.
    :param hang_timeout: seconds.
    """
    silent = {task: idle.seconds for task, idle in known.items() if task in running and idle.seconds >= hang_timeout}
    for task, seconds in silent.items():
        if known[task].beats:
            return Hang(task, seconds, alone=True)
    if running and len(silent) == len(running):
        last = min(silent, key=lambda task: silent[task])
        return Hang(last, silent[last], alone=False)
    return None
