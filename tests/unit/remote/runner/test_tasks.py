"""Tasks as their files say."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from cml_nova.remote.runner import tasks
from cml_nova.remote.runner.files import write_file
from cml_nova.remote.runner.processes import boot_id
from cml_nova.remote.runner.tasks import StateFile, Task


def saved(root: Path, **fields: object) -> Task:
    task = Task(str(root), 1, "worker:0")
    os.makedirs(task.path, exist_ok=True)
    state = {"attempt": 1, "task": "worker:0", "state": "RUNNING", "boot_id": boot_id(), "pid": 5, **fields}
    write_file(task.file("state.json"), json.dumps(state).encode())
    return task


def test_a_state_is_running_only_while_its_supervisor_lives(tmp_path: Path) -> None:
    task = saved(tmp_path)
    held = task.lock()
    assert held >= 0
    assert (task.state()["state"], task.alive()) == ("RUNNING", True)
    os.close(held)
    assert (task.state()["state"], task.state()["reason"], task.alive()) == ("LOST", "its supervisor was killed", False)
    assert saved(tmp_path, boot_id="x").state()["reason"] == "the machine was restarted"
    assert saved(tmp_path, state="EXITED").state()["state"] == "EXITED"
    Path(task.file("state.json")).write_text('{"attempt":')
    assert (task.state()["state"], task.state()["reason"]) == ("LOST", "its state file is damaged")


def test_a_task_that_never_started_may_be_started(tmp_path: Path) -> None:
    task = Task(str(tmp_path), 1, "worker:0")
    os.makedirs(task.path)  # a session was killed here
    assert (task.state(), task.alive()) == (None, False)


def test_a_state_is_written_although_there_is_no_room_for_a_new_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    task = Task(str(tmp_path), 1, "worker:0")
    os.makedirs(task.path)
    file = StateFile(task)
    file.put_by()
    file.write({"state": "RUNNING"})
    monkeypatch.setattr(tasks, "write_file", full)
    for number in range(2):
        file.write({"exit_code": number})
        assert task.saved() == {"exit_code": number}
    with pytest.raises(OSError, match="No space left"):
        file.write({"exit_code": 3})
