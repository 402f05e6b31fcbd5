"""A model of a job's life, played against the real conductor: workers that die, hang, come back and say things twice; users; the clock.

What is real: the database's schema and statements (SQLite), leases, reports, dispatch, the periodic sweep, and a worker's ``Lease`` and
``Work``, which repeat a report until it is answered. What is simulated: the bus (what is sent waits until a rule delivers it once,
twice or never), the time (of the database and of the workers), and the workers' steps, which report what real steps report.

The oracle does not ask the product: a trigger notes every change of a job's row, and each is held against the rules of ``_Change``.
"""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, TypeVar, cast

import hypothesis.strategies as st
import sqlalchemy as sa
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from oslo_config import cfg

from cml_nova import conf as cml_conf
from cml_nova import context as cml_context
from cml_nova import exception
from cml_nova.conductor.dispatch import Dispatcher
from cml_nova.conductor.health import Health, Part
from cml_nova.conductor.manager import ConductorManager
from cml_nova.conductor.periodics import Periodics
from cml_nova.db import jobs
from cml_nova.db.engine import Database
from cml_nova.db.models import Base, Job, Node
from cml_nova.states import Cause, Outcome, Phase, Target, may_follow
from cml_nova.worker.restarts import Counter, next_attempt
from cml_nova.worker.work import Lease, Tools, Work

T = TypeVar("T")

CONTEXT = cml_context.service_context()
_START = 1_800_000_000.0
#: seconds between a conductor's looks at its database and bus
_LOOK = 10.0
#: at the end there are so many rounds, of so many seconds, in which everybody does what there is to do: leases and pauses are over by then
_ROUNDS, _ROUND_SECONDS = 3, 130.0
_RESULT = ("outcome", "cause", "status_reason", "exit_code", "failed_task")
_NOTED = ("id", "phase", "worker_id", "generation", "lease_expires_at", "target", "forget", "attempt", "error_restarts", "infra_restarts",
          "started_at", *_RESULT)
_TRIGGER = (
    "CREATE TRIGGER note AFTER UPDATE ON jobs BEGIN INSERT INTO noted VALUES (" +
    ", ".join(f"{when}.{column}" for when in ("old", "new") for column in _NOTED) + "); END")
_TABLE = f"CREATE TABLE noted ({', '.join(f'{when}_{column}' for when in ('old', 'new') for column in _NOTED)})"
#: what a job's rows are in; the columns of the job that a repeated report may touch are left out
_OF_A_JOB = {"jobs": "id", "nodes": "job_id", "tasks": "job_id", "events": "job_id", "metrics": "job_id"}


class Died(BaseException):
    """The worker's process ends here and now."""


class Row(NamedTuple):
    """A job's row, of which the oracle sees these columns."""

    id: str
    phase: str
    worker_id: str | None
    generation: int
    lease_expires_at: float | None
    target: str
    forget: int
    attempt: int
    error_restarts: int
    infra_restarts: int
    started_at: float | None
    outcome: str | None
    cause: str | None
    status_reason: str | None
    exit_code: int | None
    failed_task: str | None


