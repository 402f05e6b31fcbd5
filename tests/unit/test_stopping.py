"""A daemon that is told to stop: its parts in the opposite order, but none of them while it still starts them."""

from __future__ import annotations

from cml_nova.service import Daemon


class Part:
    """Notes what is done to it."""

    def __init__(self, name: str, notes: list[str], daemon: list[Daemon]) -> None:
        self.name, self.notes, self.daemon = name, notes, daemon

    def start(self) -> None:
        self.notes.append(f"start {self.name}")
        if self.daemon:
            self.daemon[0].stop()  # the signal comes, as it does, in the thread that starts

    def stop(self) -> None:
        self.notes.append(f"stop {self.name}")


def test_parts_are_stopped_in_the_opposite_order() -> None:
    notes: list[str] = []
    daemon = Daemon(Part("a", notes, []), Part("b", notes, []))
    daemon.start()
    daemon.stop()
    daemon.wait()
    assert notes == ["start a", "start b", "stop b", "stop a"]


def test_a_stop_during_the_start_waits_for_no_part() -> None:
    notes: list[str] = []
    daemons: list[Daemon] = []
    daemons.append(Daemon(Part("a", notes, []), Part("b", notes, daemons)))
    daemons[0].start()
    daemons[0].wait()
    assert notes == ["start a", "start b"]
