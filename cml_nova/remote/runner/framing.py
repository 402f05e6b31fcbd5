"""The frames that go over the SSH channel: two big-endian 32-bit lengths, a JSON object, raw bytes."""

import os
import struct
import time

from cml_nova.remote.runner.files import PIECE
from cml_nova.remote.runner.serialization import from_json, to_json

PROTOCOL = 1
MAGIC = b"\x00CML-RUNNER\x01\n"
MAX_HEADER = 1 << 20
MAX_BODY = 1 << 20
FRAME_COST = 1024  # what a frame of a stream costs beside its body, in bytes of the receiver's window
HEARTBEAT = 5.0  # seconds between signs of life


class Connection:
    """A session's end of the channel: standard input and output, which never block.

    :ivar streams: number of a request -> what sends or takes more than one frame for it: an Upload, Fetch or Follow.
    :ivar stuck: since when nobody has taken our output, by the monotonic clock.
    """

    def __init__(self) -> None:
        self.input, self.output = bytearray(), bytearray(MAGIC)
        self.streams: dict = {}
        self.stuck = time.monotonic()

    def send(self, header: dict, body: bytes = b"") -> None:
        head = to_json(header).encode()
        if not self.output:
            self.stuck = time.monotonic()
        self.output += struct.pack(">II", len(head), len(body)) + head + body

    def answer(self, number: int, error: str = "", **result: object) -> None:
        """Send the last frame of a request."""
        self.streams.pop(number, None)
        self.send({"id": number, "error": error} if error else {"id": number, "result": result})

    def relaxed(self) -> bool:
        """Tell whether the output has room for more of a stream."""
        return len(self.output) < 4 * PIECE

    def flush(self) -> None:
        try:
            del self.output[:os.write(1, memoryview(self.output)[:PIECE].tobytes())]
            self.stuck = time.monotonic()
        except BlockingIOError:
            pass

    def take(self, handle) -> bool:  # type: ignore[no-untyped-def]
        """Read what has come, and call ``handle(header, body)`` for each whole frame; False at the end of the input."""
        try:
            data = os.read(0, 1 << 16)
        except BlockingIOError:
            return True
        self.input += data
        while len(self.input) >= 8:
            head, body = struct.unpack(">II", self.input[:8])
            if head > MAX_HEADER or body > MAX_BODY:
                raise SystemExit("a frame is too large")
            if len(self.input) < 8 + head + body:
                break
            header = from_json(self.input[8:8 + head].decode())
            payload = bytes(self.input[8 + head:8 + head + body])
            del self.input[:8 + head + body]
            handle(header, payload)
        return bool(data)
