"""Other ways to have N servers, and a training on them, on a cloud: what the service is measured against.

``Plain``    the cloud alone: one ``POST /servers`` until SSH answers on all of them; no training
``Heat``     a stack of servers, then ssh and scp
``Ansible``  a playbook with the openstack.cloud collection

Each is written as somebody would who wants it fast: all servers at a time, short pauses between looks, no gathering of facts. None of
them checks host keys, which the service does.
"""

from __future__ import annotations

import base64
import concurrent.futures
import io
import logging
import os
import secrets
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import bootstrap
import openstack
import paramiko

from cml_nova.remote.keys import generate_keypair
from cml_nova.remote.userdata import cloud_config

FILES = Path(__file__).resolve().parent / "bench_files"
PROGRAM = FILES / "pair.py"
#: seconds between looks at the cloud and between tries to log in
LOOK, TRY = 0.3, 0.1
LIMIT = 600
PORT = 29400
#: the collection up to 2.5 asks for openstack.version, which later ones have not
SDK = "openstacksdk>=4,<4.5"
MICROVERSION = "2.90"

logging.getLogger("paramiko").setLevel(logging.CRITICAL)  # what does not answer yet is no news


@dataclass(frozen=True)
class Target:
    """What is used of the cloud. ``cloud`` is the user's entry of clouds.yaml, ``user`` the login of the image."""

    cloud: str
    image: str
    flavor: str
    network: str
    user: str
    nodes: int


@dataclass
class Course:
    """When what had happened, in seconds after the beginning."""

    began: float = field(default_factory=time.monotonic)
    marks: dict[str, float] = field(default_factory=dict)

    def mark(self, name: str) -> None:
        """Note that something has happened now; of several, which come from nodes, the last counts."""
        self.marks[name] = time.monotonic() - self.began


class Way:
    """What all ways need: a connection, ids, and a key pair of their own; ``close`` removes what was made."""

    def __init__(self, target: Target, directory: Path) -> None:
        self.target = target
        self.directory = directory
        self.cloud = openstack.connect(cloud=target.cloud)
        self.name = f"cml-bench-{secrets.token_hex(4)}"
        self.image = self.cloud.image.find_image(target.image, ignore_missing=False).id
        self.flavor = self.cloud.compute.find_flavor(target.flavor, ignore_missing=False).id
        self.network = self.cloud.network.find_network(target.network, ignore_missing=False).id
        self.private, public = generate_keypair()
        self.public = public
        self.key_file = directory / f"{self.name}.key"
        self.key_file.touch(mode=0o600)
        self.key_file.write_text(self.private)
        self.cloud.compute.create_keypair(name=self.name, public_key=public)

    def run(self) -> Course:
        """Do it once, and leave nothing behind."""
        raise NotImplementedError

    def close(self) -> None:
        self.cloud.compute.delete_keypair(self.name)
        self.key_file.unlink()

    def ssh(self, program: str) -> list[str]:
        """Give the beginning of an ssh or scp command."""
        options = ["ConnectTimeout=2", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR", "BatchMode=yes",
                   "ControlMaster=auto", "ControlPersist=30", f"ControlPath={self.directory}/%C"]
        return [program, "-i", str(self.key_file), *(word for option in options for word in ("-o", option))]

    def at(self, address: str) -> str:
        return f"{self.target.user}@{address}"


