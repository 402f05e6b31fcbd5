"""Projects do not see each other; roles may do what they may do."""

from __future__ import annotations

import pytest
import requests

from tests.harness.client import Client
from tests.harness.stack import Stack
from tests.harness.training import WAIT, Gate, document

ROUTES = [
    ("GET", ""), ("PATCH", ""), ("DELETE", ""), ("POST", "/cancel"), ("GET", "/log?task=worker:0"), ("GET", "/events"), ("GET", "/metrics"),
    ("GET", "/nodes"), ("GET", "/artifacts"), ("GET", "/artifacts/worker-0/model"),
]


def test_a_job_does_not_exist_for_another_project(stack: Stack, gate: Gate) -> None:
    job_id = stack.demo.submit(document(workers=1, env=gate.env), gate.files(WAIT))
    gate.expect(1)
    for method, path in ROUTES:
        body = {"job": {"name": "stolen"}} if method == "PATCH" else None
        answer = stack.other.request(method, f"/v1/jobs/{job_id}{path}", json=body)
        assert answer.status_code == 404, f"{method} {path}: {answer.status_code} {answer.text}"
    assert job_id not in [job["id"] for job in stack.other.jobs(limit=1000)]
    assert stack.demo.job(job_id)["status"] == "RUNNING"
    assert stack.demo.job(job_id)["target"] == "RUN"
    gate.open()
    stack.demo.succeed(job_id)


def test_only_the_administrator_sees_all_projects(stack: Stack) -> None:
    job_id = stack.demo.submit(document(workers=1, command="true"))
    stack.demo.succeed(job_id)
    assert job_id in [job["id"] for job in stack.admin.jobs(all_projects=True, limit=1000)]
    for client in (stack.demo, stack.other):
        assert client.request("GET", "/v1/jobs", params={"all_projects": True}).status_code == 403


def test_a_package_does_not_exist_for_another_project(stack: Stack) -> None:
    package = stack.demo.upload({"train.py": "print('mine')"})
    before = stack.other.jobs()
    answer = stack.other.request("POST", "/v1/jobs", json={"job": document(workers=1, source={"package": package})})
    assert answer.status_code == 400
    assert package in answer.text
    assert stack.other.jobs() == before


def test_reader_reads_and_changes_nothing(stack: Stack, gate: Gate) -> None:
    reader = Client(stack.cloud.session("local-reader"))
    job_id = stack.demo.submit(document(workers=1, env=gate.env), gate.files(WAIT))
    gate.expect(1)
    assert reader.job(job_id)["id"] == job_id
    changes = [
        ("POST", "/v1/jobs", {"job": document(command="true")}), ("PATCH", f"/v1/jobs/{job_id}", {"job": {"name": "x"}}),
        ("POST", f"/v1/jobs/{job_id}/cancel", None), ("DELETE", f"/v1/jobs/{job_id}", None),
    ]
    for method, path, body in changes:
        answer = reader.request(method, path, json=body)
        assert answer.status_code == 403, f"{method} {path}: {answer.status_code} {answer.text}"
    gate.open()
    stack.demo.succeed(job_id)


@pytest.mark.parametrize("token", [None, "", "gAAAAAnot-a-token"])
def test_without_a_valid_token_there_is_no_entry(stack: Stack, token: str | None) -> None:
    headers = {} if token is None else {"X-Auth-Token": token}
    answer = requests.get(stack.service.url + "/v1/jobs", headers=headers, timeout=30)
    assert answer.status_code == 401
    forged = {**headers, "X-Project-Id": "x", "X-User-Id": "x", "X-Roles": "admin", "X-Identity-Status": "Confirmed"}
    assert requests.get(stack.service.url + "/v1/jobs", headers=forged, timeout=30).status_code == 401
