"""tools/quickstart as its user sees it: what it prints, how it exits, and what is left."""

from __future__ import annotations

import os
import random
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from keystoneauth1.identity import v3
from keystoneauth1.session import Session

from tests.harness import guests
from tests.harness.client import Client
from tests.harness.process import free_port

REPOSITORY = Path(__file__).parents[2]
SECONDS = 240  # more than any run takes on a slow machine whose images are built


@dataclass(frozen=True)
class Quickstart:
    """The command, with a state directory, ports and addresses of its own."""

    state_dir: Path
    port: int
    cloud_port: int
    network: str

    @contextmanager
    def started(self, *args: str) -> Iterator[subprocess.Popen[str]]:
        command = [REPOSITORY / "tools" / "quickstart", "--state-dir", self.state_dir, "--port", str(self.port),
                   "--cloud-port", str(self.cloud_port), "--network", self.network, *args]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            try:
                yield process
            finally:
                if process.poll() is None:
                    process.terminate()  # it stops what it has started

    def run(self, *args: str) -> subprocess.CompletedProcess[str]:
        """Run it to its end; give its exit code and what it printed."""
        with self.started(*args) as process:
            out, err = process.communicate(timeout=SECONDS)
            return subprocess.CompletedProcess(args, process.returncode, out, err)

    def processes(self) -> list[str]:
        """List the daemons and the processes of guests that run now."""
        return guests.started_with(self.state_dir) + guests.processes(self.state_dir)

    def client(self) -> Client:
        """Give a user of what ``--keep`` left running."""
        auth = yaml.safe_load((self.state_dir / "clouds.yaml").read_text())["clouds"]["local"]["auth"]
        return Client(Session(v3.Password(**auth), timeout=60))


@pytest.fixture
def quickstart(tmp_path: Path) -> Iterator[Quickstart]:
    """A command whose virtual environment and images are links to those of the tests, so that nothing is built again."""
    shared = Path(os.environ.get("CML_TEST_STATE_DIR", REPOSITORY / ".state"))
    state_dir = tmp_path / "state"
    state_dir.mkdir()
    for name in ("venv", "images"):
        (state_dir / name).symlink_to(shared / name)
    command = Quickstart(state_dir, free_port(), free_port(), f"127.{random.randrange(65, 255)}.0.0/16")
    yield command
    left = command.processes()
    command.run("--down")
    assert not left, f"left running: {left}"


def check(done: subprocess.CompletedProcess[str], tasks: list[str], model_file: str) -> None:
    """Hold a run to what it promises.

    :param tasks: those whose lines have to be there.
    """
    out = done.stdout
    assert done.returncode == 0, f"{out}\n{done.stderr}"
    assert {line.partition("|")[0].strip() for line in out.splitlines() if "|" in line} >= set(tasks)
    for status in ("QUEUED", "RUNNING", "SUCCEEDED"):
        assert f"-- {status}" in out
    assert "progress 100 %" in out
    assert float(one(r"^Final test accuracy, as the training reported it: (0\.\d+)$", out)) > 0.9
    model = Path(one(r"^Exported model: (/.+)$", out))
    assert [path for path in model.rglob(model_file) if path.stat().st_size]
    images, accuracy = re.findall(r"^It was loaded back and classified (\d+) test images; accuracy (0\.\d+)$", out, re.MULTILINE)[0]
    assert int(images) > 100
    assert float(accuracy) > 0.9
    lines = re.findall(r"^ +(\d+\.\d) s  (.+)$", out.partition("\nTime line:\n")[2], re.MULTILINE)
    times = {name: float(seconds) for seconds, name in lines}
    total = times.pop("in all")
    assert set(times) >= {"virtual environment", "framework image", "service and cloud start", "package and submit", "servers boot",
                          "training", "outputs come in", "servers go", "model fetched and tried"}
    assert 0 < times["training"] < sum(times.values()) < total + 1
    assert one(r"^servers left in the cloud: (\d+)$", out) == "0"


def one(pattern: str, text: str) -> str:
    """Give what a pattern finds, which has to be there once."""
    found = re.findall(pattern, text, re.MULTILINE)
    assert len(found) == 1, f"{pattern} was found {len(found)} times in:\n{text}"
    return str(found[0])


@pytest.mark.parametrize(("framework", "model_file"), [("tensorflow", "saved_model.pb"), ("mxnet", "digits-0000.params")])
def test_workers_train_a_model_in_step(quickstart: Quickstart, framework: str, model_file: str) -> None:
    """Each worker sees half of the data only: the same weights on both mean that they exchanged their gradients."""
    done = quickstart.run("--framework", framework)
    check(done, ["worker:0", "worker:1"], model_file)
    weights = dict(re.findall(r"^(worker:\d) +\| weights sha256 ([0-9a-f]{64})$", done.stdout, re.MULTILINE))
    assert set(weights) == {"worker:0", "worker:1"}
    assert len(set(weights.values())) == 1


def test_parameter_server_and_what_is_kept(quickstart: Quickstart) -> None:
    """Parameter servers and their workers go on for ever: they are stopped when the chief is done."""
    done = quickstart.run("--strategy", "ps", "--keep")
    try:
        check(done, ["chief:0", "worker:0", "worker:1", "ps:0"], "saved_model.pb")
        client = quickstart.client()
        [job] = client.jobs()
        nodes = client.nodes(job["id"])
        assert {task["name"]: task["state"] for node in nodes for task in node["tasks"]} == {
            "chief:0": "EXITED", "ps:0": "STOPPED", "worker:0": "STOPPED", "worker:1": "STOPPED"}
        assert len({node["address"] for node in nodes}) == 4
        assert "curl -s -H" in done.stdout
        assert "openstack server list" in done.stdout
        assert f"tools/quickstart --down --state-dir {quickstart.state_dir}" in done.stdout
    finally:
        down = quickstart.run("--down")
    assert (down.returncode, down.stdout) == (0, "Stopped: standalone, localcloud.\n"), down.stderr


@pytest.mark.parametrize("option", ["--port", "--cloud-port"])
def test_port_that_is_taken(quickstart: Quickstart, option: str) -> None:
    port = quickstart.port if option == "--port" else quickstart.cloud_port
    with socket.create_server(("127.0.0.1", port)):
        done = quickstart.run()
    assert done.returncode == 1
    assert f"Port {port} of 127.0.0.1 can't be used" in done.stderr
    assert f"choose another with {option}." in done.stderr
    assert "servers left" not in done.stdout


@pytest.mark.parametrize(("number", "code", "args"), [
    (signal.SIGINT, 130, []), (signal.SIGTERM, 143, []), (signal.SIGTERM, 143, ["--keep"]),
])
def test_interrupted(quickstart: Quickstart, number: signal.Signals, code: int, args: list[str]) -> None:
    """The job is cancelled before anything is stopped, so that its servers are deleted; then the service is stopped, and the cloud."""
    with quickstart.started(*args) as process:
        assert process.stdout is not None and process.stderr is not None
        for line in process.stdout:
            if line.startswith("-- BUILDING"):
                break
        process.send_signal(number)
        out, err = process.stdout.read(), process.stderr.read()
    assert process.wait() == code, f"{out}\n{err}"
    assert "-- CANCELLED" in out
    assert one(r"^servers left in the cloud: (\d+)$", out) == "0"
    assert quickstart.processes() == []
