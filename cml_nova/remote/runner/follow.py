"""What a worker sees of running processes: their logs, their states, how long they have been silent."""

import os
import select
import time

from cml_nova.remote.runner.files import PIECE, modified
from cml_nova.remote.runner.framing import FRAME_COST, Connection
from cml_nova.remote.runner.logs import TICK
from cml_nova.remote.runner.processes import age
from cml_nova.remote.runner.tasks import ENDED, Task, attempts, tasks_of
from cml_nova.remote.runner.timestamps import MOST_TIMES, ages

IDLE_TICK = 0.5  # most seconds between two looks at logs that do not grow


class Follow:
    """Sends logs and states as they come. A state that ends a process goes out after all of its log.

    :param offsets: (attempt, task) -> bytes of its log that the worker has.
    :param window: bytes that may be sent unasked.
    :param idle_interval: seconds between two words of how long processes have been silent; 0 for none.
    """

    def __init__(self, connection: Connection, number: int, root: str, offsets: dict, window: int, idle_interval: float) -> None:
        self.connection, self.number, self.root, self.offsets, self.credit = connection, number, root, offsets, window
        self.idle_interval, self.told_idle = idle_interval, time.monotonic()
        self.signs: dict = {}  # task key -> times of its signs of life by the node's clock, and since when they have stood, by our own
        self.sent: dict = {}
        self.cache: dict = {}
        self.wakes: dict = {}  # descriptor -> task key: readable when the log has grown, hung up when the supervisor is gone
        self.next, self.pause = 0.0, TICK
        self.samples = False

    def fds(self) -> dict:
        return {fd: select.POLLIN for fd in self.wakes} if self.next - time.monotonic() > TICK or self.pause > TICK else {}

    def ready(self, fd: int) -> None:
        try:
            if not os.read(fd, 4096):  # hung up
                self.cache.pop(self.wakes.pop(fd), None)
                os.close(fd)
        except BlockingIOError:
            pass
        self.pause = TICK
        self.tick()

    def cancel(self) -> None:
        for fd in self.wakes:
            os.close(fd)

    def tasks(self) -> list:
        newest = attempts(self.root)[-1:]
        named = [Task(self.root, attempt, name) for attempt, name in self.offsets if [attempt] != newest]
        return [task for task in named if os.path.isdir(task.path)] + (tasks_of(self.root, newest[0]) if newest else [])

    def state_of(self, task: Task) -> "dict | None":
        """Give a task's state; the lock of a running one is looked at once a second only."""
        key = (task.attempt, task.name)
        try:
            status = os.stat(task.file("state.json"))
        except FileNotFoundError:
            return None
        version = (status.st_ino, status.st_mtime_ns)
        known = self.cache.get(key)
        if not known or known[0] != version or time.monotonic() - known[1] > 1:
            known = self.cache[key] = (version, time.monotonic(), task.state())
            if known[2] and known[2]["state"] == "RUNNING" and key not in self.wakes.values():
                try:
                    self.wakes[os.open(task.file("wake"), os.O_RDONLY | os.O_NONBLOCK)] = key
                except OSError:
                    pass  # the look at every tick does as well
        return known[2]

    def tick(self) -> None:
        moved, done = False, True
        for task in self.tasks():
            key = (task.attempt, task.name)
            state = self.state_of(task)  # before the log: what an ended process wrote is all there
            moved |= self.send_log(task, key)
            if state is None:
                done = False
                continue
            ended = state["state"] in ENDED
            summary = (state["state"], state["pid"])
            if self.sent.get(key) != summary and not (ended and self.offsets.get(key, 0) < task.log_size()):
                if self.credit > FRAME_COST:
                    self.credit -= FRAME_COST
                    self.sent[key] = summary
                    self.connection.send({"id": self.number, "state": dict(state, log_size=task.log_size())})
                    moved = True
            done = done and ended and self.sent.get(key) == summary
        if done:
            self.cancel()
            self.connection.answer(self.number, "")
        elif self.idle_interval and time.monotonic() - self.told_idle >= self.idle_interval and self.credit > FRAME_COST:
            self.tell_idle()
        self.pause = TICK if moved else min(self.pause * 1.5, IDLE_TICK)
        self.next = time.monotonic() + self.pause

    def tell_idle(self) -> None:
        """Say for how long running processes have given no sign of life, and which of them have a heartbeat."""
        self.told_idle = time.monotonic()
        running = [task for task in self.tasks() if (self.state_of(task) or {}).get("state") == "RUNNING"]
        self.credit -= FRAME_COST
        self.connection.send({"id": self.number, "idle": [[task.attempt, task.name, *self.idle(task)] for task in running]})

    def idle(self, task: Task) -> tuple:
        """Give seconds since a process last wrote a line or touched its heartbeat file, and whether it ever did the latter.

        The node's clock may be set at any time, so it is asked once a session only, for what was before.
        """
        now, key = time.monotonic(), (task.attempt, task.name)
        signs = modified(task.file("log")), modified(task.file("heartbeat"))
        known = self.signs.get(key)
        if known is None or known[0] != signs:
            before = 0.0 if known else min(max(0.0, time.time() - max(signs) / 1e9), age((task.saved() or {}).get("supervisor", 0)))
            known = self.signs[key] = (signs, now - before)
        return round(now - known[1], 1), signs[1] > 0

    def send_log(self, task: Task, key: tuple) -> bool:
        offset = self.offsets.setdefault(key, 0)
        if task.log_size() <= offset:
            return False
        with open(task.file("log"), "rb", 0) as log:
            while self.credit > FRAME_COST and self.connection.relaxed():
                data = os.pread(log.fileno(), min(PIECE, self.credit - FRAME_COST), offset)
                if not data:
                    break
                times = ages(task.file("times"), offset, offset + len(data))  # after the data: theirs are there
                if times and len(times) > MOST_TIMES:
                    data = data[:times.pop()[0] - offset]
                self.credit -= FRAME_COST + len(data)
                self.connection.send({"id": self.number, "log": key, "offset": offset, "times": times}, data)
                offset += len(data)
        self.offsets[key] = offset
        return True