class Site:
    """A database and a conductor, whose time is the test's; made once, emptied for each run of the model."""

    def __init__(self, directory: Path) -> None:
        self.now = self.well_since = _START
        self.conf = cfg.ConfigOpts()
        cml_conf.register_opts(self.conf)
        self.conf([], project="cml_nova", default_config_files=[], default_config_dirs=[])
        self.conf.set_override("connection", f"sqlite:///{directory}/model.sqlite", "database")
        self.conf.set_override("max_infra_restarts", 2, "conductor")
        self.db = Database(self.conf)
        sa.event.listen(self.db.engine, "connect", self._prepare)
        self.db.engine.dispose()
        Base.metadata.create_all(self.db.engine)
        self._raw = sqlite3.connect(directory / "model.sqlite", isolation_level=None)
        self._raw.executescript(f"{_TABLE}; {_TRIGGER}")
        #: casts that no rule has delivered yet
        self.casts: list[tuple[str, ...]] = []
        self.conf.set_override("take_overs_per_minute", 0, "conductor")
        self.health = Health(self.conf.conductor.lease_time, self.conf.conductor.sweep_interval, lambda: self.now)
        self.dispatcher = Dispatcher(self.conf, self.db, cast(Any, self), self.health)
        storage = SimpleNamespace(delete=lambda prefix: None)
        self.manager = ConductorManager(self.conf, self.db, cast(Any, storage), self.dispatcher)
        self.periodics = Periodics(self.conf, self.db, self.dispatcher, cast(Any, self), cast(Any, None), self.health)

    def _prepare(self, connection: sqlite3.Connection, record: object) -> None:
        # The product asks SQLite for the time by this function: now it is ours.
        connection.create_function("julianday", 1, lambda _: self.now / 86400 + 2440587.5)
        connection.execute("PRAGMA synchronous=OFF")

    def reset(self) -> None:
        for table in (*reversed(Base.metadata.sorted_tables), "noted"):
            self._raw.execute(f"DELETE FROM {table}")
        self.casts.clear()
        self.now = _START
        self.pass_time(0, outage=True)  # the clock was set back
        self.pass_time(self.conf.conductor.lease_time)

    def pass_time(self, seconds: float, outage: bool = False) -> None:
        """Let time pass in which the conductor finds its database and bus at work, or away."""
        end = self.now + seconds
        if outage:
            self.well_since = self.now = end
            for part in Part:
                self.health.bad(part)
        while True:
            for part in Part:
                self.health.good(part)
            if self.now >= end:
                return
            self.now = min(end, self.now + _LOOK)

    def close(self) -> None:
        self._raw.close()

    # The bus, as the conductor sees it (worker.rpcapi.WorkerClient)

    def run(self, context: object, worker_id: str, job_id: str, generation: int) -> None:
        self.casts.append(("run", worker_id, job_id, str(generation)))

    def nudge(self, context: object, worker_id: str, job_id: str) -> None:
        self.casts.append(("nudge", worker_id, job_id))

    def delete_queue(self, worker_id: str) -> None:
        """The queue of a worker that is gone."""

    # What the oracle sees

    def rows(self) -> dict[str, Row]:
        found = self._raw.execute(f"SELECT {', '.join(Row._fields)} FROM jobs")
        return {values[0]: Row(*values) for values in found}

    def everything_of(self, job_id: str) -> list[Any]:
        """Give all rows of a job, but for when it was changed last."""
        found = []
        for table, key in _OF_A_JOB.items():
            columns = ", ".join(f'"{column.name}"' for column in Base.metadata.tables[table].columns if column.name != "updated_at")
            found.append(self._raw.execute(f"SELECT {columns} FROM {table} WHERE {key} = ? ORDER BY 1, 2, 3", (job_id,)).fetchall())
        return found

    def changes(self) -> list[tuple[Row, Row]]:
        """Give and forget how jobs' rows have changed, statement by statement."""
        found = self._raw.execute("SELECT * FROM noted ORDER BY rowid").fetchall()
        self._raw.execute("DELETE FROM noted")
        # In the order of _NOTED, which is that of Row.
        return [(Row(*values[:len(_NOTED)]), Row(*values[len(_NOTED):])) for values in found]


@dataclass
class Fate:
    """What becomes of the next report of a worker: it dies before or after it, the answer is lost, a conductor stalls with it."""

    kind: str = "fine"


class Wire:
    """The conductor as one worker sees it (``conductor.rpcapi.ConductorClient``): calls are answered, or not, by the worker's fate."""

    def __init__(self, model: JobLife, fate: Fate) -> None:
        self._model = model
        self._fate = fate

    def job_get(self, context: object, job_id: str, generation: int) -> dict[str, Any]:
        return self._model.site.manager.job_get(CONTEXT, job_id, generation)

    def job_report(self, context: object, job_id: str, generation: int, report: dict[str, Any]) -> dict[str, Any]:
        fate, self._fate.kind = self._fate.kind, "fine"
        if fate == "dies before":
            raise Died
        if fate in ("stalls", "stalls and dies"):
            # A conductor has taken the message and does not answer; when it goes on is another rule's matter.
            self._model.stalled.append((job_id, generation, report))
            if fate == "stalls and dies":
                raise Died
        answer = self._model.deliver_report(job_id, generation, report)
        if fate == "dies after":
            raise Died
        if fate == "answer lost":
            answer = self._model.deliver_report(job_id, generation, report)
        return answer


