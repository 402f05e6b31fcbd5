"""One call for all who ask the same at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

from cml_nova import exception
from cml_nova.compute import errors

T = TypeVar("T")


class Shared(Generic[T]):
    """Calls a function for many threads: each gets what a call has come to that began after it had asked. One call runs at a time, and all
    who come meanwhile share the next one.

    :param function: what is called.
    """

    def __init__(self, function: Callable[[], T]) -> None:
        self._function = function
        self._lock = threading.Lock()
        self._turn = threading.Lock()
        #: of the call that has not begun yet, where somebody has asked for it
        self._next: Future[T] | None = None

    def __call__(self) -> T:
        """Give the result.

        :raises CMLError: a copy of what the call has raised: each thread raises its own.
        """
        with self._lock:
            ours = self._next is None
            answer = self._next = self._next or Future()
        if ours:
            self._call(answer)
        try:
            return answer.result()
        except exception.CMLError as error:
            raise errors.again(error) from error

    def _call(self, answer: Future[T]) -> None:
        with self._turn:
            with self._lock:
                self._next = None
            try:
                answer.set_result(self._function())
            except BaseException as error:  # whatever it is: others wait for it
                answer.set_exception(error)
