"""Make jobs, look at them, change and delete them."""

from __future__ import annotations

import itertools
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.client import Client
from tests.harness.command import Openstack
from tests.harness.stack import Stack
from tests.harness.training import WAIT, Gate, document

SHOWN = {
    "id": str, "name": str, "status": str, "progress": int, "metadata": dict, "framework": dict, "image": dict, "roles": dict,
    "command": str, "env": dict, "max_run_time": int, "max_restarts": int, "attempt": int, "created_at": str, "recover_on_exit_codes": list,
}
LISTED = {"ID": str, "Name": str, "Status": str, "Cause": type(None), "Progress": int, "Nodes": int, "Accelerators": int, "Run Time": float}

JOB_FILE = """\
# a job file
name: from-file
description: what it is
image: plain
flavor: cpu.small
workers: 2
command: python3 train.py
env:
  LR: 1e-3      # a text, as all variables are
  MODE: file
  LEVEL: file
max_run_time: 15m
recover_on_exit_codes: [42]
"""


@pytest.fixture(scope="session")
def double(session_stack: Stack) -> str:
    """Make a flavor with two GPUs, to the end of the session: the service remembers flavors for a while."""
    admin = session_stack.cloud.session("local-admin")
    compute = {"endpoint_filter": {"service_type": "compute", "interface": "public"}}
    size = {"name": "gpu.double", "vcpus": 8, "ram": 16384, "disk": 80}
    flavor = admin.post("/flavors", json={"flavor": size}, **compute).json()["flavor"]
    admin.post(f"/flavors/{flavor['id']}/os-extra_specs", json={"extra_specs": {"resources:CUSTOM_GPU": "2"}}, **compute)
    return "gpu.double"


@pytest.fixture
def crowded(session_stack: Stack, client: Client, gate: Gate, double: str) -> Iterator[None]:
    """A cloud whose eight GPUs jobs wait for, in nodes of one and of two; the project may have two more accelerators."""
    holds = client.submit(document(name="holds", workers=1, flavor="gpu.small", env=gate.env), gate.files(WAIT))
    gate.expect(1)
    waiting = [client.submit(document(name=f"wants-{name}", workers=8, flavor=name, command="true")) for name in ("gpu.small", double)]
    for job in waiting:
        client.wait(job, lambda job: job["cause"] == "NO_CAPACITY")
    quota = f"/v1/quota/{client.job(holds)['project_id']}"
    for limit in (1 + 8 + 16 + 2, None):
        assert session_stack.admin.request("PUT", quota, json={"quota": {"limits": {"accelerators": limit}}}).ok
        if limit:
            yield
    gate.open()
    for job in waiting:
        client.cancel(job)
    for job in (holds, *waiting):
        client.finish(job)


def test_u03_alternatives_with_the_reasons_why_not(openstack: Openstack, crowded: None) -> None:
    plan = openstack.json("ml", "job", "plan", "x", "--image", "plain", "--flavor", "cpu.small", "--command", "true")
    reasons = {offer["flavor"]: (offer["reason"] or "").partition(":")[0] for offer in plan["offers"]}
    assert reasons == {"gpu.small": "busy", "gpu.double": "no host", "gpu.large": "no quota"}
    assert plan["feasible"], "cpu.small itself is free"
    flavors = {row["Name"]: (row["Nodes in Use"], row["Jobs Waiting"], row["Quota Left"]) for row in openstack.json("ml", "flavor", "list")}
    assert flavors == {"cpu.small": (0, 0, None), "gpu.small": (1, 1, 2), "gpu.double": (0, 1, 1), "gpu.large": (0, 0, 0)}


def test_u01_u03_plan(openstack: Openstack, client: Client) -> None:
    args = ("planned", "--image", "plain", "--flavor", "gpu.small", "--workers", "2", "--max-run-time", "2h", "--command", "true")
    before = client.jobs(limit=1000)
    plan = openstack.json("ml", "job", "plan", *args)
    assert (plan["feasible"], plan["starts"], plan["queue_position"], plan["accelerators"]) == (True, "now", 1, 2)
    assert [node["flavor"] for node in plan["nodes"]] == ["gpu.small"] * 2
    assert (plan["cost_per_hour"], plan["max_cost"], plan["currency"]) == (7200.0, 14400.0, "CHF")
    assert ("gpu.large", True, None) in [(offer["flavor"], offer["available"], offer["reason"]) for offer in plan["offers"]]
    assert "gpu.large: available, 14400.00 an hour" in openstack("ml", "job", "create", "--dry-run", *args).out
    assert client.jobs(limit=1000) == before


def test_u01_u15_what_is_beyond_the_quota(openstack: Openstack) -> None:
    def limit(nodes: str) -> None:
        openstack("ml", "quota", "set", project, "--nodes", nodes, cloud="local-admin")

    before = openstack.json("ml", "quota", "show")
    project = before["project_id"]
    args = ("big", "--image", "plain", "--flavor", "cpu.small", "--workers", "4", "--command", "true")
    limit("3")
    try:
        assert openstack.json("ml", "quota", "show") == {**before, "nodes": 3}
        planned = openstack.run("ml", "job", "plan", *args, "-f", "json")
        refused = openstack.run("ml", "job", "create", *args)
    finally:
        limit("default")
    assert (planned.code, planned.json["feasible"], refused.code) == (1, False, 1)
    assert planned.json["reasons"] == [refused.err.strip()], "the same words"
    assert "4" in refused.err and "3" in refused.err


