"""Limits that Keystone keeps: asked for by their names there, and what happens when it can't be asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from cml_nova import exception
from cml_nova.compute import limits
from cml_nova.compute.limits import UnifiedLimits


class Enforcer:
    """oslo.limit's, of which this is all that is used."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, list[str]]] = []
        self.error: Exception | None = None

    def get_project_limits(self, project_id: str, names: list[str]) -> list[tuple[str, int]]:
        self.asked.append((project_id, names))
        if self.error:
            raise self.error
        return [(name, len(name)) for name in names]


@pytest.fixture
def enforcer(monkeypatch: pytest.MonkeyPatch) -> Enforcer:
    made = Enforcer()
    monkeypatch.setattr(limits, "make_enforcer", lambda: made)
    return made


def test_resources_have_a_prefix_there(enforcer: Enforcer) -> None:
    assert UnifiedLimits().of("red", ("jobs", "nodes")) == {"jobs": 7, "nodes": 8}
    assert enforcer.asked == [("red", ["ml_jobs", "ml_nodes"])]


def test_keystone_that_can_not_be_asked(enforcer: Enforcer, monkeypatch: pytest.MonkeyPatch) -> None:
    unified = UnifiedLimits()
    enforcer.error = ConnectionError()
    with pytest.raises(exception.ServiceUnavailable, match="Keystone"):
        unified.of("red", ("jobs",))
    enforcer.error = None
    assert unified.of("red", ("jobs",)) == {"jobs": 7}


def test_a_client_that_can_not_be_made_is_made_the_next_time(enforcer: Enforcer, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Any:
        raise ValueError("Endpoint not found")

    make: Callable[[], Any] = limits.make_enforcer
    unified = UnifiedLimits()
    monkeypatch.setattr(limits, "make_enforcer", fail)
    with pytest.raises(exception.ServiceUnavailable):
        unified.of("red", ("jobs",))
    monkeypatch.setattr(limits, "make_enforcer", make)
    assert unified.of("red", ("jobs",)) == {"jobs": 7}
