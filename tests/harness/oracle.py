"""The oracle: what the plain ``openstack`` command, as administrator, says there is in the cloud. It shares no code with the product."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

#: service type -> kind of resource -> (command, with {scope} for the projects that are looked at; names of the columns of id and name)
_QUESTIONS: dict[str, dict[str, tuple[str, str, str]]] = {
    "compute": {
        "server": ("server list {scope}", "ID", "Name"),
        "key pair": ("keypair list --user {user}", "Fingerprint", "Name"),
    },
    "network": {
        "port": ("port list {project} --long", "ID", "Device Owner"),
        "security group": ("security group list {project}", "ID", "Name"),
        "floating IP": ("floating ip list {project}", "ID", "Floating IP Address"),
    },
    "block-storage": {"volume": ("volume list {scope}", "ID", "Name")},
}
_TYPES = {"volumev3": "block-storage", "volumev2": "block-storage"}
#: what Neutron makes by itself: with the first use of a project, and with the first of a network
_NOT_OURS = ("security group default ", "port network:dhcp ")

Inventory = frozenset[str]


class Oracle:
    """Takes inventories of servers, key pairs, ports, security groups, floating IPs and volumes.

    :param cloud: an administrator's entry of clouds.yaml.
    :param user: id of the user whose key pairs are listed.
    :param project: id of the project that is looked at; None for the whole cloud.
    """

    def __init__(self, cloud: str, user: str, project: str | None) -> None:
        self._command = Command(cloud)
        words = {
            "user": user, "project": f"--project {project}" if project else "",
            "scope": f"--all-projects --project {project}" if project else "--all-projects",
        }
        [catalog] = self._command.ask(["catalog list -c Type"])
        types = {_TYPES.get(service["Type"], service["Type"]) for service in catalog}
        self._questions = {kind: (question.format(**words), *columns) for service, questions in _QUESTIONS.items() if service in types
                           for kind, (question, *columns) in questions.items()}

    def inventory(self) -> Inventory:
        """Name everything that there is, with its id. :raises AssertionError: the command failed."""
        answers = self._command.ask([question for question, *_ in self._questions.values()])
        found = {f"{kind} {row[name]} ({row[ident]})"
                 for (kind, (_, ident, name)), rows in zip(self._questions.items(), answers, strict=True) for row in rows}
        return frozenset(item for item in found if not item.startswith(_NOT_OURS))

    def close(self) -> None:
        """End the command; the next question starts it anew."""
        self._command.close()


class Command:
    """``openstack`` as a user has it who types one command after the other. Starting it is what costs most, so it stays."""

    def __init__(self, cloud: str) -> None:
        # Options stand in the environment: given as arguments, they would be taken for the one command to run.
        kept = {name: value for name, value in os.environ.items() if not name.startswith("OS_") or name == "OS_CLIENT_CONFIG_FILE"}
        self._env = {**kept, "OS_CLOUD": cloud, "OS_COMPUTE_API_VERSION": "2.90", "PYTHONUNBUFFERED": "1"}
        self._process: subprocess.Popen[bytes] | None = None
        self._errors = tempfile.TemporaryFile()

    def ask(self, commands: list[str], timeout: float = 120) -> list[Any]:
        """Run commands; give what each prints as JSON. :raises AssertionError: one failed, or the time is over."""
        process = self._running()
        assert process.stdin is not None
        process.stdin.write("".join(f"{command} -f json\n" for command in commands).encode())
        process.stdin.flush()
        deadline, text, answers = time.monotonic() + timeout, "", []
        while len(answers) < len(commands):
            piece = self._read(process, deadline - time.monotonic())
            if not piece:
                self.close()
                self._errors.seek(0)
                raise AssertionError(f"openstack answered {len(answers)} of {commands}: {self._errors.read().decode()[-2000:]}")
            text += piece.replace("(openstack)", "")
            found, text = _documents(text)
            answers += found
        return answers

    def close(self) -> None:
        if self._process:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            command = [str(Path(sys.executable).parent / "openstack")]
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, env=self._env)
        return self._process

    @staticmethod
    def _read(process: subprocess.Popen[bytes], timeout: float) -> str:
        """Read what comes next; nothing if nothing comes in time, or no more comes."""
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], max(0.0, timeout))
        return os.read(process.stdout.fileno(), 1 << 16).decode() if ready else ""


def _documents(text: str) -> tuple[list[Any], str]:
    """Split off the JSON documents that a text starts with; give them and the rest."""
    found = []
    while text := text.lstrip():
        try:
            document, end = json.JSONDecoder().raw_decode(text)
        except ValueError:
            break
        found.append(document)
        text = text[end:]
    return found, text
