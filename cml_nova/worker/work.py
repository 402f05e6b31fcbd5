"""What a step of a job has in its hands: the job as last seen, the right to it, and the tools."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any

from oslo_config import cfg
from oslo_log import log as logging

from cml_nova import context as cml_context
from cml_nova import exception, rpc
from cml_nova.backoff import growing_pause
from cml_nova.compute.fleet import Fleet
from cml_nova.compute.watch import ServerWatch
from cml_nova.conductor.rpcapi import ConductorClient
from cml_nova.frameworks import Framework, Layout, get_framework
from cml_nova.secrets import Vault
from cml_nova.states import Outcome, Target
from cml_nova.storage import Storage

LOG = logging.getLogger(__name__)

#: seconds, at most, between tries of a call to the conductor that got no answer
_RPC_PAUSE = 1.0
#: calls to conductors that the jobs of a worker have in flight: more of them would wait there, before the heartbeats
_CALLS = 24
#: seconds between looks whether the job is still ours while others' calls are in flight
_TURN_CHECK = 5.0

#: what is reported of a job that was cancelled; where its end was known before, that stays
CANCELLED: dict[str, Any] = {"outcome": Outcome.CANCELLED, "cause": None, "status_reason": "The job was cancelled."}


@dataclass(frozen=True)
class Tools:
    """What all jobs of a worker share."""

    conf: cfg.ConfigOpts
    conductor: ConductorClient
    fleet: Fleet
    watch: ServerWatch
    storage: Storage
    vault: Vault
    turns: threading.BoundedSemaphore = field(default_factory=lambda: threading.BoundedSemaphore(_CALLS))


class Lease:
    """A worker's right to a job in one generation, as far as it knows.

    ``wake`` is set whenever something about the job changed, be it here or in its row; ``nudged`` whenever something did in the row.

    It ends by itself where it is not renewed, even if nobody can tell us: by then the job may be another's. Once anybody has seen it end
    it stays so, whatever a late answer says: threads have let go of the job then, and it is taken on anew as a whole.

    :param valid_for: seconds.
    :param clock: monotonic seconds.
    """

    def __init__(self, job_id: str, generation: int, valid_for: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.job_id = job_id
        self.generation = generation
        self.wake = threading.Event()
        self.nudged = threading.Event()
        self._clock = clock
        self._valid_until = clock() + valid_for
        self._lost = threading.Event()

    def renew(self, valid_until: float) -> None:
        """Note that the lease was renewed up to a time by the lease's clock."""
        self._valid_until = max(self._valid_until, valid_until)

    def nudge(self) -> None:
        """Note that the job's row has changed."""
        self.nudged.set()
        self.wake.set()

    def lose(self) -> None:
        """Note that the job is another's now."""
        self._lost.set()
        self.wake.set()

    @property
    def lost(self) -> bool:
        if self._clock() > self._valid_until and not self._lost.is_set():
            self.lose()
        return self._lost.is_set()

    def pause(self, seconds: float) -> None:
        """Wait, but no longer than the job is ours."""
        self._lost.wait(seconds)

    def check(self) -> None:
        """:raises LeaseLost: the job is another's now, nothing of it may be touched."""
        if self.lost:
            raise exception.LeaseLost(f"job {self.job_id} is no longer held in generation {self.generation}")


def address_of(node: Mapping[str, Any], runtime: Mapping[str, Any]) -> str:
    """Give the address by which a node is connected to; see ``Work.access``."""
    known = runtime.get("floating", {}).get(node["server_id"])
    return str(known["floating"] if known and known["fixed"] == node["address"] else node["address"] or "")


@dataclass
class Job:
    """A job as the conductor gave it (see ``conductor.reports.view``)."""

    id: str
    name: str
    project_id: str
    request_id: str | None
    spec: dict[str, Any]
    keys: dict[str, str]
    sealed: str
    phase: str
    outcome: str | None
    target: str
    cause: str | None
    status_reason: str | None
    attempt: int
    error_restarts: int
    infra_restarts: int
    runtime: dict[str, Any]
    generation: int
    age: float
    phase_age: float
    nodes: list[dict[str, Any]]
    tasks: list[dict[str, Any]]
    #: when it was given, by this process's monotonic clock
    seen_at: float = field(default_factory=time.monotonic)

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> Job:
        """Make it of what a conductor says, which may be of a later release and say more."""
        known = {each.name for each in fields(cls)} - {"seen_at"}
        return cls(**{name: value for name, value in document.items() if name in known})

    @property
    def framework(self) -> Framework:
        return get_framework(self.spec["framework"]["name"])

    @property
    def layout(self) -> Layout:
        return self.framework.layout({role: part["count"] for role, part in self.spec["roles"].items()})

    @property
    def seconds(self) -> float:
        """Seconds since the job was created, by the database's clock: the one that all workers have in common."""
        return self.age + time.monotonic() - self.seen_at

    @property
    def phase_seconds(self) -> float:
        """Seconds since the job entered its phase."""
        return self.phase_age + time.monotonic() - self.seen_at

    @property
    def unsettled(self) -> float:
        """Seconds for which servers may still appear that an unanswered create has made; ``runtime`` has the job's age by then."""
        return max(0.0, self.runtime.get("settled_at", 0) - self.seconds)

    @property
    def asked_for_servers(self) -> bool:
        """Whether servers were ever asked for, by whichever worker."""
        return "settled_at" in self.runtime

    def enter(self, phase: str) -> None:
        """Note that the job has entered a phase just now."""
        self.age, self.phase_age, self.seen_at = self.seconds, 0.0, time.monotonic()
        self.phase = phase