FATES = ("fine",) * 4 + ("answer lost", "stalls", "stalls and dies", "dies before", "dies after")


class Worker:
    """A worker process: what WorkerManager does with messages and heartbeats, without threads."""

    def __init__(self, model: JobLife, worker_id: str, capacity: int) -> None:
        self.id = worker_id
        self.alive = True
        #: seconds by which its clock has stood still: it was stopped in the middle of something
        self.lag = 0.0
        self.works: dict[str, Work] = {}
        self._capacity = capacity
        self._model = model
        self.fate = Fate()
        self._tools = Tools(model.site.conf, cast(Any, Wire(model, self.fate)), *(cast(Any, None),) * 4)

    def die(self) -> None:
        self.alive = False
        self.works.clear()

    def clock(self) -> float:
        return self._model.site.now - self.lag

    def take(self, job_id: str, generation: int) -> None:
        """Act on the message that a job is ours now, as WorkerManager.run does."""
        known = self.works.get(job_id)
        if known is not None:
            if known.lease.generation < generation:
                known.lease.lose()
            return
        if len(self.works) >= self._capacity:
            return
        lease = Lease(job_id, generation, self._model.site.conf.conductor.lease_time / 2, self.clock)
        with self._living(job_id):
            self.works[job_id] = Work(self._tools, lease, lambda: False)

    def beat(self) -> None:
        """Say that we live, as WorkerManager.heartbeat does."""
        asked_at = self.clock()
        held = {job_id: work.lease.generation for job_id, work in self.works.items()}
        worker = {"id": self.id, "host": "h", "capacity": self._capacity, "draining": False}
        mine = {h["job_id"]: h for h in self._model.site.manager.worker_heartbeat(CONTEXT, worker, held)}
        for job_id, generation in held.items():
            if job_id not in mine or mine[job_id]["generation"] != generation:
                self.works[job_id].lease.lose()
            else:
                self.works[job_id].lease.renew(asked_at + self._model.site.conf.conductor.lease_time)
        for job_id, holding in mine.items():
            if job_id not in held:
                self.take(job_id, holding["generation"])
            elif holding["changed"]:
                self.nudge(job_id)

    def nudge(self, job_id: str) -> None:
        if job_id in self.works:
            self.works[job_id].lease.wake.set()

    def step(self, job_id: str, choice: str) -> None:
        """Go one step on with a job."""
        work = self.works[job_id]
        with self._living(job_id):
            STEPS[work.job.phase](work, choice)
        if work.given_back or work.job.phase == Phase.DONE:
            self.works.pop(job_id, None)

    @contextmanager
    def _living(self, job_id: str) -> Iterator[None]:
        """Drop a job that is another's; end when we die."""
        try:
            yield
        except exception.LeaseLost:
            self.works.pop(job_id, None)
        except Died:
            self.die()


# What real steps report. ``choice`` is what happens to them; "well" is what brings a job to a good end.

CHOICES = ("well",) * 4 + ("error", "loss", "no room", "refused", "metrics")


def _provision(work: Work, choice: str) -> None:
    if work.ended_early():
        work.report(phase=Phase.TEARDOWN)
    elif choice == "no room":
        work.report(phase=Phase.QUEUED, pause=None, cause=Cause.NO_CAPACITY, status_reason="No valid host was found.",
                    nodes=[{"rank": 0, "server_id": None, "status": "PLANNED"}])
    elif choice == "refused":
        work.report(phase=Phase.TEARDOWN, outcome=Outcome.FAILED, cause=Cause.CONFIG, status_reason="no such flavor")
    elif choice == "loss":
        work.report(runtime={**work.job.runtime, "unsettled_until": 1.0})
    else:
        work.report(phase=Phase.BOOTSTRAPPING, cause=None, status_reason=None, nodes=[{"rank": 0, "status": "ACTIVE", "server_id": "s"}])


def _bootstrap(work: Work, choice: str) -> None:
    if work.ended_early():
        work.report(phase=Phase.TEARDOWN)
    elif choice == "error":
        work.report(phase=Phase.TEARDOWN, outcome=Outcome.FAILED, cause=Cause.USER_ERROR, status_reason="setup", exit_code=7)
    else:
        attempt = work.job.attempt + 1
        work.report(phase=Phase.RUNNING, attempt=attempt, runtime={**work.job.runtime, "table": []},
                    tasks=[{"attempt": attempt, "name": "worker:0", "node_rank": 0, "state": "PENDING"}],
                    events=[("phase", f"attempt {attempt} starts", {})])


