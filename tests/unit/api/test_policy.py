"""Who may do what: every route, tried as everybody."""

from __future__ import annotations

from typing import Any

import pytest

from cml_nova import policies
from cml_nova.api import auth
from cml_nova.api.v1 import RESOURCES
from tests.unit.api.conftest import Api, archive, job

OPERATIONS = [operation for resource in RESOURCES for operation in resource.operations]
#: what each column of the matrix sends: project, roles (with those that Keystone's roles imply, and without)
WHO: dict[str, dict[str, Any]] = {
    "reader": {"roles": "reader"},
    "member": {"roles": "member,reader"},
    "manager": {"roles": "manager"},
    "admin": {"roles": "admin,manager,member,reader", "project": "admins"},
    "service": {"roles": "service", "project": "services"},
    "stranger": {"roles": "member,reader", "project": "blue"},
    "colleague": {"roles": "member,reader", "user": "bea"},
    "other manager": {"roles": "manager", "project": "blue"},
    "no role": {"roles": ""},
    "strange role": {"roles": "auditor,heat_stack_owner"},
    "nobody": {"project": None},
}
READ = {"reader": 200, "member": 200, "colleague": 200, "manager": 200, "admin": 200, "service": 403, "stranger": 404, "other manager": 404,
        "no role": 403, "strange role": 403, "nobody": 401}
WRITE = READ | {"reader": 403}
#: lists and the like, which show each project its own
OWN = READ | {"stranger": 200, "other manager": 200}
MATRIX: dict[str, dict[str, int]] = {
    "POST /v1/jobs": OWN | {"reader": 403},
    "POST /v1/jobs/plan": OWN,
    "GET /v1/jobs": OWN,
    "GET /v1/jobs/{job_id}": READ,
    "PATCH /v1/jobs/{job_id}": WRITE,
    "POST /v1/jobs/{job_id}/cancel": WRITE,
    "GET /v1/jobs/{job_id}/document": READ,
    # The job of this test has not ended, which is told to those who may know.
    "POST /v1/jobs/{job_id}/restart": {who: 409 if code == 200 else code for who, code in WRITE.items()},
    # Nor has it begun.
    "POST /v1/jobs/{job_id}/tunnels": {who: 409 if code == 200 else code for who, code in WRITE.items()},
    "DELETE /v1/jobs/{job_id}": WRITE,
    "GET /v1/jobs/{job_id}/log": READ,
    "GET /v1/jobs/{job_id}/events": READ,
    "GET /v1/jobs/{job_id}/metrics": READ,
    "GET /v1/jobs/{job_id}/nodes": READ,
    "GET /v1/jobs/{job_id}/checkpoint": READ,
    "GET /v1/jobs/{job_id}/artifacts": READ,
    "GET /v1/jobs/{job_id}/artifacts/{path}": READ,
    "POST /v1/packages": OWN | {"reader": 403},
    "GET /v1/packages": OWN,
    # Packages hold code: an operator reads and deletes jobs of all projects, but packages only of the one in the token.
    "GET /v1/packages/{package_id}": READ | {"admin": 404},
    "DELETE /v1/packages/{package_id}": WRITE | {"admin": 404},
    "GET /v1/frameworks": OWN,
    "GET /v1/flavors": OWN,
    "GET /v1/usage": OWN,
    "GET /v1/quota": OWN,
    "PUT /v1/quota": dict.fromkeys(WHO, 403) | {"admin": 200, "nobody": 401},
    "GET /v1/quota/{project_id}": READ | {"stranger": 403, "other manager": 403},
    "PUT /v1/quota/{project_id}": dict.fromkeys(WHO, 403) | {"admin": 200, "nobody": 401},
    "GET /v1/workers": dict.fromkeys(WHO, 403) | {"admin": 200, "service": 200, "nobody": 401},
}
BODIES: dict[str, dict[str, Any]] = {
    "POST /v1/jobs": {"json": {"job": job()}},
    "POST /v1/jobs/plan": {"json": {"job": job()}},
    "PATCH /v1/jobs/{job_id}": {"json": {"job": {"name": "other"}}},
    "POST /v1/jobs/{job_id}/tunnels": {"json": {"tunnel": {"port": 6006}}},
    "PUT /v1/quota": {"json": {"quota": {"limits": {"jobs": -1}}}},
    "PUT /v1/quota/{project_id}": {"json": {"quota": {"limits": {"jobs": -1}}}},
    "POST /v1/packages": {"data": archive(("other.py", b""))},
}


def name_of(operation: Any) -> str:
    return f"{operation.method} {operation.full_path}"


