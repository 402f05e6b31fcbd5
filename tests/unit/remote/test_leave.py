"""An event that wakes those who wait for something else."""

from __future__ import annotations

from cml_nova.remote import Leave


def test_those_who_wait_are_woken_once() -> None:
    leave, calls = Leave(), []
    with leave.waking(lambda: calls.append("first")):
        with leave.waking(lambda: calls.append("second")):
            pass
        assert not calls
        leave.set()
        leave.set()
    assert leave.is_set() and calls == ["first"]


def test_who_comes_late_is_woken_at_once() -> None:
    leave, calls = Leave(), []
    leave.set()
    with leave.waking(lambda: calls.append("late")):
        assert calls == ["late"]
