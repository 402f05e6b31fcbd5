"""The state table."""

from __future__ import annotations

import pytest

from cml_nova.states import STATUSES, TRANSITIONS, Outcome, Phase, may_follow, status_of


def test_every_phase_leads_to_done() -> None:
    for start in Phase:
        reached, frontier = {start}, {start}
        while frontier:
            frontier = {after for before in frontier for after in TRANSITIONS[before]} - reached
            reached |= frontier
        assert Phase.DONE in reached


@pytest.mark.parametrize("phase", [Phase.QUEUED, Phase.PROVISIONING, Phase.BOOTSTRAPPING, Phase.RUNNING, Phase.COLLECTING])
def test_teardown_is_reachable_from_every_phase_before_it(phase: Phase) -> None:
    assert may_follow(phase, Phase.TEARDOWN)


def test_done_is_final() -> None:
    assert [phase for phase in Phase if phase != Phase.DONE and may_follow(Phase.DONE, phase)] == []


def test_a_terminal_status_means_that_nothing_is_left() -> None:
    for phase in Phase:
        for outcome in Outcome:
            assert (status_of(phase, outcome) in set(Outcome)) == (phase == Phase.DONE)
            assert status_of(phase, outcome) in STATUSES