def test_the_matrix_has_every_route() -> None:
    assert sorted(MATRIX) == sorted(name_of(operation) for operation in OPERATIONS)


def test_every_route_has_a_documented_rule() -> None:
    rules = {rule.name: rule for rule in policies.list_rules()}
    for operation in OPERATIONS:
        assert operation.policy != auth.OPEN
        documented = {(entry["method"], entry["path"]) for entry in rules[f"cml:{operation.policy}"].operations}
        assert (operation.method, operation.full_path) in documented


@pytest.mark.parametrize("who", WHO)
@pytest.mark.parametrize("route", MATRIX)
def test_route(shared_api: Api, route: str, who: str) -> None:
    job_id = shared_api.create()["id"]
    shared_api.storage.put(f"jobs/{job_id}/artifacts/worker-0/model", [b"weights"])
    package_id = shared_api.upload(archive(("train.py", b""))).json["package"]["id"]  # type: ignore[index]
    before = shared_api.rows(), shared_api.stored()
    method, path = route.split()
    answer = shared_api.request(method, path.format(job_id=job_id, package_id=package_id, path="worker-0/model", project_id="red"),
                         **WHO[who], **BODIES.get(route, {}))
    expected = MATRIX[route][who]
    if expected == 200:
        assert answer.status_code in (200, 201, 202, 204), answer.text
    else:
        assert answer.status_code == expected, answer.text
        assert answer.json["error"]["code"] == expected  # type: ignore[index]
        assert (shared_api.rows(), shared_api.stored()) == before
        assert shared_api.get(f"/v1/jobs/{job_id}").json["job"]["target"] == "RUN"  # type: ignore[index]


def test_another_projects_things_look_like_nothing(api: Api) -> None:
    mine = api.create()["id"]
    package = api.upload(archive(("train.py", b"secret code"))).json["package"]["id"]  # type: ignore[index]
    blue: dict[str, Any] = {"project": "blue"}
    nothing = "33333333-0000-4000-8000-000000000000"
    for path in (f"/v1/jobs/{mine}", f"/v1/packages/{package}"):
        theirs = api.get(path, **blue)
        absent = api.get(path.rpartition("/")[0] + f"/{nothing}", **blue)
        assert theirs.status_code == absent.status_code == 404
        assert theirs.text.replace(path.rpartition("/")[2], nothing) == absent.text
    assert api.get("/v1/jobs", **blue).json == {"jobs": []}
    assert api.get("/v1/packages", **blue).json == {"packages": []}
    assert api.get(f"/v1/jobs?marker={mine}", **blue).status_code == 400
    answer = api.post("/v1/jobs", json={"job": job(source={"package": package})}, **blue)
    assert answer.status_code == 400
    assert package in answer.json["error"]["message"]  # type: ignore[index]


def test_the_same_content_in_two_projects_is_two_packages(api: Api) -> None:
    data = archive(("train.py", b""))
    mine, theirs = api.upload(data), api.upload(data, project="blue")
    assert mine.status_code == theirs.status_code == 201
    assert mine.json["package"]["id"] != theirs.json["package"]["id"]  # type: ignore[index]
    api.request("DELETE", f"/v1/packages/{theirs.json['package']['id']}", project="blue")  # type: ignore[index]
    assert len(api.stored()) == 1


def test_all_projects_are_for_operators(api: Api) -> None:
    ids = {api.create()["id"], api.create(project="blue")["id"]}
    assert api.get("/v1/jobs?all_projects=true").status_code == 403
    answer = api.get("/v1/jobs?all_projects=true", roles="admin", project="admins")
    assert {entry["id"] for entry in answer.json["jobs"]} == ids  # type: ignore[index]
    answer = api.get("/v1/jobs?all_projects=true&project_id=blue", roles="admin", project="admins")
    assert [entry["project_id"] for entry in answer.json["jobs"]] == ["blue"]  # type: ignore[index]
    assert api.get("/v1/jobs", roles="admin", project="admins").json == {"jobs": []}


@pytest.mark.parametrize("headers", [{"X-System-Scope": "all"}, {"X-Domain-Id": "default"}, {}])
def test_a_token_without_a_project_is_refused(shared_api: Api, headers: dict[str, str]) -> None:
    who = {"X-User-Id": "root", "X-Roles": "admin"}
    answer = shared_api.request("GET", "/v1/jobs", project=None, headers=who | headers)
    assert answer.status_code == 403
    assert "scoped to a project" in answer.json["error"]["message"]  # type: ignore[index]
