"""Samples of the machine's use: processor, memory, GPUs."""

import _signal as signal  # type: ignore[import-not-found]
import os
import time

from cml_nova.remote.runner.child import Child
from cml_nova.remote.runner.files import read_text
from cml_nova.remote.runner.gpus import QUERY, TOOL, gpu_rows, has_gpu_tool


def cpu_times() -> tuple:
    """Give (busy, all) processor time of the machine so far, in ticks."""
    fields = [int(word) for word in read_text("/proc/stat").split("\n", 1)[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4], sum(fields)) if len(fields) > 4 else (0, 0)


def memory() -> tuple:
    """Give (used, total) memory of the machine in bytes."""
    found = {}
    for line in read_text("/proc/meminfo").splitlines():
        key, _, rest = line.partition(":")
        found[key] = int(rest.split()[0]) * 1024
    total = found.get("MemTotal", 0)
    return total - found.get("MemAvailable", total), total


class Sampler:
    """Takes one sample at a time.

    :ivar begun: when the last one was begun, by the monotonic clock.
    :ivar child: asks for the GPUs, which may take long; None while nobody is asked.
    """

    def __init__(self) -> None:
        self.begun, self.cpu = 0.0, cpu_times()
        self.child: "Child | None" = None
        self.table = ""

    def begin(self, now: float, root: str) -> "dict | None":
        """Begin a sample. Give it if it is complete: nobody has to be asked; and it is not the first one, with nothing to compare it to."""
        first, self.begun = not self.begun, now
        if first:
            self.cpu = cpu_times()
            return None
        if not has_gpu_tool():
            return self.sample([])
        self.table = os.path.join(root, ".gpu")
        self.child = Child(self.ask, sends=True)
        return None

    def ask(self, _: int) -> None:
        """Become the driver's tool; in the child."""
        fd = os.open(self.table, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(fd, 1)
        signal.alarm(8)
        os.execvp(TOOL, QUERY)

    def end(self) -> dict:
        """Give the sample that the child was asked for."""
        if self.child:
            self.child.end()
            self.child = None
        return self.sample(gpu_rows(read_text(self.table)))

    def sample(self, gpus: list) -> dict:
        busy, total = cpu_times()
        share = (busy - self.cpu[0]) / max(1, total - self.cpu[1])
        self.cpu = busy, total
        used, size = memory()
        return {"at": time.time(), "cpu_percent": round(100 * share, 1), "memory_used": used, "memory_total": size, "gpus": gpus}
