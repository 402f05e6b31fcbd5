"""Quotas: limits, what is in use, and jobs that would be too much."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import update

from cml_nova.compute.limits import UnifiedLimits
from cml_nova.db import jobs as db_jobs
from cml_nova.db.models import Job
from tests.unit.api.conftest import Api, job

ADMIN: dict[str, str] = {"roles": "admin", "project": "admins"}
NOTHING = {"jobs": 0, "nodes": 0, "accelerators": 0}


def shown(api: Api, path: str = "/v1/quota", **who: Any) -> dict[str, Any]:
    answer = api.get(path, **who)
    assert answer.status_code == 200, answer.text
    quota: dict[str, Any] = answer.json["quota"]  # type: ignore[index]
    return quota


def put(api: Api, limits: dict[str, Any], path: str = "/v1/quota/red", **who: Any) -> Any:
    return api.request("PUT", path, json={"quota": {"limits": limits}}, **(who or ADMIN))


def test_without_limits_there_are_none(api: Api) -> None:
    assert shown(api) == {"project_id": "red", "limits": {"jobs": -1, "nodes": -1, "accelerators": -1}, "in_use": NOTHING}
    api.create(workers=256, flavor="gpu.large")


def test_what_is_in_use_is_what_has_not_ended(api: Api) -> None:
    api.create(workers=2, flavor="cpu.small")
    job_id = api.create(workers=3, flavor="gpu.large")["id"]
    api.create(project="blue")
    assert shown(api)["in_use"] == {"jobs": 2, "nodes": 5, "accelerators": 12}
    assert shown(api, "/v1/quota/red", **ADMIN)["in_use"] == {"jobs": 2, "nodes": 5, "accelerators": 12}
    for phase in ("TEARDOWN", "DONE"):
        with api.db.write() as session:
            session.execute(update(Job).where(Job.id == job_id).values(phase=phase, outcome="FAILED"))
        assert shown(api)["in_use"]["jobs"] == (1 if phase == "DONE" else 2)
    assert shown(api)["in_use"] == {"jobs": 1, "nodes": 2, "accelerators": 0}


def test_the_configured_limits_hold_where_a_project_has_none_of_its_own(api: Api) -> None:
    api.conf.set_override("nodes", 4, "quota")
    assert shown(api)["limits"] == {"jobs": -1, "nodes": 4, "accelerators": -1}
    answer = put(api, {"nodes": 7, "accelerators": 0})
    assert answer.json["quota"]["limits"] == {"jobs": -1, "nodes": 7, "accelerators": 0}
    assert shown(api)["limits"] == {"jobs": -1, "nodes": 7, "accelerators": 0}
    assert shown(api, project="blue")["limits"]["nodes"] == 4
    assert put(api, {"nodes": None}).json["quota"]["limits"] == {"jobs": -1, "nodes": 4, "accelerators": 0}
    assert put(api, {"nodes": -1}).json["quota"]["limits"]["nodes"] == -1
    own = put(api, {"jobs": 3}, "/v1/quota", roles="admin", project="red")
    assert own.json["quota"] == {"project_id": "red", "limits": {"jobs": 3, "nodes": -1, "accelerators": 0}, "in_use": NOTHING}


@pytest.mark.parametrize(("limits", "document", "words"), [
    ({"jobs": 1}, {}, ["Quota exceeded for jobs: the job needs 1, free are 0 of 1.", "wait until jobs have ended", "GET /v1/quota"]),
    ({"nodes": 5}, {"workers": 4}, ["Quota exceeded for nodes: the job needs 4, free are 3 of 5.", "ask for fewer nodes", "wait"]),
    ({"accelerators": 4}, {"flavor": "gpu.large", "workers": 1},
     ["Quota exceeded for accelerators: the job needs 4, free are 2 of 4.", "ask for fewer accelerators"]),
    ({"accelerators": 4, "jobs": 9}, {"flavor": "gpu.large", "workers": 2}, ["needs 8, free are 2 of 4.", "raise the limit"]),
])
def test_a_job_that_is_too_much_is_refused(api: Api, limits: dict[str, int], document: dict[str, Any], words: list[str]) -> None:
    api.create(workers=2)
    put(api, limits)
    before = api.rows()
    answer = api.post("/v1/jobs", json={"job": job(**document)})
    error = answer.json["error"]  # type: ignore[index]
    assert (answer.status_code, error["slug"]) == (403, "quota_exceeded")
    for word in words:
        assert word in error["message"]
    assert error["resource"] in limits
    assert api.rows() == before
    assert len(api.conductor.woken) == 1
    api.create(project="blue", **document)


def test_waiting_is_not_advised_where_it_does_not_help(api: Api) -> None:
    put(api, {"nodes": 1})
    assert "wait" not in api.post("/v1/jobs", json={"job": job(workers=2)}).json["error"]["message"]  # type: ignore[index]


def test_a_job_without_accelerators_needs_none(api: Api) -> None:
    put(api, {"accelerators": 2})
    api.create(workers=2)
    put(api, {"accelerators": 1})
    api.create(flavor="cpu.small")


def test_a_repeated_request_is_no_second_job(api: Api) -> None:
    first = api.create(client_token="t1")
    put(api, {"jobs": 1})
    again = api.post("/v1/jobs", json={"job": job(client_token="t1")})
    assert (again.status_code, again.json["job"]["id"]) == (200, first["id"])  # type: ignore[index]


def test_a_request_that_the_same_one_overtook_is_no_second_job(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """It finds nothing of the first one before its transaction, and the quota used up in it."""
    first = api.create(client_token="t1")
    put(api, {"jobs": 1})
    found: Callable[..., Job | None] = db_jobs.get_by_client_token
    misses = [None]
    monkeypatch.setattr(db_jobs, "get_by_client_token", lambda *a: misses.pop() if misses else found(*a))
    again = api.post("/v1/jobs", json={"job": job(client_token="t1")})
    assert (again.status_code, again.json["job"]["id"]) == (200, first["id"])  # type: ignore[index]


@pytest.mark.parametrize(("limits", "words"), [
    ({"gpus": 1}, "gpus: unknown key"), ({}, "must not be empty"), ({"jobs": -2}, "must be at least -1, not -2"),
    ({"jobs": "1"}, "must be an integer"),
    ({"jobs": 2**31}, "must be at most"),
])
def test_limits_that_are_none(shared_api: Api, limits: dict[str, Any], words: str) -> None:
    answer = put(shared_api, limits)
    assert answer.status_code == 400
    assert words in answer.json["error"]["message"]


def test_limits_of_a_project_that_keystone_does_not_know(api: Api) -> None:
    answer = put(api, {"jobs": 1}, "/v1/quota/nobody")
    assert answer.status_code == 404
    assert "There is no project 'nobody'" in answer.json["error"]["message"]
    assert shown(api, "/v1/quota/nobody", **ADMIN)["limits"]["jobs"] == -1


@pytest.mark.parametrize("project", ["a" * 65, "red%00", "r%20d"])
def test_what_is_no_project(shared_api: Api, project: str) -> None:
    assert shared_api.get(f"/v1/quota/{project}", **ADMIN).status_code == 404
    assert put(shared_api, {"jobs": 1}, f"/v1/quota/{project}").status_code == 404


def test_limits_that_keystone_keeps(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def of(self: UnifiedLimits, project_id: str, resources: Any) -> dict[str, int]:
        asked.append(project_id)
        return {"jobs": 1, "nodes": -1, "accelerators": -1}

    monkeypatch.setattr(UnifiedLimits, "of", of)
    api.conf.set_override("driver", "unified", "quota")
    api.conf.set_override("jobs", 9, "quota")
    api.create()
    refused = api.post("/v1/jobs", json={"job": job()})
    assert (refused.status_code, refused.json["error"]["limit"]) == (403, 1)  # type: ignore[index]
    assert shown(api)["limits"] == {"jobs": 1, "nodes": -1, "accelerators": -1}
    assert asked == ["red"]
    api.create(project="blue")
    assert asked == ["red", "blue"]
    answer = put(api, {"jobs": 5})
    assert answer.status_code == 409
    assert "Keystone" in answer.json["error"]["message"]
