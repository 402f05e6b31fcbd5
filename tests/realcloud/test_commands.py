"""A day with the ``openstack`` command, against the service on a real cloud: Debian's own client packages and the newest take turns."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import requests

from tests.harness.client import Client
from tests.harness.command import Openstack, ceiling, floor
from tests.harness.realcloud import RealCloud
from tests.harness.waiting import until
from tests.realcloud.conftest import document

TRAIN = '''
import json
import os

rank = int(os.environ["CML_NODE_RANK"])
for step in range(3):
    print("rank", rank, "line", step, flush=True)
    print("CML_METRIC", json.dumps({"name": "loss", "value": 1 / (1 + step), "step": step}), flush=True)
with open(os.path.join(os.environ["CML_OUTPUT_DIR"], "model.txt"), "w") as file:
    file.write("model of rank %d" % rank)
'''


@pytest.fixture
def newest(cloud: RealCloud) -> Openstack:
    return ceiling(Path(os.environ["OS_CLIENT_CONFIG_FILE"]), cloud.settings.user_cloud)


@pytest.fixture
def oldest(cloud: RealCloud, tmp_path: Path) -> Openstack:
    return floor(Path(os.environ["OS_CLIENT_CONFIG_FILE"]), cloud.settings.user_cloud, tmp_path)


@pytest.fixture
def directory(cloud: RealCloud, tmp_path: Path) -> Path:
    """Give a directory with a training and its job file."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "train.py").write_text(TRAIN)
    (tmp_path / "job.yaml").write_text(f"""
name: day
image: {cloud.settings.image}
flavor: {cloud.settings.flavor}
workers: 2
source: {{directory: code}}
command: python3 train.py
""")
    return tmp_path


def test_from_the_plan_to_the_model(newest: Openstack, oldest: Openstack, cloud: RealCloud, directory: Path) -> None:
    file = str(directory / "job.yaml")
    assert cloud.settings.flavor in {row["Name"] for row in newest.json("ml", "flavor", "list")}
    assert oldest.json("ml", "job", "plan", "--file", file)["feasible"] is True
    assert cloud.servers() == []
    job = newest.json("ml", "job", "create", "--file", file, "--wait", timeout=300)
    assert (job["status"], job["attempt"]) == ("SUCCEEDED", 1)
    assert cloud.servers(job["id"]) == []
    for name, openstack in (("oldest", oldest), ("newest", newest)):
        log = openstack("ml", "job", "log", "show", job["id"], "--task", "worker:1").out
        assert [line for line in log.splitlines() if "line" in line] == [f"rank 1 line {step}" for step in range(3)]
        openstack("ml", "job", "artifact", "save", job["id"], "--directory", str(directory / name))
        [model] = (directory / name).rglob("worker-1/model.txt")
        assert model.read_text() == "model of rank 1"
    assert {row["Status"] for row in oldest.json("ml", "job", "node", "list", job["id"])} == {"DELETED"}
    assert newest.json("ml", "job", "event", "list", job["id"])[-1]["Message"] == "Nothing is left in the cloud."
    assert [float(line.split(",")[-1]) for line in oldest(
        "ml", "job", "metric", "show", job["id"], "--name", "loss", "--task", "worker:0", "-f", "csv", "-c", "Value").out.splitlines()[1:]
    ] == [1.0, 1 / 2, 1 / 3]
    assert sum(day["Node Time"] for day in newest.json("ml", "usage", "show")) > 0
    oldest("ml", "job", "delete", job["id"])


@pytest.mark.parametrize("side", ["newest", "oldest"])
def test_follow_and_cancel(side: str, request: pytest.FixtureRequest, cloud: RealCloud, client: Client, directory: Path) -> None:
    openstack: Openstack = request.getfixturevalue(side)
    forever = ("--set", "command=" + json.dumps("i=0; while :; do echo tick $i; i=$((i+1)); sleep 1; done"), "--set", "workers=1")
    job_id = openstack.json("ml", "job", "create", "--file", str(directory / "job.yaml"), *forever)["id"]
    with openstack.start("ml", "job", "log", "show", "--follow", job_id, "--task", "worker:0") as follower:
        assert [follower.line() for _ in range(3)] == [f"tick {number}" for number in range(3)]
        openstack("ml", "job", "cancel", job_id)
        assert follower.end(timeout=120).code == 4
    assert client.job(job_id)["status"] == "CANCELLED"
    assert cloud.servers(job_id) == []


SERVE = '''
import http.server
import os

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"rank " + os.environ["CML_NODE_RANK"].encode())

server = http.server.HTTPServer(("127.0.0.1", 6006), Handler)
print("serving", flush=True)
server.serve_forever()
'''


def test_log_in_and_forward_a_port(newest: Openstack, oldest: Openstack, client: Client, cloud: RealCloud) -> None:
    """The security group lets only the workers in; what listens on a node's loopback address is reached all the same."""
    job_id = client.submit(document(cloud.settings, command="python3 train.py"), {"train.py": SERVE})
    client.wait_status(job_id, "RUNNING", timeout=300)
    until(lambda: all(client.log_size(job_id, f"worker:{rank}") for rank in range(2)), 60, "both servers")
    for openstack in (newest, oldest):
        done = openstack.run("ml", "job", "ssh", job_id, "--task", "worker:1", "--", "id -un; cat; exit 7", stdin="said")
        assert (done.code, done.out) == (7, f"{cloud.ssh_user(cloud.settings.image)}\nsaid"), done.err
    with oldest.start("ml", "job", "port", "forward", job_id, "6006", "--task", "worker:1", "--local-port", "0") as forward:
        assert requests.get(forward.error_line().split()[0], timeout=60).text == "rank 1"
        forward.interrupt()
        assert forward.end().code == 130
    client.cancel(job_id)
    client.finish(job_id, timeout=120)
    assert cloud.servers(job_id) == []
