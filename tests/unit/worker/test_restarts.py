"""When a job starts anew."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from cml_nova.states import Phase
from cml_nova.worker.restarts import next_attempt


def work(**job: Any) -> Any:
    conf = SimpleNamespace(conductor=SimpleNamespace(max_infra_restarts=3, restart_pause_min=10, restart_pause_max=30))
    return SimpleNamespace(conf=conf, job=SimpleNamespace(**{
        "attempt": 4, "error_restarts": 0, "infra_restarts": 0, "spec": {"max_restarts": 3}, **job}))


@pytest.mark.parametrize("counter", ["error_restarts", "infra_restarts"])
def test_the_first_restart_of_each_kind_comes_at_once_and_later_ones_after_a_growing_pause(counter: Any) -> None:
    other = "infra_restarts" if counter == "error_restarts" else "error_restarts"
    first = next_attempt(work(**{other: 2}), counter, Phase.BOOTSTRAPPING, "why")
    assert first is not None
    assert (first[counter], first["phase"], "pause" in first) == (1, Phase.BOOTSTRAPPING, False)
    assert "Attempt 5 begins at once" in first["events"][0][1]
    for done, least, most in ((1, 5, 10), (2, 10, 20)):
        later = next_attempt(work(**{counter: done}), counter, Phase.BOOTSTRAPPING, "why")
        assert later is not None
        assert (later[counter], later["phase"]) == (done + 1, Phase.PROVISIONING)
        assert least <= later["pause"] <= most
        assert f"Attempt 5 begins in {later['pause']:.1f} s" in later["events"][0][1]
        assert later["status_reason"].startswith("why\nAttempt 5 begins in")


def test_each_kind_has_its_own_limit() -> None:
    assert next_attempt(work(error_restarts=3), "error_restarts", Phase.BOOTSTRAPPING, "why") is None
    assert next_attempt(work(error_restarts=3), "infra_restarts", Phase.BOOTSTRAPPING, "why")
    assert next_attempt(work(infra_restarts=3), "infra_restarts", Phase.BOOTSTRAPPING, "why") is None
    assert next_attempt(work(spec={}), "error_restarts", Phase.BOOTSTRAPPING, "why") is None
