"""Who is let through to which node, and for how long."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import event, update

from cml_nova.conductor import access
from cml_nova.db import events
from cml_nova.db.engine import Database
from cml_nova.db.models import Job, Node
from tests.unit.conductor.conftest import NOW

UP = {"status": "ACTIVE", "server_id": "s1", "address": "10.0.0.1"}
SPEC = {"image": {"ssh_user": "cml", "ssh_port": 2200}}


@pytest.fixture
def running(db: Database, make_job: Callable[..., str]) -> str:
    job_id = make_job(phase="RUNNING", spec=SPEC, keys={"host": "ssh-ed25519 AAAA"}, sealed="sealed",
                      runtime={"floating": {"s1": {"fixed": "10.0.0.1", "floating": "1.2.3.4"}}, "places": ["much"]})
    change(db, Node, job_id, **UP)
    return job_id


def change(db: Database, table: Any, job_id: str, **values: Any) -> None:
    with db.write() as session:
        session.execute(update(table).where((table.id if table is Job else table.job_id) == job_id).values(**values))


def ask(db: Database, job_id: str, **fields: Any) -> dict[str, Any]:
    ticket = {"job_id": job_id, "rank": 0, "port": 6006, "public_key": None, "user_id": "ann", "expires_at": NOW, **fields}
    with db.write() as session:
        return access.let_through(session, ticket)


def over(db: Database, job_id: str, server_id: str = "s1") -> str | None:
    with db.read() as session:
        [reason] = access.over(session, [(job_id, 0, server_id)])
        return reason


def told(db: Database, job_id: str) -> list[str]:
    with db.read() as session:
        return [event.message for event in events.page(session, job_id, 100) if event.kind == "access"]


def test_what_a_worker_gets(db: Database, running: str) -> None:
    assert ask(db, running) == {
        "node": {"server_id": "s1", "address": "10.0.0.1"},
        "image": SPEC["image"], "keys": {"host": "ssh-ed25519 AAAA"}, "sealed": "sealed",
        "runtime": {"floating": {"s1": {"fixed": "10.0.0.1", "floating": "1.2.3.4"}}}}
    assert over(db, running) is None


def test_the_same_access_is_one_event(db: Database, running: str) -> None:
    for fields in ({}, {}, {"user_id": "bea"}, {"port": None, "public_key": "ssh-ed25519 AAAA"}, {}):
        ask(db, running, **fields)
    assert told(db, running) == [
        "The user ann opened a tunnel to node 0, its port 6006.", "The user bea opened a tunnel to node 0, its port 6006.",
        "The user ann opened a tunnel to node 0, its SSH server."]


@pytest.mark.parametrize(("job", "node", "words"), [
    ({"phase": "QUEUED"}, {}, "waits in the queue"),
    ({"phase": "PROVISIONING"}, {"status": "BUILD"}, "is not up (BUILD); try again"),
    ({}, {"status": "PLANNED", "server_id": None, "address": None}, "is not up (PLANNED)"),
    ({"target": "DELETE"}, {}, "is being cancelled"),
    ({"phase": "TEARDOWN"}, {}, "has come to its end"),
    ({"phase": "DONE", "outcome": "FAILED"}, {"status": "DELETED"}, "has ended (FAILED)"),
])
def test_where_there_is_no_node_nobody_is_let_through(db: Database, running: str, job: dict[str, Any], node: dict[str, Any],
                                                      words: str) -> None:
    change(db, Job, running, **(job or {"progress": 0}))
    change(db, Node, running, **(node or UP))
    assert words in ask(db, running)["refused"]
    assert told(db, running) == []
    if not node.get("status") == "PLANNED":
        assert words in (over(db, running) or "")


@pytest.mark.parametrize("phase", ["PROVISIONING", "BOOTSTRAPPING", "RUNNING", "COLLECTING"])
def test_a_node_is_open_in_every_phase_that_needs_it(db: Database, running: str, phase: str) -> None:
    change(db, Job, running, phase=phase)
    assert "refused" not in ask(db, running)
    assert over(db, running) is None


def test_many_tunnels_are_looked_at_in_one_query_without_what_is_sealed(db: Database, running: str, make_job: Callable[..., str]) -> None:
    cancelled = make_job(phase="RUNNING", spec=SPEC, keys={}, sealed="sealed", target="DELETE")
    change(db, Node, cancelled, **UP)
    statements: list[str] = []
    with db.read() as session:
        event.listen(db.engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
        reasons = access.over(session, [(running, 0, "s1"), (cancelled, 0, "s1"), (running, 0, "s1"), (running, 7, "s1")])
    assert [reason and reason.split(" ", 3)[-1] for reason in reasons] == [
        None, "is being cancelled; its log, metrics and artifacts stay.", None, "was deleted."]
    [query] = [text for text in statements if "SELECT" in text]
    assert "sealed" not in query and "spec" not in query


def test_what_is_out_of_date(db: Database, running: str) -> None:
    assert "expired" in ask(db, running, expires_at=1000.0)["refused"]
    assert "no job" in ask(db, "33333333-0000-4000-8000-000000000000")["refused"]
    assert "no job" in ask(db, running, rank=7)["refused"]
    assert "was replaced" in (over(db, running, "s0") or "")
    assert "was deleted" in (over(db, "33333333-0000-4000-8000-000000000000") or "")
