"""Helpers that a session forks for what may block."""

import _signal as signal  # type: ignore[import-not-found]
import fcntl
import os

from cml_nova.remote.runner.errors import Refused
from cml_nova.remote.runner.files import close_fds
from cml_nova.remote.runner.processes import kill


class Child:
    """A forked helper of the session for what may block: it has one pipe for data, and one that brings its last word."""

    def __init__(self, work, sends: bool) -> None:  # type: ignore[no-untyped-def]
        read, write = os.pipe()
        word, tell = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)
            ours = write if sends else read
            text = "internal"
            try:
                close_fds((ours, tell))
                work(ours)
                text = ""
            except Refused as error:
                text = str(error)
            except BaseException as error:
                text = "%s: %s" % (type(error).__name__, error)
            finally:
                os.write(tell, text.encode("utf-8", "replace")[:4096])
                os._exit(0 if not text else 1)
        os.close(tell)
        os.close(read if not sends else write)
        self.data, self.word = (read, word) if sends else (write, word)
        self.open = True
        for fd, size in ((self.data, 1 << 20),):
            os.set_blocking(fd, False)
            try:
                fcntl.fcntl(fd, 1031, size)  # F_SETPIPE_SZ
            except OSError:
                pass  # a smaller pipe does as well

    def close_data(self) -> None:
        if self.open:
            self.open = False
            os.close(self.data)

    def end(self) -> str:
        """Wait for the end; give the error, or nothing if all went well."""
        self.close_data()
        text = os.read(self.word, 4096).decode("utf-8", "replace")
        os.close(self.word)
        _, status = os.waitpid(self.pid, 0)
        return text or ("" if status == 0 else "the helper process ended with status %d" % status)

    def abort(self) -> None:
        kill(self.pid, signal.SIGKILL)
        self.end()
