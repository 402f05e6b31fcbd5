"""Costs of jobs, and what projects had by day: from the rows that say which server was there for how long."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import insert, update

from cml_nova.db import jobs as db_jobs
from cml_nova.db.models import Job, NodeTime
from tests.unit.api.conftest import Api

ADMIN: dict[str, str] = {"roles": "admin", "project": "admins"}
HOUR, DAY = 3600.0, 86400.0


@pytest.fixture
def priced(api: Api) -> Api:
    api.conf.set_override("prices", {"gpu.small": 1.5, "3": 4.0}, "cost")
    api.conf.set_override("currency", "CHF", "cost")
    return api


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def now(api: Api) -> float:
    with api.db.read() as session:
        return db_jobs.server_time(session)


def had(api: Api, job_id: str, since: float, until: float | None, **columns: Any) -> None:
    """Write down that a server was there."""
    values = {"project_id": "red", "rank": 0, "server_id": "s", "accelerators": 1, "price": 1.5, **columns}
    with api.db.write() as session:
        session.execute(insert(NodeTime).values(job_id=job_id, started_at=since, ended_at=until, **values))


def cost(api: Api, job_id: str) -> Any:
    shown = api.get(f"/v1/jobs/{job_id}").json["job"]["cost"]  # type: ignore[index]
    [listed] = [job["cost"] for job in api.get("/v1/jobs").json["jobs"] if job["id"] == job_id]  # type: ignore[index]
    assert shown == listed
    return shown


def days(api: Api, query: str = "start=2026-01-01&end=2026-01-31", **who: Any) -> list[dict[str, Any]]:
    answer = api.get(f"/v1/usage?{query}", **who)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json["usage"]  # type: ignore[index]
    return found


def test_what_a_job_costs(priced: Api) -> None:
    created = priced.create(workers=2)
    assert created["cost"] == {"amount": 0.0, "currency": "CHF", "per_hour": 3.0}
    # A replaced node counts, and so do both servers.
    for rank, since, until in ((0, 1000, 1000 + 2 * HOUR), (1, 1000, 1000 + HOUR), (1, 1000 + HOUR, 1000 + 2 * HOUR)):
        had(priced, created["id"], since, until, rank=rank)
    assert cost(priced, created["id"]) == {"amount": 6.0, "currency": "CHF", "per_hour": 3.0}


def test_a_running_job_costs_more_all_the_time(priced: Api) -> None:
    job_id = priced.create(workers=1)["id"]
    had(priced, job_id, now(priced) - HOUR, None)
    first, second = (priced.get(f"/v1/jobs/{job_id}").json["job"]["cost"]["amount"] for _ in range(2))  # type: ignore[index]
    assert 1.5 <= first <= second == pytest.approx(1.5, abs=0.05)


def test_a_job_keeps_the_prices_at_which_it_was_made(priced: Api) -> None:
    job_id = priced.create(workers=1, flavor="gpu.large")["id"]
    priced.conf.set_override("prices", {"gpu.large": 9.0}, "cost")
    assert cost(priced, job_id)["per_hour"] == 4.0
    assert priced.create(workers=1, flavor="gpu.large")["cost"]["per_hour"] == 9.0


def test_without_a_price_there_is_no_cost(api: Api, priced: Api) -> None:
    assert priced.create(flavor="cpu.small")["cost"] is None
    mixed = {"worker": {"count": 1}, "ps": {"count": 1, "flavor": "cpu.small"}, "chief": {"count": 1}}
    assert priced.create(workers=None, roles=mixed)["cost"] is None
    job_id = priced.create()["id"]
    api.conf.set_override("prices", {}, "cost")
    assert cost(api, job_id) is None
    assert api.create()["cost"] is None


def test_prices_of_flavors(priced: Api) -> None:
    flavors = priced.get("/v1/flavors").json["flavors"]  # type: ignore[index]
    assert {flavor["name"]: flavor["cost_per_hour"] for flavor in flavors} == {"cpu.small": None, "gpu.small": 1.5, "gpu.large": 4.0}


def test_days_of_a_project(priced: Api) -> None:
    had(priced, "a", at("2026-01-05T23:00"), at("2026-01-07T02:00"), accelerators=4, price=4.0)
    had(priced, "a", at("2026-01-05T12:00"), at("2026-01-05T13:00"), price=2.0)
    had(priced, "b", at("2026-01-05T12:00"), at("2026-01-05T12:30"), price=None, accelerators=0)
    had(priced, "c", at("2026-01-05T12:00"), at("2026-01-05T13:00"), project_id="blue")
    day = {"project_id": "red", "currency": "CHF", "jobs": 1}
    assert days(priced) == [
        {**day, "date": "2026-01-05", "jobs": 2, "node_seconds": 2.5 * HOUR, "accelerator_seconds": 5 * HOUR, "cost": 6.0},
        {**day, "date": "2026-01-06", "node_seconds": DAY, "accelerator_seconds": 4 * DAY, "cost": 96.0},
        {**day, "date": "2026-01-07", "node_seconds": 2 * HOUR, "accelerator_seconds": 8 * HOUR, "cost": 8.0},
    ]
    assert [day["date"] for day in days(priced, "start=2026-01-06&end=2026-01-06")] == ["2026-01-06"]
    assert days(priced, "start=2026-01-08&end=2026-01-31") == []
    assert days(priced, "start=2026-01-01&end=2026-01-04") == []


def test_days_of_all_projects_are_for_operators(priced: Api) -> None:
    for project in ("red", "blue"):
        had(priced, project, at("2026-01-05T12:00"), at("2026-01-05T13:00"), project_id=project)
    span = "start=2026-01-01&end=2026-01-31"
    assert [day["project_id"] for day in days(priced, f"{span}&all_projects=1", **ADMIN)] == ["blue", "red"]
    assert [day["project_id"] for day in days(priced, f"{span}&all_projects=1&project_id=blue", **ADMIN)] == ["blue"]
    assert days(priced, span, **ADMIN) == []
    assert priced.get(f"/v1/usage?{span}&all_projects=1").status_code == 403
    assert priced.get(f"/v1/usage?{span}&project_id=blue").status_code == 400


def test_what_is_there_now_is_in_the_days_until_today(api: Api) -> None:
    had(api, "a", now(api) - 2 * DAY, None)
    found = days(api, "")
    assert len(found) == 3
    assert sum(day["node_seconds"] for day in found) == pytest.approx(2 * DAY, abs=60)
    assert {(day["cost"], day["currency"]) for day in found} == {(None, None)}


def test_the_record_of_a_deleted_job_stays(priced: Api) -> None:
    job_id = priced.create()["id"]
    had(priced, job_id, at("2026-01-05T12:00"), at("2026-01-05T13:00"))
    with priced.db.write() as session:
        session.execute(update(Job).values(phase="DONE", outcome="FAILED"))
    assert priced.request("DELETE", f"/v1/jobs/{job_id}").status_code == 204
    assert [day["cost"] for day in days(priced)] == [1.5]


@pytest.mark.parametrize(("query", "words"), [
    ("start=yesterday", "a day (UTC) like"), ("start=2026-02-30", "'2026-02-30' is not a day"), ("end=2026-1-1", "a day (UTC)"),
    ("start=2026-02-01&end=2026-01-01", "after the end"), ("start=2020-01-01&end=2026-01-01", "366 days"), ("from=1", "from: unknown key"),
])
def test_spans_that_are_none(shared_api: Api, query: str, words: str) -> None:
    answer = shared_api.get(f"/v1/usage?{query}")
    assert answer.status_code == 400
    assert words in answer.json["error"]["message"]  # type: ignore[index]
