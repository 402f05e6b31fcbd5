"""Threads that come and go with the work."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError

import pytest

from cml_nova.worker.threads import Threads


def named(name: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == name]


def test_no_thread_stays_when_there_is_nothing_to_do() -> None:
    threads = Threads(4, "of-nothing")
    futures = [threads.submit(pow, 2, n) for n in range(20)]
    assert [future.result(5) for future in futures] == [2**n for n in range(20)]
    for thread in named("of-nothing"):
        thread.join(5)
    assert not named("of-nothing")
    assert threads.submit(pow, 2, 3).result(5) == 8


def test_no_more_run_at_a_time_than_allowed() -> None:
    threads, go_on, begun = Threads(2, "of-two"), threading.Event(), threading.Semaphore(0)

    def wait() -> bool:
        begun.release()
        return go_on.wait(5)

    futures = [threads.submit(wait) for _ in range(5)]
    assert begun.acquire(timeout=5) and begun.acquire(timeout=5)
    assert not begun.acquire(blocking=False)
    assert len(named("of-two")) == 2
    go_on.set()
    assert all(future.result(5) for future in futures)


def test_an_error_is_the_callers() -> None:
    future = Threads(1, "of-errors").submit(int, "x")
    with pytest.raises(ValueError, match="invalid literal"):
        future.result(5)


def test_after_its_end_nothing_begins_and_what_runs_goes_on() -> None:
    threads, go_on, begun = Threads(1, "of-ends"), threading.Event(), threading.Event()

    def wait() -> str:
        begun.set()
        assert go_on.wait(5)
        return "done"

    running, waiting = threads.submit(wait), threads.submit(wait)
    assert begun.wait(5)
    threads.close()
    late = threads.submit(wait)
    go_on.set()
    assert running.result(5) == "done"
    for future in (waiting, late):
        with pytest.raises(CancelledError):
            future.result(5)
