"""A job from its document to its results, and what is to be seen of it afterwards."""

from __future__ import annotations

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from keystoneauth1.exceptions import ConnectTimeout

from tests.harness.client import Client
from tests.harness.cloud import LocalCloud
from tests.harness.training import WAIT, Gate, document

WHOLE = '''
import json
import os

print("rank", os.environ["CML_NODE_RANK"], "of", os.environ["CML_NUM_NODES"], "at", os.environ["CML_NODE_ADDR"])
for step in range(3):
    print("CML_METRIC", json.dumps({"name": "loss", "value": 1.0 / (step + 1), "step": step}))
os.makedirs(os.path.join(os.environ["CML_OUTPUT_DIR"], "model"), exist_ok=True)
with open(os.path.join(os.environ["CML_OUTPUT_DIR"], "model", "weights.json"), "w") as file:
    json.dump({"rank": os.environ["CML_NODE_RANK"], "blob": "x" * 100000}, file)
'''


def test_everything_stays_readable_after_the_machines_are_gone(client: Client, cloud: LocalCloud) -> None:
    job_id = client.submit(document(metadata={"team": "vision"}, description="whole"), {"train.py": WHOLE})
    job = client.succeed(job_id)
    assert cloud.servers(job_id) == []
    assert job["progress"] == 100
    assert job["outcome"] == "SUCCEEDED"
    assert job["metadata"] == {"team": "vision"}
    assert job["created_at"] <= job["started_at"] <= job["finished_at"]

    logs = [client.log(job_id, f"worker:{i}") for i in range(2)]
    nodes = client.nodes(job_id)
    assert [node["rank"] for node in nodes] == [0, 1]
    for rank, (log, node) in enumerate(zip(logs, nodes, strict=True)):
        assert log.splitlines()[0] == f"rank {rank} of 2 at {node['address']}"
        assert [(task["state"], task["exit_code"]) for task in node["tasks"]] == [("EXITED", 0)]
    assert nodes[0]["address"] != nodes[1]["address"]

    series = {(s["name"], s["task"]): s["data"] for s in client.metrics(job_id, name="loss")}
    assert set(series) == {("loss", "worker:0"), ("loss", "worker:1")}
    assert [(point["step"], point["y"]) for point in series["loss", "worker:1"]] == [(0, 1.0), (1, 0.5), (2, 1 / 3)]

    sizes = client.artifacts(job_id)
    paths = {path for path in sizes if path.endswith("model/weights.json")}
    assert len(paths) == 2
    for path in paths:
        content = client.artifact(job_id, path)
        assert len(content) == sizes[path]
        assert len(json.loads(content)["blob"]) == 100000


def test_events_tell_the_story_in_order(client: Client) -> None:
    job_id = client.submit(document(), {"train.py": "print('hello')"})
    client.succeed(job_id)
    events = client.events(job_id)
    phases = [e["detail"]["phase"] for e in events if e["kind"] == "phase" and "phase" in e["detail"]]
    order = ["PROVISIONING", "BOOTSTRAPPING", "RUNNING", "COLLECTING", "TEARDOWN", "DONE"]
    assert [phase for phase in phases if phase in order] == order
    assert [e["at"] for e in events] == sorted(e["at"] for e in events)


def test_one_server_for_each_node_while_it_runs(client: Client, cloud: LocalCloud, gate: Gate) -> None:
    job_id = client.submit(document(workers=3, env=gate.env), gate.files(WAIT))
    gate.expect(3)
    job = client.wait_status(job_id, "RUNNING")
    assert job["outcome"] is None
    servers = cloud.servers(job_id)
    assert len(servers) == 3
    assert {node["server_id"] for node in client.nodes(job_id)} == {server["id"] for server in servers}
    assert all("cml-nova" in server["tags"] for server in servers)
    gate.open()
    client.succeed(job_id)
    assert Counter(visitor.task for visitor in gate.visitors) == {"worker:0": 1, "worker:1": 1, "worker:2": 1}


def test_files_of_the_package_are_there_with_their_modes(client: Client) -> None:
    files = {"run.sh": "#!/bin/sh\ncat data/words.txt\n", "data/words.txt": "eins zwei\n", "train.py": ""}
    job_id = client.submit(document(workers=1, command="./run.sh"), files)
    client.succeed(job_id)
    assert client.log(job_id) == "eins zwei\n"


def test_command_as_a_list_is_not_read_by_a_shell(client: Client) -> None:
    command = ["python3", "-c", "import sys; print(sys.argv[1:])", "$HOME; echo no", "'"]
    job_id = client.submit(document(workers=1, command=command))
    client.succeed(job_id)
    assert client.log(job_id) == "['$HOME; echo no', \"'\"]\n"


def test_environment_and_secrets_reach_the_process_and_secrets_are_never_shown(client: Client) -> None:
    secret = "s3cret 'quoted\" $(word)"
    script = "import os; print(os.environ['PLAIN'], len(os.environ['HIDDEN']), os.environ['HIDDEN'] == os.environ['PLAIN'])"
    job_id = client.submit(document(workers=1, env={"PLAIN": "a b'c"}, secrets={"HIDDEN": secret}), {"train.py": script})
    job = client.succeed(job_id)
    assert client.log(job_id) == f"a b'c {len(secret)} False\n"
    assert job["env"] == {"PLAIN": "a b'c"}
    for shown in (job, client.events(job_id), client.nodes(job_id), client.jobs()):
        assert "s3cret" not in json.dumps(shown)


def test_roles_have_commands_of_their_own(client: Client) -> None:
    roles = {"worker": {"count": 2}, "ps": {"count": 1, "command": "echo I am ps"}}
    body = {key: value for key, value in document(roles=roles).items() if key != "workers"}
    job_id = client.submit(body, {"train.py": "print('I am a worker')"})
    client.succeed(job_id)
    assert client.log(job_id, "ps:0") == "I am ps\n"
    assert client.log(job_id, "worker:1") == "I am a worker\n"


def test_delete_forgets_a_job_that_is_over(client: Client) -> None:
    job_id = client.submit(document(workers=1), {"train.py": "print('x')"})
    client.succeed(job_id)
    assert client.delete(job_id).status_code == 204
    assert client.request("GET", f"/v1/jobs/{job_id}").status_code == 404
    assert client.request("GET", f"/v1/jobs/{job_id}/log").status_code == 404
    assert job_id not in [job["id"] for job in client.jobs(limit=1000)]


@pytest.mark.fault("double-submit")
def test_same_client_token_is_the_same_job(client: Client) -> None:
    body = document(workers=1, client_token="once-only", command="true")
    first, second = client.submit(body), client.submit(body)
    assert first == second
    client.succeed(first)
    assert client.submit(body) == first
    assert len([job for job in client.jobs(limit=1000) if job["id"] == first]) == 1


@pytest.mark.fault("double-submit")
def test_a_request_that_is_repeated_for_want_of_an_answer_makes_one_job(client: Client) -> None:
    """The client gives up at once, without a word to the service, and sends the same again, several times at a time."""
    body = document(name="impatient", workers=1, client_token="impatient", command="true")
    for _ in range(3):
        with pytest.raises(ConnectTimeout):
            client.request("POST", "/v1/jobs", json={"job": body}, timeout=(10, 0.001))
    with ThreadPoolExecutor(5) as pool:
        ids = set(pool.map(client.submit, [body] * 5))
    assert [job["id"] for job in client.jobs(limit=1000) if job["name"] == "impatient"] == list(ids)
    client.succeed(ids.pop())
