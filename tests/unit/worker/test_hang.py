"""When an attempt hangs."""

from __future__ import annotations

from cml_nova.remote import Idle
from cml_nova.worker.hang import find_hang, interval


def known(**seconds: tuple[float, bool]) -> dict[str, Idle]:
    return {task: Idle(1, task, silence, beats) for task, (silence, beats) in seconds.items()}


def test_it_hangs_when_nobody_gives_a_sign_of_life() -> None:
    hang = find_hang(["a", "b"], known(a=(70, False), b=(61.4, False)), 60)
    assert hang is not None
    assert (hang.task, hang.alone) == ("b", False)
    assert "for 61 s no process has printed a line" in str(hang) and "the last one was b" in str(hang)


def test_one_that_is_quiet_beside_others_does_not_hang() -> None:
    assert find_hang(["ps", "worker"], known(ps=(9000, False), worker=(59, False)), 60) is None


def test_one_whose_heartbeat_stands_still_hangs_alone() -> None:
    hang = find_hang(["a", "b"], known(a=(1, True), b=(60, True)), 60)
    assert hang is not None
    assert (hang.task, hang.alone) == ("b", True)
    assert str(hang).startswith("Task b hangs: for 60 s")


def test_what_nothing_is_known_of_may_live() -> None:
    assert find_hang(["a", "b"], known(a=(600, False)), 60) is None
    alone = find_hang(["a", "b"], known(a=(600, True)), 60)
    assert alone is not None and alone.task == "a", "a heartbeat is a matter of its own node"


def test_those_that_have_ended_are_not_asked() -> None:
    assert find_hang([], known(a=(600, True)), 60) is None
    hang = find_hang(["b"], known(a=(600, False), b=(60, False)), 60)
    assert hang is not None and hang.task == "b"


def test_nodes_speak_often_enough() -> None:
    assert [interval(seconds) for seconds in (1, 4, 20, 3600)] == [0.5, 1, 5, 5]
