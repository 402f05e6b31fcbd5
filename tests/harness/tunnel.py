"""A tunnel as a program uses it that knows nothing but the API: websocket-client, and sockets."""

from __future__ import annotations

import json
from typing import Any

import websocket


class Refused(Exception):
    """There was no tunnel; says why."""


class Tunnel:
    """An open tunnel.

    :param told: what the API has answered.
    :param url: of another worker than the API names.
    :raises Refused: there is none.
    :raises WebSocketBadStatusException: the token was refused.
    """

    def __init__(self, told: dict[str, Any], url: str | None = None, token: str | None = None) -> None:
        #: why it is over: code and reason of the websocket's close
        self.word: tuple[int, str] | None = None
        header = [f"Authorization: Bearer {token or told['token']}"]
        self._socket = websocket.create_connection(url or told["url"], timeout=60, header=header)
        first = json.loads(self._socket.recv())
        if "error" in first:
            self.read()
            raise Refused(first["error"])

    def send(self, data: bytes) -> None:
        self._socket.send_binary(data)

    def end(self) -> None:
        """Send no more."""
        self._socket.send("eof")

    def read(self) -> bytes:
        """Give the next piece; b"" at the end."""
        opcode, data = self._socket.recv_data()
        if opcode == websocket.ABNF.OPCODE_CLOSE:
            self.word = int.from_bytes(data[:2], "big"), data[2:].decode()
            self._socket.shutdown()
            return b""
        return data if opcode == websocket.ABNF.OPCODE_BINARY else b""

    def read_all(self) -> bytes:
        """Give everything until the end."""
        return b"".join(iter(self.read, b""))

    def farewell(self) -> tuple[int, str]:
        """Wait for the end, whatever comes before; give its code and reason."""
        while self.word is None:
            self.read()
        return self.word

    def close(self) -> None:
        self._socket.close()
