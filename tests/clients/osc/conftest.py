"""The real ``openstack`` command against the service, with the oldest clients that are supported and the newest.

A call of it takes a second or two of the processor: so tests share jobs, made over HTTP, and look at more than one thing of an answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.conftest import SIDES
from tests.harness.client import Client
from tests.harness.command import Openstack, ceiling, floor
from tests.harness.stack import Stack
from tests.harness.training import WAIT, Gate, document


@pytest.fixture(scope="session", params=SIDES)
def openstack(request: pytest.FixtureRequest, session_stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Openstack:
    clouds = session_stack.cloud.directory / "clouds.yaml"
    if request.param == "floor":
        return floor(clouds, "local", tmp_path_factory.mktemp("floor"))
    return ceiling(clouds, "local")


@pytest.fixture(scope="session")
def client(session_stack: Stack) -> Client:
    """The same user over HTTP."""
    return session_stack.demo


#: prints, reports metrics and progress, and leaves a file
TRAIN = '''
import json, os

rank = int(os.environ["CML_NODE_RANK"])
for step in range(5):
    print("rank", rank, "line", step, flush=True)
    print("CML_METRIC", json.dumps({"name": "loss", "value": 1 / (1 + step), "step": step}), flush=True)
os.makedirs(os.environ["CML_OUTPUT_DIR"], exist_ok=True)
with open(os.path.join(os.environ["CML_OUTPUT_DIR"], "model.txt"), "w") as file:
    file.write("model of rank %d" % rank)
'''


@pytest.fixture(scope="session")
def done(client: Client) -> str:
    """Give the id of a job that has succeeded: two workers, a setup command, metrics and outputs."""
    wanted = document(name="done", flavor="gpu.small", setup="echo set up", metadata={"purpose": "test"})
    job_id = client.submit(wanted, {"train.py": TRAIN})
    client.succeed(job_id)
    return job_id


@pytest.fixture(scope="session")
def failed(client: Client) -> str:
    """Give the id of a job whose program has ended with the code 7."""
    job_id = client.submit(document(name="failed", workers=1), {"train.py": "import sys; print('first\\nabout to fail'); sys.exit(7)"})
    client.finish(job_id)
    return job_id


@pytest.fixture(scope="session")
def ends(client: Client, failed: str) -> dict[str, str]:
    """Give the ids of jobs that have ended in several ways."""
    jobs = {
        "setup": client.submit(document(name="setup", workers=1, setup="echo broken; exit 3", command="true")),
        "slow": client.submit(document(name="slow", workers=1, max_run_time=1, command="sleep 60")),
        "large": client.submit(document(name="large", workers=3, flavor="gpu.large", max_wait_time=1, command="true")),
        "failed": failed,
        "cancelled": client.submit(document(name="cancelled", workers=1, command="sleep 60")),
    }
    client.cancel(jobs["cancelled"])
    for job_id in jobs.values():
        client.finish(job_id)
    return jobs


@pytest.fixture(scope="session")
def recovered(session_stack: Stack, client: Client) -> str:
    """Give the id of a job that has lost a machine, and has succeeded."""
    with Gate() as gate:
        job_id = client.submit(document(name="recovered", env=gate.env), gate.files(WAIT))
        gate.expect(2)
        session_stack.cloud.fault("server", server=client.nodes(job_id)[1]["server_id"], fault="vanish")
        gate.expect(4)
        gate.open()
        client.succeed(job_id)
    return job_id


@pytest.fixture
def running(client: Client, gate: Gate) -> Iterator[str]:
    """Give the id of a job that has printed a line and waits at its gate, on a node that has a price."""
    job_id = client.submit(document(name="running", workers=1, flavor="gpu.small", env=gate.env), gate.files(WAIT))
    gate.expect(1)
    yield job_id
    gate.open()
    client.finish(job_id)


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """A directory with training code."""
    directory = tmp_path / "code"
    directory.mkdir()
    (directory / "train.py").write_text("print('trained')\n")
    return directory
