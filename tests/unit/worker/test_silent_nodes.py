"""For how long nodes are waited for while they are made ready, and while outputs are collected."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from oslo_config import cfg

from cml_nova import conf as cml_conf
from cml_nova import exception
from cml_nova.compute.fleet import Server
from cml_nova.remote import ProcessState
from cml_nova.states import Cause, Target
from cml_nova.worker.consoles import with_last_words
from cml_nova.worker.readiness import Lost, NotReady
from cml_nova.worker.setup import Setup
from cml_nova.worker.steps import bootstrap, collect

NODE = {"rank": 0, "role": "worker", "index": 0, "address": "10.0.0.1", "server_id": "a", "unreachable_since": None}


class Crew:
    """One node, which has answered or not."""

    def __init__(self, answered: bool = False) -> None:
        self.answered = answered
        self.dropped: list[int] = []

    def has_answered(self, rank: int) -> bool:
        return self.answered

    def drop(self, rank: int) -> None:
        self.dropped.append(rank)


class Consoles:
    """The cloud, which has consoles to show or, where there is an error, has not."""

    def __init__(self, *printed: str, error: exception.CMLError | None = None) -> None:
        self.printed, self.error = "\n".join(printed), error
        self.asked: list[str] = []

    def console(self, server_id: str, lines: int) -> str:
        self.asked.append(server_id)
        if self.error:
            raise self.error
        return self.printed


class Silence:
    """Says of the node what the test does."""

    def __init__(self, silent: float | None = None, waited: float | None = None) -> None:
        self._silent, self._waited = silent, waited

    def seconds(self) -> dict[int, float]:
        return {} if self._silent is None else {0: self._silent}

    def waited(self) -> dict[int, float]:
        return {} if self._waited is None else {0: self._waited}

    def news(self) -> dict[str, Any]:
        return {}


@pytest.fixture
def work() -> Any:
    conf = cfg.ConfigOpts()
    cml_conf.register_opts(conf)
    conf([])
    server = Server("a", "a", "ACTIVE", "10.0.0.1", None, "job", 0, 1, None)
    watch = SimpleNamespace(latest=lambda job_id, newer_than: [server])
    layout = SimpleNamespace(nodes=[SimpleNamespace(role="worker", index=0)])
    job = SimpleNamespace(id="job", nodes=[dict(NODE)], attempt=0, infra_restarts=0, runtime={}, target=Target.RUN, outcome=None,
                          layout=layout)
    lease = SimpleNamespace(check=lambda: None, nudged=SimpleNamespace(is_set=lambda: False))
    tools = SimpleNamespace(watch=watch, storage=None, fleet=Consoles())
    return SimpleNamespace(conf=conf, job=job, tools=tools, lease=lease, ended_early=lambda: False)


def late(work: Any, crew: Crew, silence: Silence) -> None:
    bootstrap._check_late(work, crew, silence)  # type: ignore[arg-type]


def test_one_that_never_answered_is_replaced(work: Any) -> None:
    with pytest.raises(Lost) as lost:
        late(work, Crew(), Silence(601))
    assert (lost.value.nodes, lost.value.runtime) == ({0: "it did not answer by SSH within 600 s"}, {"unfit": [0]})


def test_what_its_console_shows_last_is_said(work: Any) -> None:
    work.tools.fleet = Consoles("[    1.2] Booting", "\x1b[31m[    2.5] Kernel panic - not syncing: " + 300 * "x", "\x1b[0m", "")
    with pytest.raises(Lost) as lost:
        late(work, Crew(), Silence(601))
    why = lost.value.nodes[0]
    assert "within 600 s; the last line of its console is: [    2.5] Kernel panic - not syncing: xxx" in why
    assert why.isprintable() and len(why) < 300


@pytest.mark.parametrize("error", [exception.NotFound("no host"), exception.CloudError("503"), exception.CloudRefused("403")])
def test_one_without_a_console_is_replaced_as_well(work: Any, error: exception.CMLError) -> None:
    work.tools.fleet = Consoles(error=error)
    with pytest.raises(Lost) as lost:
        late(work, Crew(), Silence(601))
    assert lost.value.nodes == {0: "it did not answer by SSH within 600 s"}


def test_not_all_consoles_of_many_machines_are_asked_for(work: Any) -> None:
    work.tools.fleet = Consoles("the end")
    work.job.nodes = [NODE | {"rank": rank, "server_id": str(rank)} for rank in range(50)]
    told = with_last_words(work, dict.fromkeys(range(50), "why"))
    assert work.tools.fleet.asked == ["0", "1", "2"]
    assert [told[0], told[49]] == ["why; the last line of its console is: the end", "why"]


@pytest.mark.parametrize("attempt", [0, 1])
def test_one_whose_replacement_never_answers_fails_the_job_unless_it_has_worked_before(work: Any, attempt: int) -> None:
    work.job.runtime["unfit"], work.job.attempt = [0], attempt
    with pytest.raises(Lost if attempt else NotReady) as problem:
        late(work, Crew(), Silence(601))
    if not attempt:
        assert problem.value.columns["cause"] == Cause.INFRA_LOST  # type: ignore[union-attr]
        assert "did not answer by SSH within 600 s. The machine before it was no better. See whether" in str(problem.value)


@pytest.mark.parametrize("by_us", [True, False])
def test_one_that_has_answered_before_may_be_silent_for_longer(work: Any, by_us: bool) -> None:
    if not by_us:
        work.job.nodes[0]["unreachable_since"] = 1.0
    late(work, Crew(answered=by_us), Silence(7000))


def test_one_that_answers_and_is_not_ready_is_replaced(work: Any) -> None:
    late(work, Crew(answered=True), Silence(waited=599))
    with pytest.raises(Lost, match="it answers, but was not ready within 600 s"):
        late(work, Crew(answered=True), Silence(waited=601))


@pytest.mark.parametrize(("silent", "word"), [(7100, None), (7201, "has not answered for 7200 s")])
def test_silence_in_a_setup_is_borne_as_in_a_training(work: Any, silent: float, word: str | None) -> None:
    crew = Crew(answered=True)
    setup = Setup(work, crew, Silence(silent))  # type: ignore[arg-type]
    setup._look()
    assert setup._ended.is_set() == bool(word)
    assert word is None or (word in str(setup._problem) and crew.dropped == [0])


@pytest.mark.parametrize(("waited", "known", "problem"), [
    (599, True, None), (601, True, "The setup command did not end within 600 s on worker:0"),
    (601, False, "did not start the setup command within 600 s"),
])
def test_a_setup_has_its_time_while_its_node_answers(work: Any, waited: float, known: bool, problem: str | None) -> None:
    setup = Setup(work, Crew(answered=True), Silence(waited=waited))  # type: ignore[arg-type]
    if known:
        setup._states[0] = ProcessState(0, "worker:0", "RUNNING")
    setup._look()
    assert (problem is None and setup._problem is None) or (problem is not None and problem in str(setup._problem))


def collection(work: Any, crew: Crew, silence: Silence, trained: bool = True) -> Any:
    found: Any = collect._Collection(work, crew, trained)  # type: ignore[arg-type]
    found._silence = silence
    return found


@pytest.mark.parametrize(("silence", "word"), [
    (Silence(7100), None),
    (Silence(7201), "it has not answered for 7200 s"),
    (Silence(waited=1799), None),
    (Silence(waited=1801), "it answers, but has sent nothing of its outputs for 1800 s"),
])
def test_outputs_of_a_trained_job_are_waited_for(work: Any, silence: Silence, word: str | None) -> None:
    crew = Crew()
    found = collection(work, crew, silence)
    found._began -= 1e6
    found._look()
    assert found.lost == ({0: word} if word else {})
    assert crew.dropped == ([0] if word else [])


@pytest.mark.parametrize(("restarts", "others"), [(0, [0, 1]), (10, [0])])
def test_outputs_beside_lost_ones_are_waited_for_only_where_the_training_is_not_repeated(
        work: Any, restarts: int, others: list[int]) -> None:
    work.job.infra_restarts, crew = restarts, Crew()
    found = collection(work, crew, Silence(7201))
    found._pending.add(1)
    found._look()
    assert sorted(crew.dropped) == others


def test_a_loss_after_its_outputs_have_come_is_none(work: Any) -> None:
    found = collection(work, Crew(), Silence(7201))
    found._pending, found._collected = set(), {0}
    found._look()
    assert not found._stop.is_set()


@pytest.mark.parametrize(("age", "over"), [(1700, False), (1801, True)])
def test_outputs_of_another_job_have_a_limited_time_in_all(work: Any, age: float, over: bool) -> None:
    crew = Crew()
    found = collection(work, crew, Silence(10), trained=False)
    found._began -= age
    found._look()
    assert (found._stop.is_set(), crew.dropped) == (over, [0] if over else [])


def test_outputs_of_a_cancelled_job_are_not_waited_for(work: Any) -> None:
    work.job.target = Target.DELETE
    found = collection(work, Crew(), Silence(10))
    found._look()
    assert found._stop.is_set()
