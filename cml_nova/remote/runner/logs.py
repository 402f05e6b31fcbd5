"""The log of a process as its supervisor keeps it: up to a limit, with the time of each part, also on a disk that is full for a while."""

import os
import time

from cml_nova.remote.runner.files import overwrite
from cml_nova.remote.runner.timestamps import Timestamps

#: seconds between two looks of a session at a log that grows
TICK = 0.05
LOG_RESERVE = 1 << 16  # bytes put by for the last lines of a log
REST = 4096  # bytes kept of the end of what there was no room for


class Log:
    """Takes in what a process prints, and wakes the sessions that follow it.

    :param directory: the task's.
    :param limit: bytes that are kept; what comes beyond that is a sign of life only.
    :ivar said: what there is to say of it in the task's state: ``log_truncated``, ``log_error``.
    """

    def __init__(self, directory: str, limit: int) -> None:
        self.limit = limit
        self.fd = os.open(os.path.join(directory, "log"), os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.times = Timestamps(os.path.join(directory, "times"))
        wake = os.path.join(directory, "wake")
        if not os.path.exists(wake):
            os.mkfifo(wake, 0o600)
        self.wake = os.open(wake, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self.reserve = os.path.join(directory, "reserve.log")
        self.said: dict = {}
        self.full = False
        self.size = self.unkept = 0
        self.rest = b""  # the end of what could not be kept
        self.woke = 0.0

    def put_by(self) -> None:
        """Take the room for the last lines."""
        overwrite(self.reserve, b"", LOG_RESERVE)

    def keep(self, data: bytes) -> None:
        """Take in output: the log gets it up to its limit. The process goes on unharmed beyond that, and while the disk is full."""
        now = time.monotonic()
        if not self.full:
            self.times.note(self.fd, now)
            self.append(data)
        elif now - self.woke >= 1:
            os.utime(self.fd)  # that it still prints is a sign of life
        if now - self.woke >= (1 if self.full else TICK / 2):
            self.woke = now
            try:
                os.write(self.wake, b".")
            except BlockingIOError:
                pass  # nobody has listened for a long time

    def append(self, data: bytes) -> None:
        """Write to the log what its limit allows, and before it how much the disk had no room for; or count what it has none for now."""
        room = self.limit - self.size
        note = lost = b""
        if len(data) > room:
            self.full = True
            data, note = data[:room], b"\ncml: the log has reached its limit of %d bytes; the rest is not kept\n" % self.limit
        if self.unkept:
            lost = b"\ncml: %d bytes of output are missing here: %s\n" % (self.unkept, self.said["log_error"].encode())
        whole, done = lost + data + note, 0
        try:
            while done < len(whole):
                done += os.write(self.fd, memoryview(whole)[done:])
            self.unkept, self.rest = 0, b""
        except OSError as error:
            self.said["log_error"] = str(error)
            missing = data[max(0, done - len(lost)):]
            self.unkept, self.rest = self.unkept + len(missing), (self.rest + missing)[-REST:]
            os.utime(self.fd)
        self.size += len(data)
        self.said["log_truncated"] = self.full or "log_error" in self.said

    def keep_the_rest(self) -> None:
        """Where the disk is full to the end, give up what was put by for the last lines: they say why the process failed."""
        os.unlink(self.reserve)
        if self.unkept:
            rest, self.unkept = self.rest, self.unkept - len(self.rest)
            self.append(rest)
