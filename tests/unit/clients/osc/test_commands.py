"""What commands decide for themselves: which job is meant, what has changed, what is told of a job that is under way."""

from __future__ import annotations

import importlib
import io
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cml_nova.clients.osc import job, job_apply, job_create, job_log
from cml_nova.clients.osc.job_apply import differences
from cml_nova.clients.osc.waiting import Progress
from cml_nova.clients.sdk.logs import LogLine
from tests.unit.clients.osc.conftest import Shell

COMMANDS = {point.name: point for point in metadata.entry_points(group="openstack.machine_learning.v1")}
JOB = "--framework tensorflow --flavor gpu.small --workers 2 --command 'python train.py'"


def test_every_command_is_there_and_in_the_guide() -> None:
    guide = (Path(__file__).parents[4] / "doc" / "cli.md").read_text()
    assert len(COMMANDS) >= 20
    for name, point in COMMANDS.items():
        assert f"`{name.replace('_', ' ')}" in guide, name
        assert issubclass(point.load(), object)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_option_is_explained(name: str) -> None:
    command = COMMANDS[name].load()
    parser = command(SimpleNamespace(), None).get_parser("openstack")
    assert command.__doc__ and not command.__doc__.endswith(".")
    assert [action.option_strings or action.dest for action in parser._actions if not action.help] == []


def test_the_plugin_loads_nothing_that_takes_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The openstack command imports the modules of all commands at each start."""
    for name in [name for name in sys.modules if name.startswith("cml_nova.clients")]:
        monkeypatch.delitem(sys.modules, name)
    for point in [*COMMANDS.values(), *metadata.entry_points(group="openstack.cli.extension", name="machine_learning")]:
        importlib.import_module(point.module)
    assert "cml_nova.clients.osc.plugin" in sys.modules
    assert "cml_nova.clients.sdk" not in sys.modules


def test_tasks_have_colours_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for terminal in (True, False):
        monkeypatch.setattr(sys.stdout, "isatty", lambda terminal=terminal: terminal)
        show = job_log._Printer(["ps:0", "worker:0"], timestamps=True)
        show(LogLine("ps:0", 1, "one", 4, "2026-01-01T12:00:00.000Z"))
        show(LogLine("worker:0", 1, "two", 4))
    assert capsys.readouterr().out == (
        "\x1b[36mps:0    \x1b[0m | 2026-01-01T12:00:00.000Z one\n\x1b[33mworker:0\x1b[0m | -                        two\n"
        "ps:0     | 2026-01-01T12:00:00.000Z one\nworker:0 | -                        two\n")


def test_of_several_jobs_with_a_name_the_newest_that_has_not_ended_is_shown(shell: Shell) -> None:
    for number in range(2):
        assert shell.run(job_create.CreateJob, f"twice --property number={number} {JOB}").code == 0
    said = shell.run(job.SetJob, "twice --priority 3")
    assert (said.code, said.err.startswith("2 jobs have the name 'twice'; this is ")) == (0, True)


@pytest.mark.parametrize("command", [job.DeleteJob, job.CancelJob])
def test_what_can_not_be_taken_back_wants_an_id(shell: Shell, command: Any) -> None:
    for _ in range(2):
        shell.run(job_create.CreateJob, f"twice {JOB}")
    said = shell.run(command, "twice")
    assert said.code == 1
    assert "2 jobs have the name 'twice'; give an id" in said.err


HAS = {"name": "a", "command": "x", "flavor": "gpu", "workers": 2, "source": {"package": "p"}, "env": {"A": "1"}}


@pytest.mark.parametrize(("changes", "found"), [
    ({}, {}),
    ({"priority": 3}, {"priority": (None, 3)}),
    ({"priority": 0, "metadata": {}, "description": None}, {}),
    ({"env": {}}, {"env": ({"A": "1"}, {})}),
    ({"source": {"package": "q"}}, {"source": ({"package": "p"}, {"package": "q"})}),
    ({"client_token": "t", "secrets": {"A": "b"}}, {}),
])
def test_what_has_changed(changes: dict[str, Any], found: dict[str, Any]) -> None:
    assert differences(HAS, HAS | changes) == found


def test_what_is_left_out_has_changed_too() -> None:
    content = {key: value for key, value in HAS.items() if key != "env"}
    assert differences(HAS | {"hang_timeout": 60}, content) == {"env": ({"A": "1"}, None), "hang_timeout": (60, None)}


def test_code_that_is_the_same_is_not_sent_again(shell: Shell) -> None:
    Path("code").mkdir()
    Path("code/train.py").write_text("print()")
    Path("job.yaml").write_text("name: a\nframework: {name: tensorflow}\nflavor: gpu.small\nsource: {directory: code}\ncommand: x\n")
    assert "is the package" in shell.run(job_apply.ApplyJob, "--file job.yaml").err
    again = shell.run(job_apply.ApplyJob, "--file job.yaml")
    assert (again.code, again.err.startswith("No changes: the job ")) == (0, True), again.err
    Path("code/train.py").write_text("print(1)")
    changed = shell.run(job_apply.ApplyJob, "--file job.yaml")
    assert changed.code == 1
    assert 'source: {"package": "' in changed.err and '-> {"directory": "code"} (needs a new job)' in changed.err
    assert "is the package" not in changed.err, "uploaded for nothing"


class Terminal(io.StringIO):
    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


def under_way(status: str, **more: Any) -> Any:
    return SimpleNamespace(**{"name": "a", "status": status, "status_reason": None, "attempt": 1, "progress": 0, "queue_position": None,
                              "started_at": "2026-01-01T00:00:00.000Z", **more})


LIFE = [
    (under_way("QUEUED", queue_position=3), "a: queued, number 3 in the queue"),
    (under_way("QUEUED", status_reason="No room."), "a: queued: No room."),
    (under_way("BUILDING"), "a: building: 1 of 2 machines are up"),
    (under_way("PREPARING"), "a: preparing"),
    (under_way("RUNNING"), "a: running"),
    (under_way("RUNNING", progress=25, attempt=2), "a: running: 25 % (attempt 2)"),
    (under_way("COLLECTING"), "a: collecting"),
    (under_way("CLEANING"), "a: cleaning"),
    (under_way("FAILED", status_reason="It broke."), "a: FAILED: It broke."),
    (under_way("SUCCEEDED", status_reason="All fine."), "a: SUCCEEDED"),
]


def make(monkeypatch: pytest.MonkeyPatch, *, terminal: bool) -> tuple[Progress, Terminal]:
    nodes = [SimpleNamespace(status=status) for status in ("ACTIVE", "BUILD")]
    stderr = Terminal(terminal)
    monkeypatch.setattr(sys, "stderr", stderr)
    return Progress(SimpleNamespace(job_nodes=lambda job: iter(nodes)), now=lambda: 1767225600.0 + 600), stderr


def test_progress_is_a_line_for_each_change(monkeypatch: pytest.MonkeyPatch) -> None:
    progress, stderr = make(monkeypatch, terminal=False)
    for state, _ in LIFE:
        progress(state)
        progress(state)
    progress.close()
    assert stderr.getvalue().splitlines() == [line for _, line in LIFE]


def test_progress_on_a_terminal_is_one_line_and_tells_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    progress, stderr = make(monkeypatch, terminal=True)
    progress(under_way("RUNNING"))
    progress(under_way("RUNNING", progress=25))
    progress.close()
    assert stderr.getvalue() == "\r\x1b[Ka: running\r\x1b[Ka: running: 25 %, about 30m left\n"
