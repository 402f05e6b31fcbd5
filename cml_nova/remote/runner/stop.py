"""The end of an attempt's tasks, as a worker asks for it."""

import _signal as signal  # type: ignore[import-not-found]
import os
import time

from cml_nova.remote.runner.fencing import Change
from cml_nova.remote.runner.files import overwrite, write_file
from cml_nova.remote.runner.processes import kill, kill_all, marked, start_ticks
from cml_nova.remote.runner.serialization import to_json
from cml_nova.remote.runner.tasks import RESERVE, tasks_of


class Stop:
    """A stop on its way: done when all of its tasks have ended."""

    def __init__(self, root: str, generation: int, attempt: int, grace: float, names: "list | None", dump: bool) -> None:
        with Change(root, generation):  # a start is either seen here or sees the mark
            if names is None:
                os.makedirs(os.path.join(root, "tasks", str(attempt)), exist_ok=True)
                write_file(os.path.join(root, "tasks", str(attempt), ".stopped"), b"")
            self.tasks = [task for task in tasks_of(root, attempt) if names is None or task.name in names]
        self.limit = time.monotonic() + grace + 20
        for task in self.tasks:
            state = task.state()
            if state and state["state"] == "RUNNING":
                overwrite(task.file("stop"), to_json({"grace": grace, "dump": dump}).encode(), RESERVE)
                if start_ticks(state["supervisor"]) == state["supervisor_ticks"]:
                    kill(state["supervisor"], signal.SIGTERM)
            elif state and state["state"] == "LOST":
                kill_all(lambda path=task.path: marked(path))

    def left(self) -> list:
        self.tasks = [task for task in self.tasks if task.alive()]
        return self.tasks
