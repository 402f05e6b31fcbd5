"""What may happen to jobs, in any order."""

from __future__ import annotations

import itertools
from typing import Any, TypeVar

import hypothesis.strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from cml_nova import exception
from cml_nova.db import jobs
from cml_nova.db.models import Job, Node
from cml_nova.states import Phase, Target
from tests.harness.job_model.oracle import Known, Oracle
from tests.harness.job_model.site import CONTEXT, Site
from tests.harness.job_model.steps import CHOICES
from tests.harness.job_model.worker import FATES, Worker

T = TypeVar("T")

#: at the end there are so many rounds, of so many seconds, in which everybody does what there is to do: leases and pauses are over by then
_ROUNDS, _ROUND_SECONDS = 3, 130.0

_PLACES = st.integers(0, 30)
_LIMITS = st.sampled_from([10**9, 10**9, 50])
_MOSTLY, _SELDOM = st.sampled_from([True, True, True, False]), st.sampled_from([False, False, False, True])

#: what may happen, how often beside each other, and in which ways
_OFTEN = {"submit": 1, "cancel": 1, "go_on": 6, "end_worker": 1, "deliver": 1, "unstall": 2, "time_passes": 4}
_DETAILS: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "submit": dict(max_restarts=st.integers(0, 2), wait=_LIMITS, run=_LIMITS, heard=_MOSTLY),
    "cancel": dict(place=_PLACES, forget=st.booleans(), heard=_MOSTLY),
    "go_on": dict(place=_PLACES, steps=st.lists(st.tuples(st.sampled_from(CHOICES), st.sampled_from(FATES)), min_size=1, max_size=5)),
    "end_worker": dict(place=_PLACES, says_goodbye=st.booleans(), capacity=st.integers(0, 3)),
    "deliver": dict(place=_PLACES, times=st.sampled_from([0, 1, 2])),
    "unstall": dict(place=_PLACES),
    "time_passes": dict(seconds=st.sampled_from([1.0, 29.0, 61.0, 700.0]), outage=_SELDOM, hangs=st.none() | _PLACES, sweeps=_MOSTLY,
                        heard=_MOSTLY),
}


def _pick(things: list[T], place: int) -> T:
    return things[place % len(things)]


