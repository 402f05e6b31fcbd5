"""A user's day with the client library, run by test_sdk.py with several versions of openstacksdk; prints OK at its end."""

import itertools
import sys
import tempfile
from pathlib import Path

import openstack
from openstack import exceptions

from cml_nova.clients.sdk import PackingError, explain, git_state, register

TRAIN = """
print("hello", flush=True)
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


def main(vendor_hook):
    conn = openstack.connect()
    if vendor_hook:
        assert hasattr(conn, "machine_learning")
    else:
        register(conn)
    ml = conn.machine_learning
    register(conn)
    assert conn.machine_learning is ml
    other = openstack.connect()
    register(other)
    assert next(other.machine_learning.jobs(limit=1), None) is None

    assert {framework.name for framework in ml.frameworks()} >= {"custom", "mxnet", "tensorflow"}
    flavors = {flavor.name: flavor for flavor in ml.flavors()}
    assert flavors["cpu.small"].vcpus >= 1
    error = refused(exceptions.HttpException, lambda: list(ml.workers()))
    assert error.status_code == 403 and "roles" in explain(error) and error.request_id in explain(error)

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
        package = ml.upload_package(code, max_bytes=50000)
        assert ml.upload_package(code).id == package.id
        assert [found.id for found in ml.packages(sha256=package.sha256)] == [package.id]
        assert ml.get_package(package.id).name == "code"
        assert git_state(code) == {}

    document = {"image": "plain", "flavor": "cpu.small", "workers": 2, "command": "./run.sh"}
    error = refused(exceptions.BadRequestException, ml.create_job, name="a", wokers=2, command="true")
    assert "did you mean 'workers'" in explain(error), explain(error)
    name = "a day/..?x#y"
    job = ml.create_job(name=name, source={"package": package.id}, metadata={"team": "a"}, **document)
    assert job.id and job.status in ("QUEUED", "BUILDING", "PREPARING", "RUNNING"), job
    assert ml.create_job(client_token="again", name="b", max_wait_time=60, **document).id == ml.create_job(
        client_token="again", name="b", max_wait_time=60, **document).id
    again = ml.find_job("b")
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
    piece = ml.job_log(job, "worker:1")
    assert piece.data.startswith(b"hello\n") and piece.eof and piece.next_offset == len(piece.data)
    lines = [(line.task, line.text) for line in ml.follow_log(job) if line.text == "hello"]
    assert sorted(lines) == [("worker:0", "hello"), ("worker:1", "hello")], lines
    assert [(node.rank, node.role, node.tasks[0]["exit_code"]) for node in ml.job_nodes(job)] == [(0, "worker", 0), (1, "worker", 0)]
    events = list(ml.job_events(job))
    assert events[0].kind == "created"
    assert [event.id for event in ml.job_events(job, limit=2)] == [event.id for event in events]
    assert {series.task: [point["y"] for point in series.data] for series in ml.job_metrics(job, name="loss")} == {
        "worker:0": [0, 1, 2], "worker:1": [0, 1, 2]}
    assert ml.job_checkpoint(job) is None
    assert list(ml.job_artifacts(job)) == []

    assert ml.update_job(job, name="renamed", metadata={"team": "b"}).metadata == {"team": "b"}
    assert ml.get_job(job).name == "renamed"
    assert [found.id for found in ml.jobs(metadata=["team=b"], status=["SUCCEEDED", "FAILED"])] == [job.id]
    assert {found.id for found in itertools.islice(ml.jobs(limit=1), 10)} == {job.id, again.id}
    ml.delete_job(job)
    ml.delete_job(job)
    refused(exceptions.ResourceNotFound, ml.delete_job, job, ignore_missing=False)
    ml.delete_job(again)
    ml.delete_package(package)
    assert list(ml.packages()) == []
    print("OK")


if __name__ == "__main__":
    main(sys.argv[1:] == ["vendor-hook"])
