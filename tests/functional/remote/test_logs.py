"""Logs and samples of a node: exact over a bad path, with their times, within a limit."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from cml_nova import exception
from cml_nova.remote.login import Access
from cml_nova.remote.machine import Leave, Machine, Options
from tests.functional.remote.nodes import Record, Server, run, spec
from tests.harness.waiting import until


@pytest.mark.fault("ssh-cut")
def test_a_log_is_exact_over_a_connection_that_is_cut_again_and_again(machine: Machine, server: Server) -> None:
    lines = 10_000
    machine.start(spec(f"i=0; while [ $i -lt {lines} ]; do echo line $i; i=$((i+1)); [ $((i % 500)) -eq 0 ] && sleep 0.1; done; true"))
    record = Record()
    cuts, deadline = 0, time.monotonic() + 60
    finished = threading.Event()

    def cutter() -> None:
        while not finished.wait(0.25):
            server.cut(machine.access.address)

    thread = threading.Thread(target=cutter)
    thread.start()
    try:
        while True:
            try:
                machine.connect(10)
                record.follow(machine)
                break
            except exception.RemoteError:
                cuts += 1
                assert time.monotonic() < deadline
                time.sleep(0.05)
    finally:
        finished.set()
        thread.join()
    assert record.text() == "".join(f"line {i}\n" for i in range(lines))
    assert cuts >= 3
    assert (record.states[-1].state, record.states[-1].exit_code) == ("EXITED", 0)


def test_what_was_printed_while_nobody_was_there_has_its_own_times(machine: Machine) -> None:
    began = time.time()
    machine.start(spec("echo one; sleep 1; echo two"))
    until(lambda: machine.processes()[0].ended, 20, "the end of the process")
    record = Record()
    record.follow(machine)
    [(first, one), (second, two)] = record.times[1, "worker:0"]
    assert (first, second) == (0, 4)
    assert began <= one <= two - 1 <= time.time() - 1


@pytest.mark.fault("log-limit")
def test_a_log_has_a_limit_that_does_not_hurt_the_process(server: Server, access: Access) -> None:
    machine = Machine(access, options=Options(max_log_bytes=10_000))
    machine.connect(10)
    state, text = run(machine, "i=0; while [ $i -lt 20000 ]; do echo 0123456789; i=$((i+1)); done; exit 5")
    assert (state.exit_code, state.log_truncated) == (5, True)
    assert text[:10_000] == ("0123456789\n" * 1000)[:10_000]
    assert "limit of 10000 bytes" in text[10_000:]
    assert len(text) < 10_200
    machine.close()


def test_samples_come_while_following(access: Access) -> None:
    machine = Machine(access, options=Options(sample_interval=0.2))
    machine.connect(10)
    machine.start(spec("sleep 600"))
    samples: list[dict[str, Any]] = []
    stop = Leave()

    def on_sample(sample: dict[str, Any]) -> None:
        samples.append(sample)
        if len(samples) == 2:
            stop.set()

    machine.follow({}, lambda *_: None, lambda _: None, stop, on_sample)
    machine.stop(1, 0)
    machine.close()
    assert all(0 <= sample["cpu_percent"] <= 100 and 0 < sample["memory_used"] < sample["memory_total"] for sample in samples)
