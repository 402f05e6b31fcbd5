"""Quotas where Keystone keeps the limits: what is registered for everybody, and a project's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness.client import Client
from tests.harness.cloud import LocalCloud
from tests.harness.process import free_port
from tests.harness.service import Standalone
from tests.harness.stack import Stack

DOCUMENT: dict[str, Any] = {"name": "limits", "framework": {"name": "custom"}, "flavor": "gpu.small", "workers": 2, "command": "true"}


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    port = free_port()
    cloud = LocalCloud(tmp_path / "cloud", ml_endpoint=f"http://127.0.0.1:{port}")
    cloud.start()
    try:
        account = {"auth_type": "password", **cloud.credentials("local-admin")}
        options = {"quota": {"driver": "unified"}, "api": {"lookup_cache_time": 0},
                   "oslo_limit": {**account, "endpoint_id": "machine-learning-public", "region_name": "local"}}
        service = Standalone(tmp_path / "service", cloud, port, options)
        service.start()
        try:
            yield Stack.of(cloud, service)
        finally:
            service.stop()
    finally:
        cloud.stop()


def make(cloud: LocalCloud, kind: str, name: str, **columns: Any) -> str:
    document = {"service_id": "machine-learning", "region_id": "local", "resource_name": name, **columns}
    answer = cloud.request("POST", f"/identity/v3/{kind}", {kind: [document]})
    assert answer.status_code == 201, answer.text
    return str(answer.json()[kind][0]["id"])


def limits(client: Client) -> dict[str, int]:
    found: dict[str, int] = client.get("/v1/quota")["quota"]["limits"]
    return found


def test_limits_are_those_of_keystone(stack: Stack) -> None:
    assert limits(stack.demo) == {"jobs": 0, "nodes": 0, "accelerators": 0}, "what is not registered is not to be had"
    assert stack.demo.request("POST", "/v1/jobs", json={"job": DOCUMENT}).status_code == 403
    for name, most in (("ml_jobs", 5), ("ml_nodes", 1), ("ml_accelerators", -1)):
        make(stack.cloud, "registered_limits", name, default_limit=most)
    project_id = stack.demo.get("/v1/quota")["quota"]["project_id"]
    own = make(stack.cloud, "limits", "ml_nodes", resource_limit=1, project_id=project_id)
    assert stack.cloud.request("PATCH", f"/identity/v3/limits/{own}", {"limit": {"resource_limit": 2}}).status_code == 200
    assert limits(stack.demo) == {"jobs": 5, "nodes": 2, "accelerators": -1}
    assert limits(stack.other) == {"jobs": 5, "nodes": 1, "accelerators": -1}
    refused = stack.other.request("POST", "/v1/jobs", json={"job": DOCUMENT})
    assert refused.status_code == 403
    assert "Quota exceeded for nodes: the job needs 2, free are 1 of 1" in refused.json()["error"]["message"]
    stack.demo.succeed(stack.demo.submit(DOCUMENT))
    stack.cloud.fault("http", service="identity", status=503, path="^/(registered_)?limits", when="before")
    away = stack.demo.request("POST", "/v1/jobs", json={"job": DOCUMENT})
    assert (away.status_code, away.headers["Retry-After"]) == (503, "10")
