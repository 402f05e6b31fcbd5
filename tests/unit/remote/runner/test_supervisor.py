"""The supervisor, without a process."""

from __future__ import annotations

from pathlib import Path

import pytest

from cml_nova.remote.runner import supervisor as module
from cml_nova.remote.runner.supervisor import Supervisor
from cml_nova.remote.runner.tasks import Task


def test_a_stop_is_obeyed_once_and_one_that_is_being_written_not_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "prctl", lambda *_: True)
    supervisor = Supervisor(str(tmp_path), Task(str(tmp_path), 1, "worker:0"), {}, {})
    asked = []
    monkeypatch.setattr(supervisor, "begin_stop", lambda **wanted: asked.append(wanted))
    for text in ("", '{"grace": 5, "du', '{"grace": 5, "dump": false}', '{"grace": 5, "dump": false}', '{"grace": 0, "dump": true}'):
        supervisor.obey(text)
    assert asked == [{"grace": 5, "dump": False}, {"grace": 0, "dump": True}]
