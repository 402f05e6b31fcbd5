"""For how long a node is silent, or keeps us waiting while it answers; what users are told; and what is asked again."""

from __future__ import annotations

import threading
from time import gmtime, strftime
from types import SimpleNamespace
from typing import Any

import pytest
from oslo_config import cfg

from cml_nova import conf as cml_conf
from cml_nova import exception
from cml_nova.worker import silence as module
from cml_nova.worker.silence import Silence


class Clock:
    """A monotonic clock beside a wall clock that stands still."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return 0.0

    strftime, gmtime = staticmethod(strftime), staticmethod(gmtime)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def work() -> Any:
    conf = cfg.ConfigOpts()
    cml_conf.register_opts(conf)
    conf([])
    nodes = [{"rank": rank, "unreachable_since": None} for rank in (0, 1)]
    slots = [SimpleNamespace(role="worker", index=rank) for rank in (0, 1)]
    return SimpleNamespace(conf=conf, job=SimpleNamespace(id="job", nodes=nodes, layout=SimpleNamespace(nodes=slots)))


def test_silence_counts_from_when_a_node_is_missed_until_it_is_reached(work: Any, clock: Clock) -> None:
    silence = Silence(work, "it is waited for")
    silence.missed(1, "reset")
    clock.now += 5
    silence.missed(1, "refused")
    clock.now += 5
    assert silence.seconds() == {1: 10}
    silence.reached(1)
    assert silence.seconds() == {}


def test_users_are_told_once_that_a_node_is_silent_and_once_that_it_answers(work: Any, clock: Clock) -> None:
    silence = Silence(work, "it is waited for")
    assert silence.news() == {}
    silence.missed(1, "reset")
    silence.missed(1, "refused")
    news = silence.news()
    assert news["nodes"] == [{"rank": 1, "unreachable_since": 0.0}]
    assert news["status_reason"] == "Node 1 (worker:1) has been UNREACHABLE since 1970-01-01T00:00:00Z; it is waited for."
    assert [message for _, message, _ in news["events"]] == ["Node 1 does not answer; it is waited for: reset"]
    assert silence.news() == {}
    silence.reached(1)
    silence.reached(1)
    news = silence.news()
    assert (news["nodes"], news["status_reason"]) == ([{"rank": 1, "unreachable_since": None}], None)
    assert [message for _, message, _ in news["events"]] == ["Node 1 answers again."]


def test_what_another_worker_told_stays_true_until_the_node_answers_us(work: Any, clock: Clock) -> None:
    work.job.nodes[1]["unreachable_since"] = 3600.0
    silence = Silence(work, "it is waited for")
    assert silence.seconds() == {}, "the time counts anew"
    silence.missed(1, "refused")
    assert "since 1970-01-01T01:00:00Z" in silence.news()["status_reason"]
    silence.reached(1)
    assert silence.news()["nodes"] == [{"rank": 1, "unreachable_since": None}]


def test_of_a_machine_that_boots_nobody_is_told(work: Any, clock: Clock) -> None:
    silence = Silence(work, "it is waited for")
    silence.missed(0, "refused", tell=False)
    clock.now += 2
    assert (silence.seconds(), silence.news()) == ({0: 2}, {})
    silence.reached(0)
    assert (silence.seconds(), silence.news()) == ({}, {})


def test_nodes_that_never_answered_us_are_missed_after_a_while(work: Any, clock: Clock) -> None:
    silence = Silence(work, "its processes go on")
    silence.reached(0)
    silence.miss_absent()
    assert silence.seconds() == {}
    clock.now += work.conf.remote.unreachable_after + 1
    silence.miss_absent()
    assert set(silence.seconds()) == {1}


def test_a_node_that_is_lost_stays_silent_and_is_spoken_of_no_more(work: Any, clock: Clock) -> None:
    silence = Silence(work, "its processes go on")
    silence.missed(0, "reset")
    silence.missed(1, "reset")
    silence.news()
    silence.forget([0])
    silence.reached(0)
    silence.reached(1)
    assert set(silence.seconds()) == {0}
    assert silence.news()["nodes"] == [{"rank": 1, "unreachable_since": None}]


def test_waiting_counts_while_a_node_answers_only(work: Any, clock: Clock) -> None:
    silence = Silence(work, "it is waited for")
    silence.begin(0)
    clock.now += 1000
    assert silence.waited() == {0: 0}, "it has not answered yet"
    silence.reached(0)
    clock.now += 3
    silence.missed(0, "reset")
    clock.now += 1000
    silence.begin(0)
    silence.reached(0)
    clock.now += 4
    assert silence.waited() == {0: 7}
    silence.end(0)
    assert silence.waited() == {}
    silence.begin(0)
    clock.now += 1
    assert silence.waited() == {0: 1}, "something came, so it counts anew"


class Node:
    """A machine whose path is lost as often as is said."""

    def __init__(self, *failures: exception.RemoteError) -> None:
        self.failures = list(failures)
        self.connected = False
        self.tries = 0

    def connect(self, timeout: float) -> None:
        self.tries += 1
        self.connected = True

    def act(self, machine: Any) -> str:
        if self.failures:
            self.connected = False
            raise self.failures.pop(0)
        return "done"


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_RETRY_PAUSE", 0)


def insist(silence: Silence, node: Node, stop: threading.Event | None = None, lost: tuple[int, ...] = ()) -> str:
    return silence.insist(0, node, node.act, stop or threading.Event(), lost)  # type: ignore[arg-type]


def test_what_a_lost_path_has_cut_off_is_done_again(work: Any, clock: Clock) -> None:
    silence, node = Silence(work, "it is waited for"), Node(*[exception.RemoteError("reset")] * 3)
    assert insist(silence, node) == "done"
    assert (node.tries, silence.seconds()) == (4, {})


def test_a_node_that_refuses_is_not_asked_again(work: Any, clock: Clock) -> None:
    node = Node(exception.NodeCommandFailed("too many files"))
    with pytest.raises(exception.NodeCommandFailed, match="too many files"):
        insist(Silence(work, "it is waited for"), node)


@pytest.mark.parametrize("stopped", [True, False])
def test_a_node_that_is_given_up_is_not_asked(work: Any, clock: Clock, stopped: bool) -> None:
    stop, node = threading.Event(), Node()
    if stopped:
        stop.set()
    with pytest.raises(exception.RemoteError, match="not waited for"):
        insist(Silence(work, "it is waited for"), node, stop, () if stopped else (0,))
    assert node.tries == 0


def test_giving_up_tells_what_went_wrong_last_and_calls_nobody_silent(work: Any, clock: Clock) -> None:
    silence, stop, node = Silence(work, "it is waited for"), threading.Event(), Node(exception.RemoteError("the connection was closed"))

    def act(machine: Any) -> str:
        stop.set()
        return node.act(machine)

    with pytest.raises(exception.RemoteError, match="was closed"):
        silence.insist(0, node, act, stop)  # type: ignore[arg-type]
    assert silence.seconds() == {}
