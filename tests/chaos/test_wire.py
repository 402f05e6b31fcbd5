"""The wire between daemons and a server, which a campaign cuts, slows down and mends."""

from __future__ import annotations

import socket
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools" / "lib"))

from chaos_wire import Wire


def test_a_wire_is_cut_mended_and_its_connections_are_reset() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, Wire(server.getsockname()[1]) as wire:
        with socket.create_connection(("127.0.0.1", wire.port), 5) as near:
            far, _ = server.accept()
            far.settimeout(5)
            near.sendall(b"one")
            assert far.recv(10) == b"one"
            wire.cut()
            near.sendall(b"two")
            far.settimeout(0.2)
            with pytest.raises(TimeoutError):
                far.recv(10)
            wire.mend()
            far.settimeout(5)
            assert far.recv(10) == b"two"
            wire.break_connections()
            near.settimeout(5)
            with pytest.raises(ConnectionResetError):
                near.recv(10)
            far.close()


def test_on_a_slow_wire_each_piece_takes_its_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, Wire(server.getsockname()[1]) as wire:
        with socket.create_connection(("127.0.0.1", wire.port), 5) as near:
            far, _ = server.accept()
            far.settimeout(5)
            wire.slow(0.3)
            for _ in range(2):
                began = time.monotonic()
                near.sendall(b"piece")
                assert far.recv(10) == b"piece"
                assert time.monotonic() - began >= 0.3
            far.close()