def _train(work: Work, choice: str) -> None:
    if work.ended_early():
        work.report(phase=Phase.TEARDOWN if work.job.target == Target.DELETE else Phase.COLLECTING)
    elif choice in ("error", "loss"):
        _restart(work, choice)
    elif choice == "metrics":
        metric = {"attempt": work.job.attempt, "task": "worker:0", "offset": 1, "name": "loss", "value": 0.5, "at": 1.0}
        work.report(progress=50, metrics=[metric])
    else:
        work.report(phase=Phase.COLLECTING, runtime={**work.job.runtime, "trained": True})


def _restart(work: Work, choice: str) -> None:
    counter: Counter = "error_restarts" if choice == "error" else "infra_restarts"
    cause, phase = (Cause.USER_ERROR, Phase.BOOTSTRAPPING) if choice == "error" else (Cause.INFRA_LOST, Phase.PROVISIONING)
    again = next_attempt(work, counter, phase, choice)
    if again:
        work.report(**again, cause=cause)
    else:
        work.report(phase=Phase.COLLECTING, outcome=Outcome.FAILED, cause=cause, status_reason=choice)


def _collect(work: Work, choice: str) -> None:
    if work.ended_early() and work.job.target == Target.DELETE and work.job.outcome is None:
        work.report(phase=Phase.TEARDOWN)
    elif choice == "loss" and work.job.runtime.get("trained"):
        work.report(phase=Phase.TEARDOWN, outcome=Outcome.FAILED, cause=Cause.INFRA_LOST, status_reason="outputs lost")
    else:
        trained = {"outcome": Outcome.SUCCEEDED, "progress": 100} if work.job.runtime.get("trained") else {}
        work.report(phase=Phase.TEARDOWN, **trained)


def _tear_down(work: Work, choice: str) -> None:
    if work.job.outcome is None:
        work.report(outcome=Outcome.CANCELLED, status_reason="The job was cancelled.")
    work.report(phase=Phase.DONE, nodes=[{"rank": 0, "status": "DELETED"}], events=[("phase", "Nothing is left in the cloud.", {})])


STEPS: dict[str, Callable[[Work, str], None]] = {
    Phase.PROVISIONING: _provision, Phase.BOOTSTRAPPING: _bootstrap, Phase.RUNNING: _train, Phase.COLLECTING: _collect,
    Phase.TEARDOWN: _tear_down,
}


def check_change(old: Row, new: Row, now: float) -> None:
    """:raises AssertionError: a job's row may not change in this way."""
    what = f"{old} -> {new}"
    assert may_follow(old.phase, new.phase), what
    assert new.generation - old.generation in (0, 1), f"the generation only grows, by one: {what}"
    if new.generation > old.generation:
        assert new.worker_id is not None, what
        assert old.worker_id is None or old.lease_expires_at is None or old.lease_expires_at < now, f"taken from a living owner: {what}"
    elif new.worker_id is not None:
        assert new.worker_id == old.worker_id, f"an owner without a claim: {what}"
    if old.outcome is not None:
        assert [getattr(new, name) for name in _RESULT] == [getattr(old, name) for name in _RESULT], f"another end: {what}"
    assert new.target == old.target or new.target == Target.DELETE, what
    assert new.forget >= old.forget, what
    if new.phase == Phase.DONE:
        assert new.worker_id is None and new.outcome is not None, what
    assert old.attempt <= new.attempt <= old.attempt + 1, what
    assert new.attempt <= 1 + new.error_restarts + new.infra_restarts, f"an attempt too many: {what}"
    assert old.error_restarts <= new.error_restarts and old.infra_restarts <= new.infra_restarts, what
    assert old.started_at in (None, new.started_at), what


