"""Streams of files, to and from children of the session."""

import os
import select

from cml_nova.remote.runner.child import Child
from cml_nova.remote.runner.files import PIECE
from cml_nova.remote.runner.framing import FRAME_COST, Connection


class Upload:
    """Takes pieces in and feeds them to a child.

    :param work: what the child does: it gets the descriptor to read from.
    """

    def __init__(self, connection: Connection, number: int, work) -> None:  # type: ignore[no-untyped-def]
        self.connection, self.number = connection, number
        self.buffer, self.complete = bytearray(), False
        self.child = Child(work, sends=False)

    def fds(self) -> dict:
        found = {self.child.word: select.POLLIN}
        if self.buffer and self.child.open:
            found[self.child.data] = select.POLLOUT
        return found

    def piece(self, header: dict, body: bytes) -> None:
        if header.get("end"):
            self.complete = True
        self.buffer += body
        self.feed()

    def feed(self) -> None:
        try:
            while self.buffer and self.child.open:
                del self.buffer[:os.write(self.child.data, memoryview(self.buffer)[:PIECE].tobytes())]
        except BlockingIOError:
            return
        except BrokenPipeError:
            self.child.close_data()
        if not self.child.open:
            self.buffer.clear()
        elif self.complete:
            self.child.close_data()

    def ready(self, fd: int) -> None:
        if fd == self.child.word:
            self.connection.answer(self.number, self.child.end())
        else:
            self.feed()

    def cancel(self) -> None:
        """Let the child see that the files break off, and remove what it has."""
        self.child.end()


class Fetch:
    """Sends what a child writes, as far as the receiver's window goes.

    :param window: bytes that may be sent unasked.
    :param work: what the child does: it gets the descriptor to write to.
    """

    def __init__(self, connection: Connection, number: int, window: int, work) -> None:  # type: ignore[no-untyped-def]
        self.connection, self.number, self.credit = connection, number, window
        self.child = Child(work, sends=True)

    def fds(self) -> dict:
        return {self.child.data: select.POLLIN} if self.credit > FRAME_COST and self.connection.relaxed() else {}

    def ready(self, fd: int) -> None:
        data = os.read(fd, min(PIECE, self.credit - FRAME_COST))
        if data:
            self.credit -= FRAME_COST + len(data)
            self.connection.send({"id": self.number, "data": True}, data)
        else:
            self.connection.answer(self.number, self.child.end())

    def cancel(self) -> None:
        self.child.abort()
