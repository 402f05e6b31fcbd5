"""The day of the guide to the commands: all that doc/cli.md shows, one after the other, as it stands there."""

from __future__ import annotations

import doctest
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from tests.clients.conftest import REPOSITORY
from tests.harness.command import Openstack

#: what differs each time, or with the widths of that
_SHAPE = (
    (r"[0-9a-f]{8}-[0-9a-f-]{27}", "ID"), (r"[0-9T:.-]{19,}Z", "TIME"), (r"(?:\d+[dhms] ?)+(?=\s)", "DURATION "), (r"\d+\.\d+", "NUMBER"),
    (r"\+[+-]+", "+"), (r"[ \t]+", " "))


def test_the_day_of_the_guide(openstack: Openstack, tmp_path: Path) -> None:
    guide = (REPOSITORY / "doc" / "cli.md").read_text()
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "train.py").write_text(block(guide, "python"))
    (tmp_path / "job.yaml").write_text(block(guide, "yaml"))
    steps = list(walk(guide))
    assert len(steps) >= 7
    for command, expected in steps:
        program, *args = shlex.split(command)
        assert program == "openstack"
        done = openstack.run(*args, cwd=tmp_path)
        said = done.err + done.out
        wanted = shape(expected).replace("\n...\n", "\n...")  # lines, or none
        assert doctest.OutputChecker().check_output(wanted, shape(said), doctest.ELLIPSIS), f"$ {command}\n{said}"
        assert done.code == 0
    assert (tmp_path / "results" / "output" / "worker-1" / "model").read_text() == "weights"


def block(guide: str, language: str) -> str:
    """Give the first block of code in a language."""
    found = re.search(rf"```{language}\n(.*?)```", guide, re.DOTALL)
    assert found is not None
    return found[1]


def walk(guide: str) -> Iterator[tuple[str, str]]:
    """Give the commands that the guide shows, and what it says that they print."""
    for console in re.findall(r"```console\n(.*?)```", guide, re.DOTALL):
        for step in re.split(r"^\$ ", console, flags=re.MULTILINE)[1:]:
            command, _, printed = step.partition("\n")
            yield command, printed


def shape(text: str) -> str:
    """Leave out of an output what is another one each time."""
    for pattern, word in _SHAPE:
        text = re.sub(pattern, word, text)
    return "".join(f"{line.strip()}\n" for line in text.splitlines())
