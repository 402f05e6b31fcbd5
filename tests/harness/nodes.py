"""Real guests from the inside: a login of the test's own on a job's nodes, and a door at which their processes wait."""

from __future__ import annotations

import io
import shlex
from typing import Any

import paramiko

from cml_nova.remote.keys import generate_keypair
from tests.harness.client import Client
from tests.harness.waiting import until

#: says that it waits, and on which attempt; goes on when the door is opened. In sh, which costs an emulated guest next to nothing
WAIT = "echo waiting $CML_ATTEMPT; until [ -e ~/open ]; do sleep 0.5; done; echo gone on"


class Nodes:
    """The nodes of jobs whose documents have ``keys``.

    :param user: login of the image.
    """

    def __init__(self, client: Client, user: str) -> None:
        self._client = client
        self._user = user
        private, public = generate_keypair()
        self._key = paramiko.Ed25519Key.from_private_key(io.StringIO(private))
        #: goes into a job's document
        self.keys: dict[str, Any] = {"ssh_authorized_keys": [public]}

    def run(self, address: str, command: str) -> str:
        """Run a command on a node; give what it prints. :raises AssertionError: it failed."""
        with paramiko.SSHClient() as ssh:
            ssh.set_missing_host_key_policy(paramiko.AutoAddPolicy())  # whom the service trusts is tested elsewhere
            ssh.connect(address, username=self._user, pkey=self._key, timeout=60, banner_timeout=60, auth_timeout=60, allow_agent=False,
                        look_for_keys=False)
            _, output, errors = ssh.exec_command(f"sh -c {shlex.quote(command)}", timeout=60)
            text = output.read().decode()
            code = output.channel.recv_exit_status()
        assert code == 0, f"{command!r} ended with {code}: {errors}"
        return text

    def await_all(self, job_id: str, attempt: int = 1, timeout: float = 300) -> None:
        """Wait until every process of an attempt says that it waits at the door."""
        self._client.wait(job_id, lambda job: job["status"] == "RUNNING" and job["attempt"] == attempt, timeout)
        for node in self._client.nodes(job_id):
            for task in node["tasks"]:
                until(lambda name=task["name"]: f"waiting {attempt}" in self._log(job_id, name), timeout,  # type: ignore[misc]
                      f"word of {task['name']}", 0.5)

    def open(self, job_id: str) -> None:
        """Let the processes on all nodes go on."""
        for node in self._client.nodes(job_id):
            self.run(node["address"], "touch ~/open")

    def _log(self, job_id: str, task: str) -> str:
        return self._client.log_piece(job_id, task)[0].decode()
