"""A project's quota, from the limit that an administrator sets to the job that fits again."""

from __future__ import annotations

from typing import Any

import pytest

from tests.harness.client import Client
from tests.harness.stack import Stack

DOCUMENT: dict[str, Any] = {"name": "quota", "framework": {"name": "custom"}, "flavor": "gpu.small", "workers": 2, "command": "true"}


@pytest.fixture
def project_id(stack: Stack) -> Any:
    """The other project; its limits are taken away at the end."""
    found = stack.other.get("/v1/quota")["quota"]["project_id"]
    yield found
    set_limits(stack.admin, found, jobs=None, nodes=None, accelerators=None)


def set_limits(admin: Client, project_id: str, **limits: int | None) -> dict[str, Any]:
    answer = admin.request("PUT", f"/v1/quota/{project_id}", json={"quota": {"limits": limits}})
    assert answer.status_code == 200, answer.text
    quota: dict[str, Any] = answer.json()["quota"]
    return quota


def test_a_project_that_there_is_not_has_no_limits(stack: Stack) -> None:
    answer = stack.admin.request("PUT", f"/v1/quota/{'0' * 32}", json={"quota": {"limits": {"jobs": 1}}})
    assert (answer.status_code, answer.json()["error"]["slug"]) == (404, "not_found")


def test_a_job_that_is_too_much_waits_for_the_end_of_others(stack: Stack, project_id: str) -> None:
    assert stack.other.request("PUT", "/v1/quota", json={"quota": {"limits": {"nodes": 100}}}).status_code == 403
    assert set_limits(stack.admin, project_id, nodes=3, accelerators=3)["limits"] == {"jobs": -1, "nodes": 3, "accelerators": 3}
    first = stack.other.submit(DOCUMENT)
    assert stack.other.get("/v1/quota")["quota"]["in_use"] in ({"jobs": 1, "nodes": 2, "accelerators": 2},
                                                              {"jobs": 0, "nodes": 0, "accelerators": 0})
    too_much = stack.other.request("POST", "/v1/jobs", json={"job": {**DOCUMENT, "workers": 4}})
    assert too_much.status_code == 403
    assert "Quota exceeded for nodes: the job needs 4" in too_much.json()["error"]["message"]
    stack.demo.succeed(stack.demo.submit(DOCUMENT))
    stack.other.succeed(first)
    assert stack.other.get("/v1/quota")["quota"]["in_use"] == {"jobs": 0, "nodes": 0, "accelerators": 0}
    stack.other.succeed(stack.other.submit(DOCUMENT))
