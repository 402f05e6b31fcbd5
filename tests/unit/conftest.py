"""Unit tests touch nothing outside the process: real sockets and real sleeps fail the test."""

from __future__ import annotations

import socket
import time

import pytest


@pytest.fixture(autouse=True)
def _poison(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_connect(self: socket.socket, address: object) -> None:
        raise AssertionError(f"a unit test connected to {address}")

    def no_sleep(seconds: float) -> None:
        # oslo.db yields to other threads with a sleep of 0.
        assert seconds == 0, f"a unit test slept for {seconds} s"

    monkeypatch.setattr(socket.socket, "connect", no_connect)
    monkeypatch.setattr(time, "sleep", no_sleep)
