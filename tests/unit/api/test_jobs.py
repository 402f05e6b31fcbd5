"""Jobs through HTTP: create, list, show, change, cancel, delete."""

from __future__ import annotations

from tests.unit.api.conftest import Api


def test_create_then_show(api: Api) -> None:
    created = api.create(secrets={"TOKEN": "hush"}, env={"A": "1"})
    answer = api.get(f"/v1/jobs/{created['id']}")
    assert answer.status_code == 200
    assert answer.json == {"job": created}
    assert created["status"] == "QUEUED"
    assert created["roles"]["worker"]["count"] == 2
    assert "hush" not in answer.text
    assert api.conductor.woken == [created["id"]]
    assert api.rows()["nodes"] == 2
