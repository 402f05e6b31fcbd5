"""A user's day with the client library, run by test_sdk.py with several versions of openstacksdk; prints OK at its end."""

import contextlib
import itertools
import sys
import tempfile
import time
from pathlib import Path

import openstack
import requests
from openstack import exceptions

from cml_nova.clients.sdk import LogPiece, PackingError, explain, git_state, register

TRAIN = """
import os
print("hello", flush=True)
os.makedirs(os.path.join(os.environ["CML_OUTPUT_DIR"], "model"))
with open(os.path.join(os.environ["CML_OUTPUT_DIR"], "model", "weights 1.bin"), "wb") as file:
    file.write(bytes(range(256)) * 1000)
for value in range(3):
    print('CML_METRIC {"name": "loss", "value": %d}' % value)
"""


def refused(kind, call, *args, **kwargs):
    """Give the error that a call must end with."""
    try:
        call(*args, **kwargs)
    except kind as error:
        return error
    raise AssertionError(f"{call.__name__}{args}{kwargs} was not refused")


@contextlib.contextmanager
def unauthorized_after(ml, method, cloud):
    """Let the token be one that has expired and that the service has not seen before, once a method has been called.

    Gives a list of the codes that posts are answered with.
    """
    codes = []

    def call(**query):
        found = list(getattr(type(ml), method)(ml, **query))
        ml.session.invalidate()
        ml.session.get_token()
        requests.post(f"{cloud}/faults", json={"kind": "tokens", "expire": "all"}, timeout=30).raise_for_status()
        return found

    def note(response, *args, **kwargs):
        if "/packages" in response.request.path_url and response.request.method == "POST":
            codes.append(response.status_code)

    session = requests.Session()
    session.hooks["response"].append(note)
    kept, ml.session.session = ml.session.session, session
    setattr(ml, method, call)
    yield codes
    delattr(ml, method)
    ml.session.session = kept