def test_u02_plan_refuses_what_create_refuses(openstack: Openstack) -> None:
    args = ("x", "--image", "plain", "--flavor", "cpu.small", "--command", "true", "--role", "wroker=1")
    planned, created = openstack.run("ml", "job", "plan", *args), openstack.run("ml", "job", "create", *args)
    assert planned == created
    assert created.code == 2
    assert "did you mean 'worker'?" in created.err


def test_u04_job_file_and_what_is_laid_over_it(openstack: Openstack, client: Client, tmp_path: Path) -> None:
    (tmp_path / "env").write_text("# variables\nMODE=env-file\nLEVEL=env-file\n")
    made = openstack.json("ml", "job", "create", "--file", "-", "--env-file", str(tmp_path / "env"), "--env", "LEVEL=option",
                          "--set", "roles.worker.count=1", "--set", "metadata.team=vision", "--set", "max_restarts=3", "named",
                          stdin=JOB_FILE.replace("workers: 2\n", ""))
    job = client.job(made["id"])
    client.cancel(made["id"])
    assert job["env"] == {"LR": "1e-3", "MODE": "env-file", "LEVEL": "option"}
    assert (job["name"], job["description"], job["max_run_time"], job["max_restarts"]) == ("named", "what it is", 900, 3)
    assert job["recover_on_exit_codes"] == [42]
    assert job["roles"]["worker"]["count"] == 1
    assert job["metadata"] == {"team": "vision"}


