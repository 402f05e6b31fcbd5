"""The document of a job as it was given, and jobs that are made of those of ended ones."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import update

from cml_nova.db import jobs as db_jobs
from cml_nova.db.models import Job
from tests.unit.api.conftest import Api, archive, job

CHECKPOINT = {"id": "3/abc", "attempt": 2, "saved_at": 1000.0, "files": 2, "bytes": 10}


def write(api: Api, job_id: str, **values: Any) -> None:
    with api.db.write() as session:
        session.execute(update(Job).where(Job.id == job_id).values(**values))


def row(api: Api, job_id: str) -> Job:
    with api.db.read() as session:
        found = db_jobs.get(session, job_id, with_sealed=True)
    assert found is not None
    return found


def document(api: Api, job_id: str) -> Any:
    answer = api.get(f"/v1/jobs/{job_id}/document")
    assert answer.status_code == 200, answer.text
    return answer.json


def ended(api: Api, outcome: str = "CANCELLED", runtime: dict[str, Any] | None = None, **more: Any) -> str:
    job_id: str = api.create(**more)["id"]
    write(api, job_id, phase="DONE", outcome=outcome, runtime={"checkpoint": CHECKPOINT} if runtime is None else runtime)
    return job_id


def restarted(api: Api, job_id: str, query: str = "") -> dict[str, Any]:
    answer = api.post(f"/v1/jobs/{job_id}/restart{query}")
    assert answer.status_code == 202, answer.text
    made: dict[str, Any] = answer.json["job"]  # type: ignore[index]
    assert answer.headers["Location"].endswith(made["id"])
    return made


def test_the_document_is_as_it_was_given(api: Api) -> None:
    given = job(env={"A": "1"}, max_restarts=2, priority=0)
    job_id = api.create(**given, secrets={"TOKEN": "hush-hush"}, client_token="t1")["id"]
    assert document(api, job_id) == {"document": given, "secrets": ["TOKEN"]}
    assert "hush" not in api.get(f"/v1/jobs/{job_id}/document").text
    assert "document" not in api.get(f"/v1/jobs/{job_id}").json["job"]  # type: ignore[index]


def test_what_was_changed_is_in_the_document(api: Api) -> None:
    given = job(metadata={"a": "1"})
    job_id = api.create(**given)["id"]
    changes = {"name": "new", "metadata": {}, "description": "why", "priority": 5}
    assert api.request("PATCH", f"/v1/jobs/{job_id}", json={"job": changes}).status_code == 200
    assert document(api, job_id)["document"] == {**given, **changes}


def test_a_restart_is_the_same_job_anew(api: Api) -> None:
    package = api.upload(archive(("train.py", b"print()"))).json["package"]["id"]  # type: ignore[index]
    old = ended(api, source={"package": package}, secrets={"TOKEN": "hush"}, env={"A": "1"}, priority=3, max_restarts=2)
    made = restarted(api, old)
    assert made["id"] != old
    assert (made["restart_of"], made["status"], made["attempt"]) == (old, "QUEUED", 0)
    before, after = row(api, old), row(api, made["id"])
    assert after.spec == {**before.spec, "restart": {"job": old, "checkpoint": CHECKPOINT}}
    assert (after.document, after.priority, after.name) == (before.document, 3, "digits")
    old_sealed, new_sealed = api.vault.open(before.sealed), api.vault.open(after.sealed)
    assert new_sealed["secrets"] == {"TOKEN": "hush"}
    assert new_sealed["ssh"] != old_sealed["ssh"]
    assert new_sealed["host"] != old_sealed["host"]
    assert api.conductor.woken[-1] == made["id"]
    events = api.get(f"/v1/jobs/{made['id']}/events").json["events"]  # type: ignore[index]
    assert events[0]["message"] == f"The job was created with 2 nodes to do {old} again, from its last checkpoint."
    assert api.get(f"/v1/jobs/{old}").json["job"]["restart_of"] is None  # type: ignore[index]


@pytest.mark.parametrize(("outcome", "runtime"), [("SUCCEEDED", {"checkpoint": CHECKPOINT}), ("FAILED", {})])
def test_where_there_is_nothing_to_go_on_from(api: Api, outcome: str, runtime: dict[str, Any]) -> None:
    old = ended(api, outcome, runtime)
    made = restarted(api, old)
    assert row(api, made["id"]).spec["restart"] == {"job": old, "checkpoint": None}
    events = api.get(f"/v1/jobs/{made['id']}/events").json["events"]  # type: ignore[index]
    assert events[0]["message"].endswith("from the beginning.")


def test_the_same_client_token_is_the_same_restart(api: Api) -> None:
    old = ended(api)
    made = restarted(api, old, "?client_token=again")
    again = api.post(f"/v1/jobs/{old}/restart?client_token=again")
    assert (again.status_code, again.json["job"]["id"]) == (200, made["id"])  # type: ignore[index]
    assert restarted(api, old)["id"] != made["id"]
    assert api.rows()["jobs"] == 3


def test_what_can_not_be_restarted(api: Api) -> None:
    running = api.create()["id"]
    package = api.upload(archive(("train.py", b"print()"))).json["package"]["id"]  # type: ignore[index]
    without_package, ancient, theirs = ended(api, source={"package": package}), ended(api), ended(api, project="blue")
    assert api.request("DELETE", f"/v1/packages/{package}").status_code == 204
    write(api, ancient, document=None)
    before = api.rows()
    for job_id, code, words in (
        (running, 409, "has not ended yet; cancel it"), (without_package, 400, "source.package"), (ancient, 409, "older release"),
        ("33333333-0000-4000-8000-000000000000", 404, "no job"),
    ):
        answer = api.post(f"/v1/jobs/{job_id}/restart")
        assert answer.status_code == code
        assert words in answer.json["error"]["message"]  # type: ignore[index]
    answer = api.post(f"/v1/jobs/{theirs}/restart", roles="admin", project="admins")
    assert answer.status_code == 409
    assert "another project's" in answer.json["error"]["message"]  # type: ignore[index]
    assert api.get(f"/v1/jobs/{ancient}/document").status_code == 409
    assert api.rows() == before


def test_a_restart_needs_quota(api: Api) -> None:
    old = ended(api)
    api.conf.set_override("nodes", 1, "quota")
    answer = api.post(f"/v1/jobs/{old}/restart")
    assert (answer.status_code, answer.json["error"]["slug"]) == (403, "quota_exceeded")  # type: ignore[index]
