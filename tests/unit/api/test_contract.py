"""What existing clients force on the API: discovery, versions, request ids, errors; and the document that describes it."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from cml_nova.api import openapi, routing
from cml_nova.api.v1 import RESOURCES
from tests.unit.api.conftest import Api


def test_discovery_needs_no_token(shared_api: Api) -> None:
    answer = shared_api.get("/", project=None, base_url="http://cloud.test/machine-learning")
    version = answer.json["versions"][0]  # type: ignore[index]
    assert (version["id"], version["status"], version["min_version"], version["max_version"]) == ("v1.0", "CURRENT", "1.1", "1.1")
    assert version["links"] == [{"rel": "self", "href": "http://cloud.test/machine-learning/v1/"}]
    for path in ("/v1", "/v1/"):
        assert shared_api.get(path, project=None, base_url="http://cloud.test/machine-learning").json == {"version": version}


def test_urls_are_as_the_client_sees_them(shared_api: Api) -> None:
    shared_api.conf.set_override("enable_proxy_headers_parsing", True, "oslo_middleware")
    headers = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "cloud.test"}
    answer = shared_api.get("/", project=None, headers=headers)
    assert answer.json["versions"][0]["links"][0]["href"] == "https://cloud.test/v1/"  # type: ignore[index]


def test_health_needs_no_token(shared_api: Api) -> None:
    assert shared_api.get("/healthcheck", project=None).status_code == 200


@pytest.mark.parametrize("path", ["/", "/v1/jobs", "/v1/nothing", "/healthcheck", "/v1/openapi.json"])
def test_every_answer_has_a_request_id(shared_api: Api, path: str) -> None:
    ids = {shared_api.get(path).headers["x-openstack-request-id"] for _ in range(2)}
    assert len(ids) == 2
    assert all(request_id.startswith("req-") for request_id in ids)


@pytest.mark.parametrize(("header", "status"), [
    (None, 200), ("machine-learning 1.1", 200), ("machine-learning latest", 200), ("cml 1.1", 200), ("compute 2.90", 200),
    ("compute 2.90, machine-learning 1.1", 200), ("machine-learning 7.0", 406),
])
def test_microversions(shared_api: Api, header: str | None, status: int) -> None:
    answer = shared_api.get("/v1/jobs", headers={"OpenStack-API-Version": header} if header else {})
    assert answer.status_code == status
    assert answer.headers["OpenStack-API-Version"] == "machine-learning 1.1"
    assert "OpenStack-API-Version" in answer.headers["Vary"]


def test_errors_have_the_form_that_the_sdk_shows(shared_api: Api) -> None:
    for answer in (shared_api.get("/nope"), shared_api.request("PUT", "/v1/jobs"), shared_api.get("/v1/jobs", project=None),
                   shared_api.post("/v1/jobs", data=b"x")):
        error = answer.json["error"]  # type: ignore[index]
        assert error["code"] == answer.status_code
        assert isinstance(error["message"], str)
        assert error["message"]


def test_the_document_is_served_and_valid(shared_api: Api) -> None:
    document = shared_api.get("/v1/openapi.json", project=None).json
    assert document == json.loads(json.dumps(openapi.document(RESOURCES)))
    assert document["openapi"] == "3.1.0"  # type: ignore[index]
    operations = [entry for path in document["paths"].values() for entry in path.values()]  # type: ignore[index]
    ids = [entry["operationId"] for entry in operations]
    assert len(ids) == len(set(ids)) == sum(len(resource.operations) for resource in RESOURCES)
    schemas = document["components"]["schemas"]  # type: ignore[index]
    for reference in references(document):
        assert reference.removeprefix("#/components/schemas/") in schemas
    for schema in schemas.values():
        jsonschema.Draft202012Validator.check_schema(schema)
    for entry in operations:
        assert entry["summary"]


@pytest.mark.parametrize("operation", [operation for resource in RESOURCES for operation in resource.operations],
                         ids=lambda operation: f"{operation.method} {operation.path}")
def test_schemas_are_valid(operation: routing.Operation) -> None:
    for schema in (operation.query, operation.body, operation.response):
        if schema is not None:
            jsonschema.Draft202012Validator.check_schema(schema)


def references(node: Any) -> list[str]:
    if isinstance(node, dict):
        found = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return found + [ref for value in node.values() for ref in references(value)]
    return [ref for item in node for ref in references(item)] if isinstance(node, list) else []


def test_frameworks_and_flavors(shared_api: Api) -> None:
    frameworks = {entry["name"]: entry for entry in shared_api.get("/v1/frameworks").json["frameworks"]}  # type: ignore[index]
    assert set(frameworks) >= {"tensorflow", "mxnet", "custom"}
    assert [image["version"] for image in frameworks["tensorflow"]["images"]] == ["2.21.0"]
    assert frameworks["mxnet"]["roles"][0] == {"name": "worker", "min": 1, "max": None}
    flavors = shared_api.get("/v1/flavors").json["flavors"]  # type: ignore[index]
    assert [(entry["name"], entry["accelerators"]) for entry in flavors] == [
        ("cpu.small", None), ("gpu.small", {"kind": "VGPU", "count": 1}), ("gpu.large", {"kind": "VGPU", "count": 4})]


def test_an_answer_that_breaks_its_schema_fails(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cml_nova.api.v1.jobs.maybe_iso", lambda at: 5)
    job = api.post("/v1/jobs", json={"job": {"name": "n", "framework": {"name": "custom"}, "flavor": "1", "command": "true"}})
    assert job.status_code == 500