def main(cloud):
    conn = openstack.connect()
    register(conn)
    ml = conn.machine_learning
    register(conn)
    assert conn.machine_learning is ml
    other = openstack.connect()
    register(other)
    assert all(job.id for job in itertools.islice(other.machine_learning.jobs(limit=1), 2))

    assert {framework.name for framework in ml.frameworks()} >= {"custom", "mxnet", "tensorflow"}
    flavors = {flavor.name: flavor for flavor in ml.flavors()}
    assert flavors["cpu.small"].vcpus >= 1
    error = refused(exceptions.HttpException, lambda: list(ml.workers()))
    assert error.status_code == 403 and "roles" in explain(error) and error.request_id

    with tempfile.TemporaryDirectory() as directory:
        code = Path(directory, "code")
        (code / "data").mkdir(parents=True)
        refused(PackingError, ml.upload_package, code)
        (code / "train.py").write_text(TRAIN)
        (code / "run.sh").write_text("#!/bin/sh\nexec python3 train.py\n")
        (code / "run.sh").chmod(0o750)
        (code / "data" / "big.bin").write_bytes(b"x" * 100000)
        assert "data/big.bin" in str(refused(PackingError, ml.upload_package, code, max_bytes=50000))
        (code / ".cmlignore").write_text("/data/\n")
        with unauthorized_after(ml, "packages", cloud) as refusals:  # that is, when the package was sent
            package = ml.upload_package(code, max_bytes=50000)
        assert refusals == [401, 201], refusals
        assert ml.upload_package(code).id == package.id
        assert [found.id for found in ml.packages(sha256=package.sha256)] == [package.id]
        assert ml.get_package(package.id).name == "code"
        assert git_state(code) == {}

    document = {"image": "plain", "flavor": "cpu.small", "workers": 2, "command": "./run.sh"}
    error = refused(exceptions.BadRequestException, ml.create_job, name="a", wokers=2, command="true")
    assert "did you mean 'workers'" in explain(error), explain(error)
    plan = ml.plan_job(name="a", **document)
    assert plan.feasible and plan.starts == "now" and plan.totals["nodes"] == 2 and plan.nodes[1]["tasks"] == ["worker:1"], plan
    assert explain(refused(exceptions.BadRequestException, ml.plan_job, name="a", wokers=2, command="true")) == explain(error)
    name, second = f"a day/..?x#y {time.time()}", f"again {time.time()}"
    job = ml.create_job(name=name, source={"package": package.id}, metadata={"team": "a"}, **document)
    assert job.id and job.status in ("QUEUED", "BUILDING", "PREPARING", "RUNNING"), job
    assert ml.create_job(client_token=second.replace(" ", ":"), name=second, max_wait_time=60, **document).id == ml.create_job(
        client_token=second.replace(" ", ":"), name=second, max_wait_time=60, **document).id
    again = ml.find_job(second)
    assert ml.find_job(again.id).id == again.id
    assert ml.cancel_job(again).target == "DELETE"
    assert ml.find_job("nobody") is None
    refused(exceptions.ResourceNotFound, ml.find_job, "nobody", ignore_missing=False)
    refused(exceptions.ResourceNotFound, ml.get_job, "nobody")

    seen = []
    job = ml.wait_for_job(ml.find_job(name), callback=lambda job: seen.append(job.status), timeout=120, interval=0.5)
    assert job.status == "SUCCEEDED", job
    assert seen[-1] == "SUCCEEDED" and job.progress == 100
    assert ml.wait_for_job(again.id, timeout=60).status == "CANCELLED"
    assert "ended" in explain(refused(exceptions.ConflictException, ml.cancel_job, again))
    assert job.cost is None and job.queue_position is None
    quota = ml.get_quota()
    assert quota.limits == {"jobs": -1, "nodes": -1, "accelerators": -1}, quota
    assert quota.in_use == {"jobs": 0, "nodes": 0, "accelerators": 0}, quota
    assert refused(exceptions.HttpException, ml.update_quota, nodes=5).status_code == 403
    admin = openstack.connect(cloud="local-admin")
    register(admin)
    operator = admin.machine_learning
    assert operator.update_quota(quota.project_id, nodes=5).limits["nodes"] == 5
    assert ml.get_quota(quota.project_id).limits["nodes"] == 5
    assert "nodes" in explain(refused(exceptions.HttpException, ml.create_job, name="big", **{**document, "workers": 6}))
    assert operator.update_quota(quota.project_id, nodes=None).limits["nodes"] == -1
    assert next(iter(operator.workers())).capacity > 0
    days = list(ml.usage())
    assert days[-1].jobs >= 1 and days[-1].node_seconds > 0, days
    assert {day.project_id for day in operator.usage(project=quota.project_id)} == {quota.project_id}
    assert "day" in explain(refused(exceptions.BadRequestException, lambda: list(ml.usage(start="yesterday"))))
    refused(exceptions.HttpException, lambda: list(ml.usage(all_projects=True)))
    refused(exceptions.ConflictException, ml.restart_job, ml.create_job(name="c", max_wait_time=60, **document))
    third = ml.restart_job(job)
    assert (third.restart_of, third.name, third.id == job.id) == (job.id, name, False)
    assert ml.job_document(third)["document"] == {
        "name": name, "source": {"package": package.id}, "metadata": {"team": "a"}, **document}, ml.job_document(third)
    ml.cancel_job(third)
    piece = ml.job_log(job, "worker:1")
    assert piece.data.startswith(b"hello\n") and piece.eof and piece.next_offset == len(piece.data)
    assert ml.job_log(job, "worker:1", tail=4) == LogPiece(piece.data[-4:], piece.next_offset, True, 1)
    assert [line.text for line in ml.follow_log(job, tasks=["worker:0"], lines=1)] == ['CML_METRIC {"name": "loss", "value": 2}']
    lines = [(line.task, line.text) for line in ml.follow_log(job) if line.text == "hello"]
    assert sorted(lines) == [("worker:0", "hello"), ("worker:1", "hello")], lines
    assert [(node.rank, node.role, node.tasks[0]["exit_code"]) for node in ml.job_nodes(job)] == [(0, "worker", 0), (1, "worker", 0)]
    events = list(ml.job_events(job))
    assert events[0].kind == "created"
    assert [event.id for event in ml.job_events(job, limit=2)] == [event.id for event in events]
    assert {series.task: [point["y"] for point in series.data] for series in ml.job_metrics(job, name="loss")} == {
        "worker:0": [0, 1, 2], "worker:1": [0, 1, 2]}
    assert ml.job_checkpoint(job) is None
    artifacts = {artifact.path: artifact.size for artifact in ml.job_artifacts(job)}
    assert artifacts == dict.fromkeys((f"output/worker-{rank}/model/weights 1.bin" for rank in range(2)), 256000)
    with tempfile.TemporaryDirectory() as directory:
        files = list(ml.download_artifacts(job, directory))
        assert sorted(str(file.relative_to(Path(directory).resolve())) for file in files) == sorted(artifacts)
        assert {file.read_bytes() for file in files} == {bytes(range(256)) * 1000}
        refused(exceptions.ResourceNotFound, ml.download_artifact, job, "output/none", Path(directory, "x"))
        assert not Path(directory, "x").exists()

    assert ml.update_job(job, name="renamed", metadata={"day": name[-9:]}).metadata == {"day": name[-9:]}
    assert ml.get_job(job).name == "renamed"
    assert [found.id for found in ml.jobs(metadata=[f"day={name[-9:]}"], status=["SUCCEEDED", "FAILED"])] == [job.id]
    assert len({found.id for found in itertools.islice(ml.jobs(limit=1), 3)}) == 3
    ml.delete_job(job)
    ml.delete_job(job)
    refused(exceptions.ResourceNotFound, ml.delete_job, job, ignore_missing=False)
    ml.delete_job(again)
    ml.delete_package(package)
    assert list(ml.packages(sha256=package.sha256)) == []
    print("OK")


if __name__ == "__main__":
    main(*sys.argv[1:])
