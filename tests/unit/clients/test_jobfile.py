"""Job files: what is read of them, where each value was said, and what is told of a bad one."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cml_nova.clients.osc.base import UsageError
from cml_nova.clients.osc.jobfile import Document, at_least, moment_ago, parse, read, seconds, variables

TEXT = """\
name: digits
roles:
  worker: {count: 2, flavor: gpu}
env:
  LR: 1e-3
  ON: yes
  EMPTY:
metadata: {version: 1.10}
max_run_time: 1.5h
recover_on_exit_codes: [42, 43]
"""


def test_values_have_the_types_that_the_service_takes() -> None:
    assert parse(TEXT, "job.yaml").content == {
        "name": "digits", "roles": {"worker": {"count": 2, "flavor": "gpu"}}, "env": {"LR": "1e-3", "ON": "yes", "EMPTY": ""},
        "metadata": {"version": "1.10"}, "max_run_time": 5400, "recover_on_exit_codes": [42, 43]}


def test_json_is_a_job_file_too() -> None:
    assert parse('{"name": "a", "workers": 2, "command": ["python3", "x"]}', "job.json").content == {
        "name": "a", "workers": 2, "command": ["python3", "x"]}


def test_dates_and_the_like_stay_texts() -> None:
    assert parse("name: 2026-01-31\ndescription: 0x1F\n", "f").content == {"name": "2026-01-31", "description": 31}


@pytest.mark.parametrize(("name", "origin"), [
    ("job.name", "job.yaml, line 1"),
    ("roles.worker.count", "job.yaml, line 3"),
    ("roles.worker.nonsense", "job.yaml, line 3"),
    ("env.LR", "job.yaml, line 5"),
    ("recover_on_exit_codes.1", "job.yaml, line 10"),
    ("flavor", None),
    ("", None),
])
def test_origin(name: str, origin: str | None) -> None:
    assert parse(TEXT, "job.yaml").origin(name) == origin


def test_what_is_laid_over_goes_before_the_file() -> None:
    document = parse(TEXT, "job.yaml")
    document.assign("roles.worker.count=4")
    document.assign("env.LR=0.1")
    document.assign("env.a.b=c")
    document.assign("max_wait_time=2d")
    document.assign("command=[python3, train.py]")
    document.put(("name",), "other", "--name")
    assert document.content["roles"]["worker"] == {"count": 4, "flavor": "gpu"}
    assert document.content["env"] == {"LR": "0.1", "ON": "yes", "EMPTY": "", "a.b": "c"}
    assert document.content["max_wait_time"] == 172800
    assert document.content["command"] == ["python3", "train.py"]
    assert document.origin("roles.worker.count") == "--set roles.worker.count"
    assert document.origin("job.name") == "--name"


@pytest.mark.parametrize(("text", "message"), [
    ("", "job.yaml: it holds nothing; a job file must hold keys and values such as 'name: digits'."),
    ("- a\n", "job.yaml: it holds a list; a job file must hold keys and values such as 'name: digits'."),
    ("just words\n", "job.yaml: it holds a text; a job file must hold keys and values such as 'name: digits'."),
    ("name: a\n  flavor: b\n", "job.yaml, line 2, column 9: not valid YAML: mapping values are not allowed here."),
    ("name: 'a\n", "job.yaml, line 2, column 1: not valid YAML: found unexpected end of stream."),
    ("name: a\ncommand: x\nname: b\n", "job.yaml, line 3: the key 'name' is given twice, first in line 1."),
    ("env: {A: 1, A: 2}\n", "job.yaml, line 1: the key 'A' is given twice, first in line 1."),
    ("? [a, b]\n: c\n", "job.yaml, line 1: a key must be a word."),
    ("hang_timeout: .inf\n", "job.yaml, line 1: .inf is not a number that can be sent."),
    ("roles: &a\n  worker: *a\n", "job.yaml: it is nested too deeply, or refers to itself."),
    ("name: a\n---\nname: b\n", "job.yaml, line 2, column 1: not valid YAML: but found another document."),
    ("name: \x00\n", "job.yaml: not valid YAML: special characters are not allowed (character 0x0)."),
    ("name: *nobody\n", "job.yaml, line 1, column 7: not valid YAML: found undefined alias 'nobody'."),
])
def test_bad_files(text: str, message: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse(text, "job.yaml")
    assert str(refused.value).startswith(message)


@pytest.mark.parametrize(("text", "message"), [
    ("nonsense", "--set nonsense: it must look like key=value or key.key=value."),
    ("a..b=1", "--set a..b=1: it must look like key=value or key.key=value."),
    ("name.first=x", "--set name.first: name is a value (job.yaml, line 1), not a table."),
    ("workers=[1", "--set workers, line 1, column 3: not valid YAML: expected ',' or ']', but got '<stream end>'."),
])
def test_bad_assignments(text: str, message: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse(TEXT, "job.yaml").assign(text)
    assert str(refused.value) == message


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.yaml: No such file or directory\."):
        read(str(tmp_path / "none.yaml"))
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for reader in (read, variables):
        with pytest.raises(UsageError, match=r"binary: it is no text in UTF-8\."):
            reader(str(tmp_path / "binary"))


def test_a_file_of_variables(tmp_path: Path) -> None:
    (tmp_path / "env").write_text("# comment\n\nexport A=1\nB = x=y \n")
    assert variables(str(tmp_path / "env")) == {"A": "1", "B": "x=y"}
    (tmp_path / "env").write_text("A=1\nB\n")
    with pytest.raises(UsageError, match=r"env, line 2: it must look like NAME=value\."):
        variables(str(tmp_path / "env"))


def test_relative_paths_start_from_the_file(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("name: a\n")
    assert read(str(tmp_path / "job.yaml")).directory == tmp_path
    assert Document().directory == Path.cwd()


@pytest.mark.parametrize(("text", "value"), [("90", 90), ("90s", 90), ("15m", 900), ("2h", 7200), ("1d", 86400), ("0.5h", 1800)])
def test_durations(text: str, value: float) -> None:
    assert seconds(text) == value


@pytest.mark.parametrize("text", ["", "soon", "2 weeks", "-1", "1h30m"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is not a duration"):
        seconds(text)


def test_times_that_are_said_as_how_long_ago() -> None:
    assert moment_ago("2026-01-31T12:00:00Z") == "2026-01-31T12:00:00Z"
    ago = datetime.now(UTC) - datetime.fromisoformat(moment_ago("1d"))
    assert timedelta(hours=23) < ago < timedelta(hours=25)
    for text in ("yesterday", "9999999d"):
        with pytest.raises(argparse.ArgumentTypeError, match=text):
            moment_ago(text)


@pytest.mark.parametrize("text", ["0", "-1", "few", "1.5", ""])
def test_numbers_that_are_too_small(text: str) -> None:
    assert at_least(1)("1") == 1
    with pytest.raises(argparse.ArgumentTypeError, match="is not a whole number of 1 or more"):
        at_least(1)(text)
