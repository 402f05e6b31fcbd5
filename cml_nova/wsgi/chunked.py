"""Request bodies of unknown length (``Transfer-Encoding: chunked``) under uWSGI.

WSGI knows no way to tell an application that a body without a length has an end. Other servers decode such bodies and set
``wsgi.input_terminated``; uWSGI 2.0 gives an empty ``wsgi.input`` and a function of its own to read the chunks with.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

from werkzeug.exceptions import ClientDisconnected


class ChunkedInput(io.RawIOBase):
    """The decoded body as a stream.

    :param read_chunk: gives the next chunk, b"" after the last one; raises OSError when the client is gone or sends nonsense.
    :raises ClientDisconnected: (when read) it did, which is the client's fault.
    """

    def __init__(self, read_chunk: Callable[[], bytes]) -> None:
        self._read_chunk = read_chunk
        self._rest = memoryview(b"")
        self._ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._rest and not self._ended:
            try:
                self._rest = memoryview(self._read_chunk())
            except OSError as error:
                raise ClientDisconnected("The body ended early, or a piece of it is larger than this server takes.") from error
            self._ended = not self._rest
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size


def decode_chunks(app: Any, read_chunk: Callable[[], bytes]) -> Any:
    """Wrap a WSGI application so that it sees the body of chunked requests."""

    def decoded(environ: dict[str, Any], start_response: Any) -> Any:
        if environ.get("HTTP_TRANSFER_ENCODING", "").lower() == "chunked":
            environ["wsgi.input"] = io.BufferedReader(ChunkedInput(read_chunk), 1 << 20)
            environ["wsgi.input_terminated"] = True
        return app(environ, start_response)

    return decoded
