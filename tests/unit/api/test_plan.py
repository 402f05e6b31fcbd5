"""What a plan says: whether the job would be taken, what it would wait for and cost, and which flavors would do instead."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import update

from cml_nova.compute.catalog import Flavor
from cml_nova.db.models import Job, Node
from tests.unit.api import conftest
from tests.unit.api.conftest import Api, job

ADMIN: dict[str, str] = {"roles": "admin", "project": "admins"}
MORE = [Flavor("4", "gpu.double", 8, 16384, 40, "VGPU", 2), Flavor("5", "gpu.huge", 32, 131072, 200, "A100", 8),
        Flavor("6", "gpu.thin", 1, 256, 1, "VGPU", 1)]


@pytest.fixture
def rich(api: Api, monkeypatch: pytest.MonkeyPatch) -> Api:
    """A cloud with more flavors, and prices for most of them."""
    monkeypatch.setattr(conftest, "FLAVORS", [*conftest.FLAVORS, *MORE])
    api.conf.set_override("prices", {"gpu.small": 1.0, "gpu.double": 1.75, "gpu.large": 3.0, "gpu.huge": 2.5}, "cost")
    return api


def planned(api: Api, **changes: Any) -> dict[str, Any]:
    before = api.rows()
    answer = api.post("/v1/jobs/plan", json={"job": job(**changes)})
    assert answer.status_code == 200, answer.text
    assert api.rows() == before
    plan: dict[str, Any] = answer.json["plan"]  # type: ignore[index]
    return plan


def limit(api: Api, **limits: int) -> None:
    answer = api.request("PUT", "/v1/quota/red", json={"quota": {"limits": limits}}, **ADMIN)
    assert answer.status_code == 200


def let_wait(api: Api, job_id: str, cause: str = "NO_CAPACITY") -> None:
    """Do what a conductor does when there is no room."""
    with api.db.write() as session:
        session.execute(update(Job).where(Job.id == job_id).values(cause=cause))


def let_run(api: Api, job_id: str) -> None:
    with api.db.write() as session:
        session.execute(update(Job).where(Job.id == job_id).values(phase="RUNNING"))
        session.execute(update(Node).where(Node.job_id == job_id).values(server_id="s"))


def offers(plan: dict[str, Any]) -> dict[str, str | None]:
    for offer in plan["offers"]:
        assert offer["available"] is (offer["reason"] is None)
    return {offer["flavor"]: offer["reason"] for offer in plan["offers"]}


def test_cost_and_offers(rich: Api) -> None:
    plan = planned(rich, workers=2, max_run_time=7200)
    assert (plan["cost_per_hour"], plan["max_cost"], plan["currency"]) == (2.0, 4.0, "EUR")
    assert [(offer["flavor"], offer["cost_per_hour"]) for offer in plan["offers"]] == [
        ("gpu.double", 3.5), ("gpu.huge", 5.0), ("gpu.large", 6.0), ("gpu.thin", None)]
    assert all(offer["available"] for offer in plan["offers"])


def test_offers_have_enough(rich: Api) -> None:
    assert set(offers(planned(rich, flavor="gpu.double"))) == {"gpu.large", "gpu.huge"}
    assert set(offers(planned(rich, flavor="gpu.huge"))) == set()
    assert set(offers(planned(rich, flavor="cpu.small"))) == {"gpu.small", "gpu.double", "gpu.large", "gpu.huge"}
    roles = {"worker": {"count": 2, "flavor": "gpu.double"}, "chief": {"count": 1, "flavor": "gpu.double"},
             "ps": {"count": 1, "flavor": "cpu.small"}}
    plan = planned(rich, workers=None, flavor=None, roles=roles)
    assert set(offers(plan)) == {"gpu.large", "gpu.huge"}
    assert plan["cost_per_hour"] is None
    assert plan["accelerators"] == 6


def test_flavors_too_small_for_the_image_are_no_offer(rich: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    image = conftest.IMAGES[0]
    monkeypatch.setattr(conftest, "IMAGES", [conftest.Image(**{**vars(image), "min_ram": 8192, "min_disk": 30})])
    assert set(offers(planned(rich, flavor="gpu.double"))) == {"gpu.large", "gpu.huge"}
    assert set(offers(planned(rich, flavor="gpu.large"))) == {"gpu.huge"}


def test_without_quota_it_is_not_feasible_and_says_what_create_says(rich: Api) -> None:
    limit(rich, accelerators=4)
    plan = planned(rich, workers=3, flavor="gpu.double")
    refusal = rich.post("/v1/jobs", json={"job": job(workers=3, flavor="gpu.double")})
    assert refusal.status_code == 403
    assert (plan["feasible"], plan["starts"]) == (False, None)
    assert plan["reasons"] == [refusal.json["error"]["message"]]  # type: ignore[index]
    plan = planned(rich, workers=2)
    assert plan["feasible"]
    assert offers(plan) == {"gpu.double": None, "gpu.thin": None, "gpu.large": "no quota: accelerators needed 8, free 4 of 4",
                            "gpu.huge": "no quota: accelerators needed 16, free 4 of 4"}
    assert [offer["available"] for offer in plan["offers"]] == [True, True, False, False]


def test_where_there_is_no_room(rich: Api) -> None:
    let_wait(rich, rich.create(flavor="gpu.huge", project="blue")["id"])
    let_wait(rich, rich.create(flavor="gpu.large", project="blue")["id"], cause="QUOTA")
    let_run(rich, rich.create(flavor="gpu.large", project="blue")["id"])
    rich.create(flavor="gpu.double", project="blue")  # waits for its turn only
    plan = planned(rich)
    assert offers(plan) == {
        "gpu.double": None, "gpu.thin": None, "gpu.large": "busy: jobs wait for gpu.large (1), which nodes have (2)",
        "gpu.huge": "no host: the cloud had no room for the jobs that wait for gpu.huge (1), and no node has it"}
    plan = planned(rich, flavor="gpu.large", priority=5)
    assert (plan["feasible"], plan["starts"], plan["queue_position"]) == (True, "queued", 1)
    assert plan["reasons"] == ["busy: jobs wait for gpu.large (1), which nodes have (2)"]


def test_the_place_in_the_queue(rich: Api) -> None:
    ids = [rich.create(priority=priority, project="blue")["id"] for priority in (0, 5, 0)]
    shown = {entry["id"]: entry["queue_position"] for entry in rich.get("/v1/jobs", project="blue").json["jobs"]}  # type: ignore[index]
    assert [shown[job_id] for job_id in ids] == [2, 1, 3]
    for priority, place in ((0, 4), (5, 2), (6, 1)):
        plan = planned(rich, priority=priority)
        assert plan["queue_position"] == place
        assert plan["starts"] == ("now" if place == 1 else "queued")
        assert plan["reasons"] == ([f"queue: jobs that come before it: {place - 1}"] if place > 1 else [])
    assert rich.create()["queue_position"] == 4
    assert rich.create(priority=6)["queue_position"] == 1
    let_run(rich, ids[1])
    assert rich.get(f"/v1/jobs/{ids[1]}", project="blue").json["job"]["queue_position"] is None  # type: ignore[index]
    assert rich.get(f"/v1/jobs/{ids[2]}", project="blue").json["job"]["queue_position"] == 3  # type: ignore[index]
