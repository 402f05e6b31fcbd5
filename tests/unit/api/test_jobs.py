"""Jobs through HTTP: create, plan, list, show, change, cancel, delete."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from oslo_db import exception as db_exception
from sqlalchemy import exc as sa_exception
from sqlalchemy import insert, select, update

from cml_nova.api.schemas.jobs import JOB
from cml_nova.db import jobs as db_jobs
from cml_nova.db.models import Job
from tests.unit.api.conftest import Api, archive, job, make_api

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAICAyPA3RbafbW5Ry6t1ADc07iD8GXQw5jZIprSjlCBY9 ann@desk"


def write(api: Api, job_id: str, **values: Any) -> None:
    """Do to a job what a conductor would."""
    with api.db.write() as session:
        session.execute(update(Job).where(Job.id == job_id).values(**values))


def row(api: Api, job_id: str) -> Job:
    with api.db.read() as session:
        found = db_jobs.get(session, job_id, with_sealed=True)
    assert found is not None
    return found


def listed(api: Api, query: str = "", **who: Any) -> list[str]:
    answer = api.get(f"/v1/jobs{query}", **who)
    assert answer.status_code == 200, answer.text
    return [entry["name"] for entry in answer.json["jobs"]]  # type: ignore[index]


def test_create_then_show(api: Api) -> None:
    created = api.create(env={"A": "1"}, metadata={"team": "vision"})
    answer = api.get(f"/v1/jobs/{created['id']}")
    assert answer.status_code == 200
    assert answer.json == {"job": created}
    assert created["status"] == "QUEUED"
    assert created["roles"]["worker"]["count"] == 2
    assert created["roles"]["worker"]["flavor"]["accelerators"] == {"kind": "VGPU", "count": 1}
    assert created["framework"] == {"name": "tensorflow", "version": "2.21.0"}
    assert created["metadata"] == {"team": "vision"}
    assert created["created_at"].endswith("Z")
    assert api.conductor.woken == [created["id"]]
    assert api.rows()["nodes"] == 2


def test_when_a_job_will_be_ended(api: Api) -> None:
    def deadline(**values: Any) -> Any:
        write(api, created["id"], **values)
        return api.get(f"/v1/jobs/{created['id']}").json["job"]["deadline"]  # type: ignore[index]

    created = api.create(max_wait_time=60, max_run_time=120)
    assert deadline(created_at=0.0) == "1970-01-01T00:01:00.000Z"
    assert deadline(phase="PROVISIONING") is None
    assert deadline(phase="RUNNING", started_at=100.0) == "1970-01-01T00:03:40.000Z"
    assert deadline(phase="QUEUED", waiting_since=200.0) == "1970-01-01T00:04:20.000Z", "it waits for room again"
    assert deadline(phase="DONE", outcome="FAILED") is None


def test_u17_a_thousand_jobs_in_one_page_take_less_than_a_second_of_the_processor(tmp_path: Path, empty_database: Path) -> None:
    api = make_api(tmp_path, empty_database, validate_responses=False)
    api.conf.set_override("max_limit", 1000, "api")
    first = api.create()
    with api.db.write() as session:
        one = dict(session.execute(select(Job.__table__).where(Job.id == first["id"])).mappings().one())
        session.execute(insert(Job.__table__), [{**one, "id": f"job-{number}", "created_at": number} for number in range(999)])
    began = time.process_time()
    answer = api.get("/v1/jobs?limit=1000")
    assert time.process_time() - began < 1
    assert len(answer.json["jobs"]) == 1000  # type: ignore[index]
    assert (answer.json["jobs"][0]["id"], answer.json["jobs"][0]["queue_position"]) == (first["id"], 1000)  # type: ignore[index]


def test_what_the_worker_reads(api: Api) -> None:
    package = api.upload(archive(("train.py", b"print()"))).json["package"]  # type: ignore[index]
    created = api.create(
        workers=None, roles={"ps": {"count": 1, "flavor": "cpu.small", "command": ["python", "ps.py"]}, "worker": {"count": 2},
                             "chief": {"count": 1}},
        env={"A": "1"}, secrets={"TOKEN": "hush"}, source={"package": package["id"]}, setup="pip install x", max_restarts=3,
        recover_on_exit_codes=[75], availability_zone="az1", network="local-net", ssh_authorized_keys=[KEY], max_run_time=60,
        hang_timeout=90,
        max_wait_time=30, priority=7)
    found = row(api, created["id"])
    gpu = {"id": "2", "name": "gpu.small", "vcpus": 4, "ram": 8192, "accelerators": {"kind": "VGPU", "count": 1}}
    cpu = {"id": "1", "name": "cpu.small", "vcpus": 1, "ram": 512, "accelerators": None}
    assert found.spec == {
        "framework": {"name": "tensorflow", "version": "2.21.0"},
        "image": {"id": "11111111-0000-4000-8000-000000000001", "name": "tensorflow", "ssh_user": "cml", "ssh_port": 2200},
        "roles": {"worker": {"count": 2, "flavor": gpu, "command": None}, "chief": {"count": 1, "flavor": gpu, "command": None},
                  "ps": {"count": 1, "flavor": cpu, "command": ["python", "ps.py"]}},
        "command": "python train.py", "env": {"A": "1"},
        "source": {"package": package["id"], "sha256": package["sha256"], "size": package["size"]},
        "setup": "pip install x", "max_run_time": 60, "max_wait_time": 30, "max_restarts": 3, "recover_on_exit_codes": [75],
        "hang_timeout": 90,
        "checkpoint_interval": 60,
        "availability_zone": "az1", "network": "22222222-0000-4000-8000-000000000001", "ssh_authorized_keys": [KEY],
    }
    sealed = api.vault.open(found.sealed)
    assert sealed["secrets"] == {"TOKEN": "hush"}
    for key in ("ssh", "host"):
        assert sealed[key].startswith("-----BEGIN OPENSSH PRIVATE KEY-----")
        assert found.keys[key].startswith("ssh-ed25519 ")
    assert (found.phase, found.target, found.priority, found.package_id) == ("QUEUED", "RUN", 7, package["id"])


def test_secrets_are_never_shown(api: Api) -> None:
    created = api.create(secrets={"TOKEN": "hush-hush"})
    job_id = created["id"]
    for path in ("", f"/{job_id}", f"/{job_id}/events", f"/{job_id}/nodes"):
        answer = api.get(f"/v1/jobs{path}").text
        assert "hush-hush" not in answer
        assert "PRIVATE KEY" not in answer
    assert not {"sealed", "keys", "secrets", "runtime"} & set(created)
    assert not {"sealed", "keys", "secrets", "runtime"} & set(JOB["properties"])
    assert "hush-hush" not in row(api, job_id).sealed


@pytest.mark.parametrize(("changes", "framework", "image"), [
    ({"framework": {"name": "mxnet"}}, {"name": "mxnet", "version": "1.9.1"}, "mxnet"),
    ({"framework": {"name": "tensorflow", "version": "2.21.0"}}, {"name": "tensorflow", "version": "2.21.0"}, "tensorflow"),
    ({"framework": None, "image": "mxnet"}, {"name": "mxnet", "version": "1.9.1"}, "mxnet"),
    ({"framework": None, "image": "11111111-0000-4000-8000-000000000004"}, {"name": "custom", "version": None}, "debian"),
    ({"framework": {"name": "mxnet"}, "image": "debian"}, {"name": "mxnet", "version": None}, "debian"),
    ({"framework": {"name": "custom"}, "image": "tensorflow"}, {"name": "custom", "version": None}, "tensorflow"),
])
def test_framework_and_image(api: Api, changes: dict[str, Any], framework: dict[str, Any], image: str) -> None:
    created = api.create(**changes)
    assert (created["framework"], created["image"]["name"]) == (framework, image)


def test_the_same_client_token_is_the_same_job(api: Api) -> None:
    first = api.create(client_token="t1", secrets={"A": "1"})
    again = api.post("/v1/jobs", json={"job": job(client_token="t1", secrets={"A": "1"})})
    assert again.status_code == 200
    assert again.json["job"]["id"] == first["id"]  # type: ignore[index]
    for other in ({"name": "other"}, {"secrets": {"A": "2"}}, {"secrets": None}):
        answer = api.post("/v1/jobs", json={"job": job(**{"client_token": "t1", "secrets": {"A": "1"}} | other)})
        assert answer.status_code == 409
        assert first["id"] in answer.json["error"]["message"]  # type: ignore[index]
    assert api.rows()["jobs"] == 1
    assert api.create(client_token="t1", project="blue")["id"] != first["id"]
    assert api.create(client_token="T1")["id"] != first["id"]


def test_two_requests_with_one_client_token_at_the_same_time(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    first = api.create(client_token="t1")
    found = db_jobs.get_by_client_token
    misses = [None]
    monkeypatch.setattr(db_jobs, "get_by_client_token", lambda *a: misses.pop() if misses else found(*a))
    again = api.post("/v1/jobs", json={"job": job(client_token="t1")})
    assert (again.status_code, again.json["job"]["id"]) == (200, first["id"])  # type: ignore[index]
    assert (api.rows()["jobs"], api.rows()["nodes"], api.rows()["events"]) == (1, 2, 1)


def test_plan_says_what_would_be_and_creates_nothing(api: Api) -> None:
    answer = api.post("/v1/jobs/plan", json={"job": job(framework={"name": "mxnet"}, flavor="gpu.large")})
    assert answer.status_code == 200
    plan = answer.json["plan"]  # type: ignore[index]
    assert [(n["rank"], n["role"], n["flavor"]) for n in plan["nodes"]] == [(0, "worker", "gpu.large"), (1, "worker", "gpu.large")]
    assert plan["totals"] == {"nodes": 2, "tasks": 5, "vcpus": 32, "ram": 131072, "accelerators": [{"kind": "VGPU", "count": 8}]}
    assert plan["limits"]["max_nodes"] == 256
    assert (plan["feasible"], plan["reasons"], plan["starts"], plan["queue_position"], plan["accelerators"]) == (True, [], "now", 1, 8)
    assert (plan["cost_per_hour"], plan["max_cost"], plan["currency"]) == (None, None, None)
    assert not any(api.rows().values())
    assert api.conductor.woken == []


def test_paging_shows_each_job_once(api: Api) -> None:
    for index in range(7):
        api.create(name=f"job-{index}", priority=index % 2)
    for query in ("sort_key=name", "sort_key=name&sort_dir=asc", "sort_key=priority", "sort_key=priority&sort_dir=asc", "sort_dir=asc"):
        seen, path = [], f"/v1/jobs?limit=2&{query}"
        while path:
            page = api.get(path).json
            seen += [entry["name"] for entry in page["jobs"]]  # type: ignore[index]
            path = page.get("jobs_links", [{"href": ""}])[0]["href"]  # type: ignore[union-attr]
        assert sorted(seen) == [f"job-{index}" for index in range(7)]
    assert listed(api, "?sort_key=name&sort_dir=asc&limit=3") == ["job-0", "job-1", "job-2"]
    assert listed(api) == [f"job-{index}" for index in reversed(range(7))]


def test_the_last_job_as_marker_gives_an_empty_page(api: Api) -> None:
    created = api.create()
    assert api.get(f"/v1/jobs?limit=1&marker={created['id']}").json == {"jobs": []}


def test_a_limit_above_the_services_own_is_cut(api: Api) -> None:
    api.conf.set_override("max_limit", 2, "api")
    for _ in range(3):
        api.create()
    assert len(listed(api, "?limit=1000")) == 2
    assert len(listed(api)) == 2


def test_filters(api: Api) -> None:
    a = api.create(name="a", metadata={"team": "x", "run": "1"})
    b = api.create(name="b", framework={"name": "mxnet"}, metadata={"team": "y"})
    api.create(name="c", user="bob", metadata={"team": "x"})
    write(api, a["id"], phase="DONE", outcome="FAILED")
    write(api, b["id"], phase="TEARDOWN", outcome="FAILED")
    assert listed(api, "?name=b") == ["b"]
    assert listed(api, "?name=B") == []
    assert listed(api, "?name=nope") == []
    assert listed(api, "?framework=mxnet") == ["b"]
    assert listed(api, "?status=FAILED") == ["a"]
    assert listed(api, "?status=CLEANING") == ["b"]
    assert listed(api, "?status=FAILED&status=QUEUED") == ["c", "a"]
    assert listed(api, "?metadata=team=x") == ["c", "a"]
    assert listed(api, "?metadata=team=x&metadata=run=1") == ["a"]
    assert listed(api, "?metadata=team=%25") == []
    assert listed(api, "?user_id=bob") == ["c"]
    assert listed(api, f"?changes_since={a['created_at']}") == ["c", "b", "a"]
    assert listed(api, "?changes_since=2099-01-01") == []


def test_find_by_name_as_the_sdk_does_it(api: Api) -> None:
    created = api.create(name="digits-1")
    assert api.get("/v1/jobs/digits-1").status_code == 404
    assert [entry["id"] for entry in api.get("/v1/jobs?name=digits-1").json["jobs"]] == [created["id"]]  # type: ignore[index]


def test_update(api: Api) -> None:
    created = api.create(metadata={"a": "1"})
    path = f"/v1/jobs/{created['id']}"
    answer = api.request("PATCH", path, json={"job": {"name": "new", "description": "why", "priority": 9, "metadata": {"b": "2"}}})
    assert answer.status_code == 200
    changed = answer.json["job"]  # type: ignore[index]
    assert (changed["name"], changed["description"], changed["priority"], changed["metadata"]) == ("new", "why", 9, {"b": "2"})
    assert {key for key in changed if changed[key] != created[key]} <= {"name", "description", "priority", "metadata", "updated_at"}
    assert api.get(path).json["job"] == changed  # type: ignore[index]
    assert api.request("PATCH", path, json={"job": {"description": None}}).json["job"]["description"] is None  # type: ignore[index]


@pytest.mark.parametrize("phase", ["QUEUED", "PROVISIONING", "BOOTSTRAPPING", "RUNNING", "COLLECTING", "TEARDOWN"])
def test_cancel_in_each_phase(api: Api, phase: str) -> None:
    created = api.create()
    write(api, created["id"], phase=phase, generation=3, worker_id="w")
    for _ in range(2):
        answer = api.post(f"/v1/jobs/{created['id']}/cancel")
        assert answer.status_code == 202
        assert answer.json["job"]["target"] == "DELETE"  # type: ignore[index]
    found = row(api, created["id"])
    assert (found.phase, found.generation, found.worker_id, found.forget) == (phase, 3, "w", False)
    assert api.conductor.woken == [created["id"]] * 3
    events = api.get(f"/v1/jobs/{created['id']}/events").json["events"]  # type: ignore[index]
    assert [event["kind"] for event in events] == ["created", "cancel"]


def test_cancel_of_an_ended_job_is_a_conflict(api: Api) -> None:
    created = api.create()
    write(api, created["id"], phase="DONE", outcome="SUCCEEDED")
    answer = api.post(f"/v1/jobs/{created['id']}/cancel")
    assert answer.status_code == 409
    assert row(api, created["id"]).target == "RUN"


def test_delete_of_an_ended_job_leaves_nothing(api: Api) -> None:
    created, other = api.create(), api.create()
    for entry in (created, other):
        write(api, entry["id"], phase="DONE", outcome="SUCCEEDED")
        api.storage.put(f"jobs/{entry['id']}/logs/1/worker-0", [b"text"])
    path = f"/v1/jobs/{created['id']}"
    assert api.request("DELETE", path).status_code == 204
    assert api.get(path).status_code == 404
    assert api.request("DELETE", path).status_code == 404
    assert api.stored() == [f"objects/jobs/{other['id']}/logs/1/worker-0"]
    assert (api.rows()["jobs"], api.rows()["nodes"], api.rows()["events"]) == (1, 2, 1)


def test_delete_of_a_running_job_ends_it_first(api: Api) -> None:
    created = api.create()
    write(api, created["id"], phase="RUNNING")
    path = f"/v1/jobs/{created['id']}"
    assert api.post(f"{path}/cancel").status_code == 202
    assert api.request("DELETE", path).status_code == 202
    found = row(api, created["id"])
    assert (found.target, found.forget, found.phase) == ("DELETE", True, "RUNNING")
    assert api.get(path).json["job"]["target"] == "DELETE"  # type: ignore[index]


def test_a_hint_that_fails_does_not_undo_the_job(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client of the conductor swallows what the bus throws; anything else is a bug and shows, but the row is there."""
    monkeypatch.setattr(api.conductor, "job_wake", lambda context, job_id: 1 / 0)
    answer = api.post("/v1/jobs", json={"job": job()})
    assert answer.status_code == 500
    assert "ZeroDivisionError" not in answer.text
    assert api.rows()["jobs"] == 1


@pytest.mark.parametrize("error", [
    db_exception.DBConnectionError("mysql://user:password@host is gone"),
    sa_exception.OperationalError("SELECT", {}, Exception("password: connection refused")),
    sa_exception.TimeoutError("QueuePool limit"),
])
def test_an_unreachable_database_is_503(api: Api, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*args: Any) -> None:
        raise error

    monkeypatch.setattr(db_jobs, "page", fail)
    answer = api.get("/v1/jobs")
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) > 0
    assert answer.json["error"]["slug"] == "database_unavailable"  # type: ignore[index]
    assert "password" not in answer.text


def test_a_deadlock_is_no_error_of_a_request(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    failures = [db_exception.DBDeadlock()]
    create = db_jobs.create

    def deadlocked(*args: Any) -> Any:
        if failures:
            raise failures.pop()
        return create(*args)

    monkeypatch.setattr(db_jobs, "create", deadlocked)
    assert api.post("/v1/jobs", json={"job": job()}).status_code == 202
    assert api.rows()["jobs"] == 1
