"""What is read of the machine, and of its GPUs."""

from __future__ import annotations

import os

from cml_nova.remote.runner.gpus import gpu_rows
from cml_nova.remote.runner.processes import start_ticks
from cml_nova.remote.runner.samples import cpu_times, memory


def test_nvidia_smi_is_read() -> None:
    text = "0, 35, 1024, 40960\n1, [N/A], [N/A], 40960\nFailed to initialize NVML\n"
    assert gpu_rows(text) == [
        {"index": 0, "utilization": 35.0, "memory_used": 1 << 30, "memory_total": 40 << 30},
        {"index": 1, "utilization": None, "memory_used": None, "memory_total": 40 << 30}]


def test_the_machine_is_read() -> None:
    busy, total = cpu_times()
    assert 0 < busy < total
    used, size = memory()
    assert 0 < used < size
    assert start_ticks(os.getpid()) > 0
    assert start_ticks(4_000_000) == 0