class Work:
    """One job in the hands of one worker.

    :param stopping: tells whether the worker is about to stop; a step that only watches ends then.
    """

    def __init__(self, tools: Tools, lease: Lease, stopping: Callable[[], bool]) -> None:
        self.tools = tools
        self.lease = lease
        self.stopping = stopping
        self.given_back = False
        #: the user has deleted the job: nothing of it is to be kept. Known from the answer to the last report
        self.forgotten = False
        self._reporting = threading.Lock()
        self.job = self._load()
        self.context = cml_context.RequestContext(is_admin=True, request_id=self.job.request_id, overwrite=True)

    @property
    def conf(self) -> cfg.ConfigOpts:
        return self.tools.conf

    def secrets(self) -> dict[str, Any]:
        """Open the job's sealed part: ``ssh`` and ``host`` (private keys), ``secrets`` (environment)."""
        return self.tools.vault.open(self.job.sealed)

    def access(self, node: dict[str, Any]) -> str:
        """Give the address by which a node is connected to: its floating one where it has one; empty before it has any."""
        return address_of(node, self.job.runtime)

    def refresh(self) -> None:
        """Read the job anew. :raises LeaseLost: it is another's now."""
        with self._reporting:  # or the answer to a report on its way, older than this, might undo what is read here
            self.job = self._load()

    def report(self, **report: Any) -> None:
        """Tell the conductor (see ``conductor.reports.apply``), for as long as it takes, and note the answer.

        :raises LeaseLost: the job is another's now.
        """
        with self._reporting:  # one after the other: a conductor takes them in the order of their ids only
            report["id"] = f"{time.monotonic_ns():020d}"
            answer = self._call(self.tools.conductor.job_report, self.lease.job_id, self.lease.generation, report)
            self.job.target, self.job.outcome, self.forgotten = answer["target"], answer["outcome"], answer["forget"]
            for name in ("attempt", "error_restarts", "infra_restarts", "runtime", "cause", "status_reason"):
                if name in report:
                    setattr(self.job, name, report[name])
            if "attempt" in report:
                self.job.tasks = [{"exit_code": None, "signal": None, **task} for task in report.get("tasks", ())]
            for change in report.get("nodes", ()):
                self.job.nodes[change["rank"]].update(change)
            if "phase" in report and report["phase"] != self.job.phase:
                LOG.info("Job %s goes from %s to %s", self.job.id, self.job.phase, report["phase"])
                self.job.enter(report["phase"])
            self.given_back = self.given_back or "pause" in report

    def ended_early(self) -> bool:
        """Tell whether the user wants the job gone, or its end is known already (its time is up).

        Reads the job anew if its row has changed.
        """
        self.lease.check()
        self.lease.wake.clear()
        if self.lease.nudged.is_set():
            self.lease.nudged.clear()
            self.refresh()
        return self.job.target == Target.DELETE or self.job.outcome is not None

    def _load(self) -> Job:
        return Job.read(self._call(self.tools.conductor.job_get, self.lease.job_id, self.lease.generation))

    @contextmanager
    def _turn(self) -> Iterator[None]:
        while not self.tools.turns.acquire(timeout=_TURN_CHECK):
            self.lease.check()
        try:
            yield
        finally:
            self.tools.turns.release()

    def _call(self, method: Any, *arguments: Any) -> Any:
        while True:
            self.lease.check()
            try:
                with self._turn():
                    return method(cml_context.service_context(), *arguments)
            except exception.LeaseLost:
                self.lease.lose()
                raise
            except (*rpc.BUS_ERRORS, exception.DatabaseUnavailable) as error:
                LOG.warning("No answer from a conductor about job %s, asking again: %s", self.lease.job_id, error)
                # The broker has the conductors take turns. Where one does not answer, or refuses, even pauses at the heartbeats' pace would
                # lead to that one each time, and the heartbeats to the other.
                self.lease.pause(growing_pause(0, _RPC_PAUSE, _RPC_PAUSE))