@dataclass
class Known:
    """What the model itself knows of a job."""

    max_restarts: int
    forget: bool = False
    #: generation and id of the reports that were applied
    applied: set[tuple[int, str]] = field(default_factory=set)


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
        self.known: dict[str, Known] = {}
        self.workers: list[Worker] = []
        #: reports with which a conductor stalls
        self.stalled: list[tuple[str, int, dict[str, Any]]] = []

    # Users

    def submit(self, max_restarts: int, wait: int, run: int, heard: bool) -> None:
        job_id = f"job-{next(self._numbers)}"
        job = Job(id=job_id, project_id="p", user_id="u", name="job", meta={}, keys={}, sealed="", phase=Phase.QUEUED, target=Target.RUN,
                  spec={"max_wait_time": wait, "max_run_time": run, "max_restarts": max_restarts}, runtime={}, forget=False)
        with self.site.db.write() as session:
            jobs.create(session, job, [Node(rank=0, role="worker", role_index=0, flavor_id="f", status="PLANNED")])
        self.known[job_id] = Known(max_restarts)
        self._hint(job_id, heard)

    def cancel(self, place: int, forget: bool, heard: bool) -> None:
        """As api/v1/jobs.py does it."""
        job_id = _pick(sorted(self.known), place)
        with self.site.db.write() as session:
            jobs.request_end(session, job_id, forget=forget)
        known, row = self.known[job_id], self.site.rows().get(job_id)
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
        worker = Worker(self, f"w{next(self._numbers)}", capacity)
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
        job_id, generation, report = self.stalled.pop(place % len(self.stalled))
        try:
            self.deliver_report(job_id, generation, report)
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
        able = {"cancel": self.known, "go_on": self._held(), "end_worker": self._living(), "deliver": self.site.casts,
                "unstall": self.stalled}
        return [name for name, weight in _OFTEN.items() if able.get(name, True) for _ in range(weight)]

    @rule(data=st.data())
    def something_happens(self, data: st.DataObject) -> None:
        """One rule for all: Hypothesis leaves whole rules out of many runs, while here it takes several together to go wrong."""
        name = data.draw(st.sampled_from(self._possible()), "what")
        getattr(self, name)(**data.draw(st.fixed_dictionaries(_DETAILS[name]), "how"))

    # The oracle

    def deliver_report(self, job_id: str, generation: int, report: dict[str, Any]) -> dict[str, Any]:
        """Give the conductor a report, and see to it that it takes it, or leaves everything as it is."""
        before, row = self.site.everything_of(job_id), self.site.rows().get(job_id)
        holds = row is not None and row.worker_id is not None and row.generation == generation
        known = self.known[job_id]
        repeated = (generation, report["id"]) in known.applied
        try:
            answer = self.site.manager.job_report(CONTEXT, job_id, generation, report)
        except exception.LeaseLost:
            assert not holds, f"the owner's report was refused: {report}"
            assert self.site.everything_of(job_id) == before, f"a report that was refused has changed something: {report}"
            raise
        assert holds and row is not None, f"a stale report of generation {generation} was taken: {report}, {row}"
        if repeated:
            assert self.site.everything_of(job_id) == before, f"a report that came twice has changed something: {report}"
        known.applied.add((generation, report["id"]))
        assert answer["target"] == row.target
        return answer

    @invariant()
    def every_change_is_allowed(self) -> None:
        for old, new in self.site.changes():
            check_change(old, new, self.site.now)
            known, options = self.known[old.id], self.site.conf.conductor
            assert new.error_restarts <= known.max_restarts and new.infra_restarts <= options.max_infra_restarts, f"{new}"
            if new.generation > old.generation and old.worker_id is not None:
                assert self.site.now - self.site.well_since >= options.lease_time, f"taken over right after an outage: {old} -> {new}"

    def teardown(self) -> None:
        """All that was broken is well again; so every job comes to its end."""
        for worker in self.workers:
            worker.die()
        self.stalled.clear()
        worker = self._new_worker(capacity=100)
        for _ in range(_ROUNDS):
            self.site.pass_time(_ROUND_SECONDS)
            worker.beat()
            self.site.periodics.sweep()
            self._flush()
            for job_id in sorted(worker.works):
                while job_id in worker.works:
                    worker.step(job_id, "well")
        self.every_change_is_allowed()
        rows = self.site.rows()
        for job_id, known in self.known.items():
            if known.forget:
                assert job_id not in rows, f"{job_id} was to be forgotten: {rows[job_id]}"
            else:
                assert rows[job_id].phase == Phase.DONE, f"stuck: {rows[job_id]}"
