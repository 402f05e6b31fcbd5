"""One call for all who ask the same at a time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from cml_nova import exception
from cml_nova.compute.shared import Shared

LIMIT = 20


class Question:
    """Counts its answers; each waits until it is let through."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.gate = threading.Semaphore(0)
        self.number = 0

    def __call__(self) -> int:
        self.number += 1
        number = self.number
        self.begun.release()
        assert self.gate.acquire(timeout=LIMIT)
        if number == 2:
            raise exception.CloudError("away", status=503)
        return number

    def until_begun(self) -> None:
        assert self.begun.acquire(timeout=LIMIT)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


class Answer(Future[int]):
    """Tells when somebody waits for it."""

    awaited = threading.Semaphore(0)

    def result(self, timeout: float | None = None) -> int:
        self.awaited.release()
        return super().result(timeout)


def test_who_comes_while_a_call_runs_shares_the_next_one(pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cml_nova.compute.shared.Future", Answer)
    question = Question()
    shared = Shared(question)
    first = pool.submit(shared)
    question.until_begun()
    late = [pool.submit(shared) for _ in range(3)]
    for _ in late[1:]:  # one of them is to make the next call
        assert Answer.awaited.acquire(timeout=LIMIT)
    question.gate.release()
    assert first.result(LIMIT) == 1
    question.until_begun()
    question.gate.release()
    errors = [future.exception(LIMIT) for future in late]
    assert {str(error) for error in errors} == {"away"}
    assert len({id(error) for error in errors}) == 3, "each thread raises its own"
    question.gate.release()
    assert shared() == 3
