"""When the parts of a log came: beside it, a file of records (offset in the log, ms by the monotonic clock) in ascending order."""

import os
import struct
import time

FORM = ">QQ"
SIZE = struct.calcsize(FORM)
MOMENT = 0.1  # seconds of output that share a record
MOST_TIMES = 64  # in a frame


class Timestamps:
    """Writes a log's file of times."""

    def __init__(self, path: str) -> None:
        self.fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.count, self.offset, self.at = 0, -1, 0.0

    def note(self, log: int, now: float) -> None:
        """Put down when the log gets what comes now, before it does: who reads that finds its time.

        :param log: its descriptor.
        :param now: by the monotonic clock.
        """
        if self.count and now - self.at < MOMENT:
            return
        offset = os.fstat(log).st_size
        number = self.count - (offset == self.offset)  # nothing came of what was to come then
        try:
            # Its number is its place: one that the disk has no room for, or only in part, is written over by the next.
            if os.pwrite(self.fd, struct.pack(FORM, offset, int(now * 1000)), SIZE * number) == SIZE:
                self.at, self.offset, self.count = now, offset, number + 1
        except OSError:
            pass  # what comes without a time of its own has that of what came before


def ages(path: str, start: int, end: int) -> "list | None":
    """Give [offset, age in seconds] of the moments in which a part of a log came: from that offset on it is so old. At most
    MOST_TIMES and one more; None if they are not known.

    A clock that nobody can set counts from the machine's start: what is older than that seems to be younger.

    :param path: of the file of times.
    """
    try:
        with open(path, "rb", 0) as file:
            fd = file.fileno()
            low, high = 0, os.fstat(fd).st_size // SIZE
            while low < high:
                middle = (low + high) // 2
                if struct.unpack(FORM, os.pread(fd, SIZE, SIZE * middle))[0] < start:
                    low = middle + 1
                else:
                    high = middle
            found = os.pread(fd, SIZE * (MOST_TIMES + 1), SIZE * low)
    except (OSError, struct.error):
        return None
    now = time.monotonic()
    times: list = []
    for offset, at in struct.iter_unpack(FORM, found[:len(found) // SIZE * SIZE]):
        if (times[-1][0] + 1 if times else start) <= offset < end:
            times.append([offset, round(max(0.0, now - at / 1000), 3)])
    return times
