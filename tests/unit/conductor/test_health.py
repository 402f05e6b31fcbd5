"""When a conductor may take jobs over, and how many."""

from __future__ import annotations

from cml_nova.conductor.health import Allowance, Health, Part
from tests.unit.conductor.conftest import Clock, look_at_both


def test_both_have_to_be_healthy_for_one_lease_time(clock: Clock) -> None:
    health = Health(60, 5, clock)
    assert health.wanting() == [Part.DATABASE, Part.BUS], "at the start nothing has been seen"
    look_at_both(health, clock, 59)
    assert health.wanting() == [Part.DATABASE, Part.BUS]
    look_at_both(health, clock, 1)
    assert health.wanting() == []


def test_a_failure_of_one_starts_its_time_anew(clock: Clock) -> None:
    health = Health(60, 5, clock)
    look_at_both(health, clock, 100)
    health.bad(Part.BUS)
    assert health.wanting() == [Part.BUS]
    look_at_both(health, clock, 59)
    assert health.wanting() == [Part.BUS]
    look_at_both(health, clock, 1)
    assert health.wanting() == []


def test_a_look_that_does_not_come_back_is_a_failure(clock: Clock) -> None:
    """A driver may wait for its broker for ever, and a process that was stopped has seen nothing meanwhile."""
    health = Health(60, 5, clock)
    look_at_both(health, clock, 60)
    clock.now += 31
    assert health.wanting() == [Part.DATABASE, Part.BUS]
    look_at_both(health, clock, 59)
    assert health.wanting() == [Part.DATABASE, Part.BUS], "the time before the silence does not count"
    look_at_both(health, clock, 1)
    assert health.wanting() == []


def test_looks_that_are_rare_on_purpose_are_no_silence(clock: Clock) -> None:
    health = Health(6, 10, clock)
    look_at_both(health, clock, 60, interval=10)
    assert health.wanting() == []


def test_an_allowance_is_given_anew_with_time(clock: Clock) -> None:
    allowance = Allowance(2, clock)
    for _ in range(2):
        assert allowance.any_left
        allowance.take()
    assert not allowance.any_left
    clock.now += 30
    assert allowance.any_left
    allowance.take()
    assert not allowance.any_left
    clock.now += 3600
    allowance.take()
    allowance.take()
    assert not allowance.any_left, "what was not used is not saved up"


def test_no_limit(clock: Clock) -> None:
    allowance = Allowance(0, clock)
    for _ in range(100):
        allowance.take()
    assert allowance.any_left
