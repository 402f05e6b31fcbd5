"""The pause before a step that has failed is run again."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from cml_nova.worker import runner


class Wake:
    """Is set a second after each wait has begun, at the latest, and has a clock that goes on with that only."""

    def __init__(self) -> None:
        self.now = 100.0

    def wait(self, seconds: float) -> None:
        self.now += min(1.0, seconds)


@pytest.mark.fault("rate-limited")
@pytest.mark.parametrize(("asked", "unwanted_at", "rested"), [(0, 999, 1), (4.5, 999, 4.5), (4.5, 102, 2)])
def test_news_end_the_pause_but_not_before_the_time_that_the_cloud_asks_for(monkeypatch: pytest.MonkeyPatch, asked: float,
                                                                           unwanted_at: float, rested: float) -> None:
    wake = Wake()
    monkeypatch.setattr(runner.time, "monotonic", lambda: wake.now)
    work = SimpleNamespace(lease=SimpleNamespace(wake=wake), stopping=lambda: False, ended_early=lambda: wake.now >= unwanted_at)
    runner._rest(work, asked, 3.0)  # type: ignore[arg-type]
    assert wake.now - 100 == rested
