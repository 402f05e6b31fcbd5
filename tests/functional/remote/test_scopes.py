"""A service manager that does not do what it is asked for."""

from __future__ import annotations

import os
import socket
import threading
import time
from pathlib import Path

import pytest

from cml_nova.remote.runner.errors import Refused
from cml_nova.remote.runner.scopes import Scope


@pytest.mark.parametrize(("answer", "said"), [
    (b"OK 1234\r\nl\3\1\1 no such property", "no such property"), (b"REJECTED EXTERNAL\r\n", "REJECTED"), (b"", "nothing more"),
])
def test_a_refusal_of_systemd_is_said_at_once(tmp_path: Path, answer: bytes, said: str) -> None:
    requests = []
    with socket.socket(socket.AF_UNIX) as manager:
        manager.bind(str(tmp_path / "private"))
        manager.listen()

        def refuse() -> None:
            connection, _ = manager.accept()
            with connection:
                requests.append(connection.recv(1 << 16))
                connection.sendall(answer)
                if answer:
                    connection.recv(1)  # until the other side hangs up

        thread = threading.Thread(target=refuse)
        thread.start()
        began = time.monotonic()
        scope = Scope(str(tmp_path / "private"))
        for _ in range(2):
            with pytest.raises(Refused, match=said):
                scope.enter()
        thread.join()
    assert time.monotonic() - began < 10
    assert requests[0].startswith(f"\0AUTH EXTERNAL {str(os.getuid()).encode().hex()}\r\nBEGIN\r\n".encode())


def test_without_a_manager_the_refusal_says_so(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="can't be reached"):
        Scope(str(tmp_path / "private")).enter()
