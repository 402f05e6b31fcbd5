"""Tasks as their files say: ``tasks/<attempt>/<task>/``, with the state that the supervisor writes and the lock that it holds."""

import fcntl
import os

from cml_nova.remote.runner.files import overwrite, read_text, write_file
from cml_nova.remote.runner.processes import boot_id
from cml_nova.remote.runner.serialization import from_json, to_json

ENDED = ("EXITED", "STOPPED", "LOST")
RESERVE = 4096  # bytes put by for a state, and for a stop


class Task:
    """One process of one attempt, as the files say."""

    def __init__(self, root: str, attempt: int, name: str) -> None:
        self.attempt, self.name = attempt, name
        self.path = os.path.join(root, "tasks", str(attempt), name)

    def file(self, name: str) -> str:
        return os.path.join(self.path, name)

    def log_size(self) -> int:
        try:
            return os.stat(self.file("log")).st_size
        except OSError:
            return 0

    def lock(self) -> int:
        """Take the supervisor's lock; -1 if a supervisor has it. It lasts until the last copy of the descriptor is closed."""
        try:
            fd = os.open(self.file("lock"), os.O_RDWR | os.O_CREAT, 0o600)
        except FileNotFoundError:
            return -1
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            return -1
        return fd

    def supervised(self) -> bool:
        fd = self.lock()
        if fd >= 0:
            os.close(fd)
        return fd < 0

    def saved(self) -> "dict | None":
        """Give what the supervisor wrote last; None before it wrote anything."""
        text = read_text(self.file("state.json"))
        try:
            return from_json(text) if text else None
        except ValueError:
            return {"attempt": self.attempt, "task": self.name, "state": "LOST", "reason": "its state file is damaged"}

    def state(self) -> "dict | None":
        """Give the state, LOST when it says RUNNING and its supervisor is gone; None if the process was never started."""
        saved = self.saved()
        if saved and saved["state"] == "RUNNING" and not self.supervised():
            saved = self.saved()  # it may have ended between the two looks
            if saved and saved["state"] == "RUNNING":
                rebooted = saved["boot_id"] != boot_id()
                saved.update(state="LOST", reason="the machine was restarted" if rebooted else "its supervisor was killed")
        if saved:
            saved["log_size"] = self.log_size()
        return saved

    def alive(self) -> bool:
        state = self.state()
        return self.supervised() if state is None else state["state"] == "RUNNING"


class StateFile:
    """A task's state as its supervisor writes it, also when the process has filled the disk."""

    def __init__(self, task: Task) -> None:
        self.path = task.file("state.json")
        self.reserves = [task.file("reserve.%d" % number) for number in range(2)]

    def put_by(self) -> None:
        """Take the room for two states: the one with the process's id, and the last."""
        for path in self.reserves:
            overwrite(path, b"", RESERVE)

    def write(self, state: dict) -> None:
        """:raises OSError: there is no room, and none that was put by any more."""
        data = to_json(state).encode()
        try:
            write_file(self.path, data)
        except OSError:
            if not self.reserves:
                raise
            reserve = self.reserves.pop()
            overwrite(reserve, data, RESERVE)
            os.rename(reserve, self.path)

    def let_go(self) -> None:
        """Give back what was put by and not needed."""
        for path in self.reserves:
            os.unlink(path)


def attempts(root: str) -> list:
    try:
        return sorted(int(name) for name in os.listdir(os.path.join(root, "tasks")) if name.isdigit())
    except FileNotFoundError:
        return []


def tasks_of(root: str, attempt: int) -> list:
    path = os.path.join(root, "tasks", str(attempt))
    try:
        return [Task(root, attempt, name) for name in sorted(os.listdir(path)) if os.path.isdir(os.path.join(path, name))]
    except FileNotFoundError:
        return []


def all_tasks(root: str) -> list:
    return [task for attempt in attempts(root) for task in tasks_of(root, attempt)]
