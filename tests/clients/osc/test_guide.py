"""What the guides show, done as it stands there: the day with the commands in doc/cli.md, and the way over HTTP in doc/user.md."""

from __future__ import annotations

import doctest
import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.clients.conftest import REPOSITORY
from tests.harness.client import Client
from tests.harness.command import Openstack
from tests.harness.stack import Stack

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


def test_the_first_job_of_the_user_guide(openstack: Openstack, session_stack: Stack, client: Client, tmp_path: Path) -> None:
    """All blocks of shell commands up to the submission, in one shell; the id of the package is put into the document by hand."""
    find, submit = re.findall(r"```sh\n(.*?)```", (REPOSITORY / "doc" / "user.md").read_text(), re.DOTALL)[:2]
    upload, separator, create = submit.rpartition("curl")
    (tmp_path / "examples").symlink_to(REPOSITORY / "examples")
    document = {"name": "by-hand", "image": "plain", "flavor": "cpu.small", "command": "ls train.py"}

    def shell(script: str) -> list[str]:
        ours = re.sub(r"^ENDPOINT=\S+", f"ENDPOINT={session_stack.service.url}", script, flags=re.MULTILINE)
        command = f"openstack() {{ {shlex.join(openstack.command)} --os-cloud {openstack.cloud} \"$@\"; }}\n{ours}"
        done = subprocess.run(["sh", "-ec", command], cwd=tmp_path, env=openstack.env, capture_output=True, text=True, check=True)
        return done.stdout.splitlines()

    frameworks, package = (json.loads(line) for line in shell(find + upload))
    assert "tensorflow" in {framework["name"] for framework in frameworks["frameworks"]}
    (tmp_path / "job.json").write_text(json.dumps({**document, "source": {"package": package["package"]["id"]}}))
    job = json.loads(shell(find + separator + create)[-1])["job"]
    client.succeed(job["id"])
    assert client.log(job["id"]).strip() == "train.py"


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