def test_u04_unknown_key_is_told_with_its_line_and_the_nearest_one(openstack: Openstack, client: Client, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(JOB_FILE.replace("flavor:", "flavr:"))
    done = openstack.run("ml", "job", "create", "--file", "job.yaml", cwd=tmp_path)
    assert done.code == 2
    assert done.err.startswith("job.yaml, line 5: flavr: unknown key; did you mean 'flavor'?"), done.err
    assert done.out == ""


def test_u05_create_prints_next_commands(openstack: Openstack, client: Client, code: Path) -> None:
    done = openstack("ml", "job", "create", "next", "--image", "plain", "--flavor", "cpu.small", "--source", str(code),
                     "--command", "python3 train.py", "-f", "json")
    made = done.json
    for next_one in ("job log show --follow", "job wait", "job cancel"):
        assert f"openstack ml {next_one} {made['id']}" in done.err
    client.succeed(made["id"])
    assert client.log(made["id"]) == "trained\n"


def test_u31_code_is_uploaded_with_its_commit(openstack: Openstack, client: Client, code: Path) -> None:
    for step in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "-qm", "code"]):
        subprocess.run(["git", "-C", str(code), *step], check=True)
    (code / "job.yaml").write_text("name: committed\nimage: plain\nflavor: cpu.small\nsource: {directory: .}\ncommand: cat data\n")
    (code / "data").write_text("some data\n")
    made = openstack.json("ml", "job", "create", "--file", str(code / "job.yaml"))
    client.succeed(made["id"])
    assert client.log(made["id"]) == "some data\n"
    head = subprocess.run(["git", "-C", str(code), "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    assert made["metadata"] == {"git_commit": head, "git_dirty": "true"}
    (code / ".cmlignore").write_text("*\n")
    refused = openstack.run("ml", "job", "create", "--file", str(code / "job.yaml"))
    assert refused.code == 2
    assert "line 4" in refused.err and ".cmlignore" in refused.err
    (code / ".cmlignore").unlink()
    with (code / "weights.bin").open("wb") as file:
        file.truncate(600 << 20)  # it takes no room
    refused = openstack.run("ml", "job", "create", "--file", str(code / "job.yaml"))
    assert refused.code == 2
    assert "more than the 512.0 MiB that are allowed. The biggest are:\n  600.0 MiB  weights.bin\n" in refused.err


def test_u16_did_you_mean(openstack: Openstack) -> None:
    job = ("ml", "job", "create", "x", "--command", "true")
    done = openstack.run(*job, "--image", "plain", "--flavor", "cpu.smal")
    assert (done.code, done.out) == (2, "")
    assert "--flavor: there is no flavor 'cpu.smal'; did you mean 'cpu.small'?" in done.err
    done = openstack.run(*job, "--image", "plian", "--flavor", "cpu.small")
    assert done.code == 2
    assert "--image: there is no image 'plian' that you may use; did you mean 'plain'?" in done.err
    done = openstack.run(*job, "--flavour", "cpu.small")
    assert done.code == 2
    assert "did you mean --flavor?" in done.err


def test_u17_u27_list(openstack: Openstack, client: Client, done: str, running: str) -> None:
    rows = openstack.json("ml", "job", "list")
    assert list(rows[0]) == [*LISTED, "Cost"]
    assert [row["ID"] for row in rows] == [running]
    assert rows[0]["Cost"]["amount"] > 0, "up to now"
    rows = openstack.json("ml", "job", "list", "--all", "--long", "--name", "done", "--limit", "1")
    assert {row["ID"] for row in rows} == {done}
    assert rows[0]["Metadata"] == {"purpose": "test"}
    made = [row["ID"] for row in openstack.json("ml", "job", "list", "--all", "--max-items", "2")]
    assert made == [job["id"] for job in client.jobs(limit=2)], "the newest first"


def test_u19_json_has_stable_keys_and_real_types(openstack: Openstack, done: str) -> None:
    shown = openstack.json("ml", "job", "show", "done")
    assert {key: type(shown[key]) for key in SHOWN} == SHOWN
    assert shown["id"] == done
    assert shown["roles"]["worker"]["count"] == 2
    [row] = [row for row in openstack.json("ml", "job", "list", "--status", "SUCCEEDED") if row["ID"] == done]
    assert {key: type(row[key]) for key in LISTED} == LISTED


def test_u20_delete_tries_all(openstack: Openstack, client: Client) -> None:
    jobs = [client.submit(document(name=f"gone-{i}", workers=1, command="true")) for i in range(2)]
    for job in jobs:
        client.succeed(job)
    done = openstack.run("ml", "job", "delete", jobs[0], "no-such-job", "gone-1")
    assert (done.code, done.out) == (1, "")
    assert "Failed to delete the job 'no-such-job': No job has the name or id 'no-such-job'" in done.err
    assert "1 of 3 jobs failed to delete" in done.err
    assert not {job["id"] for job in client.jobs(limit=1000)} & set(jobs)
    assert openstack("ml", "job", "delete", "--ignore-missing", "no-such-job") .out == ""


def test_u29_a_repeated_create_gives_the_same_job(openstack: Openstack, client: Client, request: object) -> None:
    args = ("ml", "job", "create", "once", "--image", "plain", "--flavor", "cpu.small", "--command", "true", "--client-token",
            f"token-{id(request)}")
    first, second = openstack.json(*args), openstack.json(*args)
    assert first["id"] == second["id"]
    client.finish(first["id"])


def test_set_and_unset(openstack: Openstack, client: Client, done: str) -> None:
    openstack("ml", "job", "set", "--property", "stage=two", "--priority", "7", done)
    job = client.job(done)
    assert (job["metadata"], job["priority"]) == ({"purpose": "test", "stage": "two"}, 7)
    openstack("ml", "job", "unset", "--property", "stage", done)
    assert client.job(done)["metadata"] == {"purpose": "test"}


def test_json_is_what_the_service_says(openstack: Openstack, client: Client, failed: str) -> None:
    shown, said = openstack.json("ml", "job", "show", failed), client.job(failed)
    assert {key: value for key, value in said.items() if key not in ("links", "phase", "target")} == shown, json.dumps(shown)


def test_u18_watch(openstack: Openstack, client: Client, gate: Gate) -> None:
    job = client.submit(document(name="seen", workers=1, env=gate.env), gate.files(WAIT))
    gate.expect(1)
    client.wait_status(job, "RUNNING")
    with openstack.start("ml", "job", "list", "--all", "--name", "seen", "--watch", "-f", "value", "-c", "Status") as watching:
        assert watching.line() == "RUNNING"
        gate.open()
        done = watching.end()
    client.delete(job)
    assert done.code == 0
    assert done.out.splitlines()[-1] == "SUCCEEDED"
    lines = ["RUNNING", *done.out.splitlines()]
    assert all(a != b for a, b in itertools.pairwise(lines)), "only with a change"


def test_u30_apply(openstack: Openstack, client: Client, gate: Gate, code: Path) -> None:
    for name, content in gate.files(WAIT).items():
        (code / name).write_text(content)
    (code / "job.yaml").write_text("name: applied\nimage: plain\nflavor: cpu.small\nsource: {directory: .}\ncommand: python3 train.py\n")
    apply = ("ml", "job", "apply", "--file", str(code / "job.yaml"), "--env", f"GATE={gate.env['GATE']}")
    first = openstack.json(*apply)
    same = openstack(*apply, "-f", "json")
    assert same.json["id"] == first["id"]
    assert f"No changes: the job {first['id']} is" in same.err
    changed = openstack(*apply, "--set", "priority=5", "-f", "json")
    assert "priority: null -> 5 (in place)" in changed.err
    assert (changed.json["id"], changed.json["priority"]) == (first["id"], 5)
    refused = openstack.run(*apply, "--set", "priority=5", "--max-restarts", "2")
    assert refused.code == 1
    assert "max_restarts: null -> 2 (needs a new job)" in refused.err and "--restart" in refused.err
    second = openstack.json(*apply, "--set", "priority=5", "--max-restarts", "2", "--restart")
    assert second["id"] != first["id"]
    assert client.finish(first["id"])["status"] == "CANCELLED"
    gate.open()
    client.succeed(second["id"])
    for job in (first, second):
        client.delete(job["id"])