class Plain(Way):
    """The cloud's own time. The user data is what the service gives its nodes."""

    def __init__(self, target: Target, directory: Path) -> None:
        super().__init__(target, directory)
        self.group = self.cloud.network.create_security_group(name=self.name).id
        self.cloud.network.create_security_group_rule(
            security_group_id=self.group, direction="ingress", ether_type="IPv4", protocol="tcp", port_range_min=22, port_range_max=22)

    def run(self) -> Course:
        host_private, host_public = generate_keypair()
        user_data = cloud_config(host_private, host_public, [self.public], self.target.user)
        count, tag = self.target.nodes, f"bench-{secrets.token_hex(4)}"
        course = Course()
        server = {"name": self.name, "imageRef": self.image, "flavorRef": self.flavor, "networks": [{"uuid": self.network}],
                  "security_groups": [{"name": self.group}], "min_count": count, "max_count": count, "tags": [tag],
                  "user_data": base64.b64encode(user_data.encode()).decode()}
        try:
            self.call("POST", "/servers", json={"server": server})
            course.mark("accepted")
            self._log_in(course, tag)
        finally:
            for body in self._servers(tag):
                self.call("DELETE", f"/servers/{body['id']}")
            wait(lambda: not self._servers(tag), "the end of the servers")
        course.mark("nothing left")
        return course

    def close(self) -> None:
        self.cloud.network.delete_security_group(self.group)
        super().close()

    def call(self, method: str, path: str, **kwargs: Any) -> Any:
        response = self.cloud.compute.request(path, method, microversion=MICROVERSION, **kwargs)
        assert response.ok, f"{method} {path}: {response.status_code} {response.text}"
        return response

    def _servers(self, tag: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.call("GET", "/servers/detail", params={"tags": tag}).json()["servers"]
        return found

    def _log_in(self, course: Course, tag: str) -> None:
        """Log in to each server as soon as it is active."""
        logins: dict[str, concurrent.futures.Future[None]] = {}
        with concurrent.futures.ThreadPoolExecutor(self.target.nodes) as pool:
            deadline = time.monotonic() + LIMIT
            while len(logins) < self.target.nodes:
                for body in self._servers(tag):
                    assert body["status"] in ("BUILD", "ACTIVE") and time.monotonic() < deadline, body
                    if body["status"] == "ACTIVE" and body["id"] not in logins:
                        [address] = [a["addr"] for addresses in body["addresses"].values() for a in addresses]
                        logins[body["id"]] = pool.submit(self._login, address)
                        course.mark("active")
                time.sleep(LOOK)
            for login in logins.values():
                login.result()
        course.mark("ssh")

    def _login(self, address: str) -> None:
        """Try until a login has run ``true``."""
        key = paramiko.Ed25519Key.from_private_key(io.StringIO(self.private))
        deadline = time.monotonic() + LIMIT
        while True:
            began = time.monotonic()
            client = paramiko.SSHClient()
            client.set_missing_host_key_policy(_AnyKey())
            try:
                client.connect(address, 22, self.target.user, pkey=key, timeout=1, banner_timeout=90, auth_timeout=90, look_for_keys=False,
                               allow_agent=False)
                if client.exec_command("true", timeout=90)[1].channel.recv_exit_status() == 0:
                    return
            except (paramiko.SSHException, OSError, EOFError):
                if time.monotonic() > deadline:
                    raise
            finally:
                client.close()
            # A login that is refused costs a slow guest a second or more, which it needs to get ready.
            time.sleep(max(TRY, time.monotonic() - began))


class _AnyKey(paramiko.MissingHostKeyPolicy):
    def missing_host_key(self, *_: Any) -> None:
        """Take it: nothing of value goes there."""


class Heat(Way):
    """A stack, then OpenSSH. Faster than ``openstack stack create --wait``, which looks every 5 s."""

    def run(self) -> Course:
        course = Course()
        target = self.target
        parameters = {"image": target.image, "flavor": target.flavor, "network": target.network, "key_name": self.name,
                      "count": target.nodes}
        body = {"stack_name": self.name, "template": (FILES / "stack.yaml").read_text(), "parameters": parameters}
        answer = self.cloud.orchestration.post("/stacks", json=body)
        assert answer.ok, f"{answer.status_code} {answer.text}"
        path = f"/stacks/{self.name}/{answer.json()['stack']['id']}"
        try:
            wait(lambda: self._status(path) == "CREATE_COMPLETE", "the stack")
            course.mark("active")
            [addresses] = [o["output_value"] for o in self._stack(path)["outputs"] if o["output_key"] == "addresses"]
            self._train(course, addresses)
        finally:
            self.cloud.orchestration.delete(path)
            wait(lambda: self._status(path) == "DELETE_COMPLETE", "the end of the stack")
        course.mark("nothing left")
        return course

    def _stack(self, path: str) -> dict[str, Any]:
        stack: dict[str, Any] = self.cloud.orchestration.get(path).json().get("stack", {})
        return stack

    def _status(self, path: str) -> str:
        stack = self._stack(path)
        status = str(stack.get("stack_status", "DELETE_COMPLETE"))
        assert not status.endswith("FAILED"), f"{status}: {stack.get('stack_status_reason')}"
        return status

    def _train(self, course: Course, addresses: list[str]) -> None:
        with concurrent.futures.ThreadPoolExecutor(len(addresses)) as pool:
            list(pool.map(self._reach, addresses))
            course.mark("ssh")
            list(pool.map(lambda address: subprocess.run([*self.ssh("scp"), str(PROGRAM), self.at(address) + ":train.py"],
                                                         check=True), addresses))
            course.mark("uploaded")
            list(pool.map(lambda rank: self._run_rank(course, rank, addresses), range(len(addresses))))
        course.mark("trained")
        model = self.directory / f"{self.name}.model"
        subprocess.run([*self.ssh("scp"), self.at(addresses[0]) + ":output/model", str(model)], check=True)
        assert model.read_text()
        course.mark("fetched")

    def _reach(self, address: str) -> None:
        def answers() -> bool:
            return subprocess.run([*self.ssh("ssh"), self.at(address), "true"], check=False, stdin=subprocess.DEVNULL,
                                  stderr=subprocess.DEVNULL).returncode == 0

        wait(answers, "SSH", TRY)

    def _run_rank(self, course: Course, rank: int, addresses: list[str]) -> None:
        place = {"CML_NODE_RANK": rank, "CML_NUM_NODES": len(addresses), "CML_MASTER_ADDR": addresses[0], "CML_MASTER_PORT": PORT,
                 "CML_OUTPUT_DIR": "output"}
        command = " ".join(f"{name}={value}" for name, value in place.items()) + " python3 train.py"
        process = subprocess.Popen([*self.ssh("ssh"), self.at(addresses[rank]), command], stdout=subprocess.PIPE, text=True,
                                   stdin=subprocess.DEVNULL)
        assert process.stdout
        if process.stdout.readline():
            course.mark("first line")
        process.communicate()
        assert process.returncode == 0, f"rank {rank} ended with {process.returncode}"


class Ansible(Way):
    """A playbook. What a task prints is only seen at its end, so the first line is said to come when the task begins: sooner than it does.

    :param venv: where ansible is installed; made where it is missing.
    """

    MARKS = {"boot": "began to boot", "wait for SSH": "active", "copy": "ssh", "run": "first line", "fetch": "trained", "delete": "fetched"}

    def __init__(self, target: Target, directory: Path, venv: Path) -> None:
        super().__init__(target, directory)
        self.venv = venv

    def run(self) -> Course:
        variables = {"prefix": self.name, "image": self.target.image, "flavor": self.target.flavor, "network": self.target.network,
                     "key_name": self.name, "program": str(PROGRAM), "model": str(self.directory / f"{self.name}.model")}
        inventory = self.directory / f"{self.name}.ini"
        hosts = "\n".join(f"node{i} ansible_user={self.target.user} ansible_python_interpreter=/usr/bin/python3"
                          for i in range(self.target.nodes))
        inventory.write_text(f"localhost ansible_connection=local ansible_python_interpreter={self.venv}/bin/python\n[nodes]\n{hosts}\n")
        environ = {**os.environ, "OS_CLOUD": self.target.cloud, "ANSIBLE_HOST_KEY_CHECKING": "False", "ANSIBLE_PIPELINING": "True",
                   "ANSIBLE_FORKS": str(max(10, self.target.nodes)), "ANSIBLE_PRIVATE_KEY_FILE": str(self.key_file),
                   "ANSIBLE_HOME": str(self.directory / "ansible"), "PYTHONUNBUFFERED": "1", "LC_ALL": "C.UTF-8",
                   "PATH": f"{self.venv}/bin:{os.environ['PATH']}"}
        command = [f"{self.venv}/bin/ansible-playbook", "-i", str(inventory), str(FILES / "playbook.yaml")]
        command += [word for name, value in variables.items() for word in ("-e", f"{name}={value}")]
        course, lines = Course(), []
        with bootstrap.started(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True,
                               env=environ) as process:
            for line in process.stdout:
                lines.append(line)
                if line.startswith("TASK ["):
                    name = self.MARKS.get(line[6:line.index("]")])
                    if name:
                        course.mark(name)
            assert process.wait() == 0, "".join(lines)
        course.mark("nothing left")
        return course


def ansible_venv(state_dir: Path, python: str) -> Path:
    """Give an environment with ansible, which contains the collection; made where it is missing. It is for this benchmark alone."""
    venv = state_dir / "ansible"
    if not (venv / "ready").exists():
        subprocess.run([python, "-m", "venv", "--clear", str(venv)], check=True)
        with (state_dir / "ansible.log").open("w") as log:
            subprocess.run([f"{venv}/bin/pip", "install", "--no-input", "ansible>=10", SDK], check=True, stdout=log, stderr=log)
        (venv / "ready").touch()
    return venv


def wait(probe: Callable[[], bool], what: str, pause: float = LOOK) -> None:
    """Look until it is so."""
    deadline = time.monotonic() + LIMIT
    while not probe():
        if time.monotonic() > deadline:
            raise SystemExit(f"bench: {what} did not come within {LIMIT} s")
        time.sleep(pause)