class JobLife(RuleBasedStateMachine):
    """The rules: whatever may happen to jobs, in any order. ``place`` picks one of whatever there is of a kind."""

    site: Site

    def __init__(self) -> None:
        super().__init__()
        self.site.reset()
        self._numbers = itertools.count(1)
        self.oracle = Oracle(self.site)
        self.workers: list[Worker] = []

    # Users

    def submit(self, max_restarts: int, wait: int, run: int, heard: bool) -> None:
        job_id = f"job-{next(self._numbers)}"
        job = Job(id=job_id, project_id="p", user_id="u", name="job", meta={}, keys={}, sealed="", phase=Phase.QUEUED, target=Target.RUN,
                  spec={"max_wait_time": wait, "max_run_time": run, "max_restarts": max_restarts}, runtime={}, forget=False)
        with self.site.db.write() as session:
            jobs.create(session, job, [Node(rank=0, role="worker", role_index=0, flavor_id="f", status="PLANNED")])
        self.oracle.known[job_id] = Known(max_restarts)
        self._hint(job_id, heard)

    def cancel(self, place: int, forget: bool, heard: bool) -> None:
        """As api/v1/jobs.py does it."""
        job_id = _pick(sorted(self.oracle.known), place)
        with self.site.db.write() as session:
            jobs.request_end(session, job_id, forget=forget)
        known, row = self.oracle.known[job_id], self.site.rows().get(job_id)
        if row is not None and row.phase != Phase.DONE:
            assert row.target == Target.DELETE and (row.forget or not forget)
            known.forget = known.forget or forget
        elif row is not None and forget:
            with self.site.db.write() as session:
                assert jobs.remove(session, job_id)
            known.forget = True
        self._hint(job_id, heard)

    def _hint(self, job_id: str, heard: bool) -> None:
        self.site.casts.append(("wake", job_id))
        if heard:
            self._flush()

    # Workers

    @initialize(capacities=st.lists(st.integers(1, 3), min_size=2, max_size=3),
                limits=st.lists(st.tuples(st.integers(0, 2), _LIMITS), min_size=1, max_size=2))
    def begin(self, capacities: list[int], limits: list[tuple[int, int]]) -> None:
        """There are jobs in the hands of workers from the start."""
        for capacity in capacities:
            self._new_worker(capacity)
        for max_restarts, run in limits:
            self.submit(max_restarts, 10**9, run, True)

    def _new_worker(self, capacity: int) -> Worker:
        worker = Worker(self.oracle, f"w{next(self._numbers)}", capacity)
        self.workers.append(worker)
        worker.beat()
        return worker

    def go_on(self, place: int, steps: list[tuple[str, str]]) -> None:
        """A worker goes some steps on with a job, if it lives and holds it for so long."""
        worker, job_id = _pick(self._held(), place)
        for choice, worker.fate.kind in steps:
            if job_id in worker.works:
                worker.step(job_id, choice)
        worker.fate.kind = "fine"

    def end_worker(self, place: int, says_goodbye: bool, capacity: int) -> None:
        """It is killed, or stopped. Another one may come up in its place."""
        worker = _pick(self._living(), place)
        worker.die()
        if says_goodbye:
            self.site.manager.worker_goodbye(CONTEXT, worker.id)
        if capacity:
            self._new_worker(capacity)

    def _living(self) -> list[Worker]:
        return [worker for worker in self.workers if worker.alive]

    def _held(self) -> list[tuple[Worker, str]]:
        return [(worker, job_id) for worker in self._living() for job_id in sorted(worker.works)]

    # Bus, conductor, time

    def deliver(self, place: int, times: int) -> None:
        """One of the messages that are under way comes, comes twice, or is lost."""
        message = self.site.casts.pop(place % len(self.site.casts))
        for _ in range(times):
            self._deliver(message)

    def _flush(self) -> None:
        """All messages come, and those that they bring about."""
        while self.site.casts:
            self._deliver(self.site.casts.pop(0))

    def _deliver(self, message: tuple[str, ...]) -> None:
        kind, name, *rest = message
        if kind == "wake":
            return self.site.manager.job_wake(CONTEXT, name)
        for worker in self._living():
            if worker.id == name:
                if kind == "run":
                    worker.take(rest[0], int(rest[1]))
                else:
                    worker.nudge(rest[0])

    def unstall(self, place: int) -> None:
        """The conductor that had taken a report goes on with it; nobody waits for the answer any more."""
        job_id, generation, report = self.site.stalled.pop(place % len(self.site.stalled))
        try:
            self.oracle.report(job_id, generation, report)
        except exception.LeaseLost:
            return

    def time_passes(self, seconds: float, outage: bool, hangs: int | None, sweeps: bool, heard: bool) -> None:
        """All do what the clock tells them to, but for one who is stopped meanwhile, in the middle of something.

        It goes on as if nothing had happened, and believes in leases that have run out.
        """
        holders = [worker for worker, _ in self._held()]
        hanging = _pick(holders, hangs) if holders and hangs is not None else None
        self.site.pass_time(seconds, outage)
        for worker in self._living():
            if worker is hanging:
                worker.lag += seconds
            else:
                worker.beat()
        if sweeps:
            self.site.periodics.sweep()
        if heard:
            self._flush()

    def _possible(self) -> list[str]:
        """List what may happen now, by how often it is to happen."""
        able = {"cancel": self.oracle.known, "go_on": self._held(), "end_worker": self._living(), "deliver": self.site.casts,
                "unstall": self.site.stalled}
        return [name for name, weight in _OFTEN.items() if able.get(name, True) for _ in range(weight)]

    @rule(data=st.data())
    def something_happens(self, data: st.DataObject) -> None:
        """One rule for all: Hypothesis leaves whole rules out of many runs, while here it takes several together to go wrong."""
        name = data.draw(st.sampled_from(self._possible()), "what")
        getattr(self, name)(**data.draw(st.fixed_dictionaries(_DETAILS[name]), "how"))

    @invariant()
    def every_change_is_allowed(self) -> None:
        self.oracle.check_changes()

    def teardown(self) -> None:
        """All that was broken is well again; so every job comes to its end."""
        for worker in self.workers:
            worker.die()
        self.site.stalled.clear()
        worker = self._new_worker(capacity=100)
        for _ in range(_ROUNDS):
            self.site.pass_time(_ROUND_SECONDS)
            worker.beat()
            self.site.periodics.sweep()
            self._flush()
            for job_id in sorted(worker.works):
                while job_id in worker.works:
                    worker.step(job_id, "well")
        self.oracle.check_changes()
        self.oracle.check_ends()
