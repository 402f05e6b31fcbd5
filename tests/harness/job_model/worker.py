"""Workers as the conductor meets them: they hold jobs, go on with them, and may die, or miss an answer, at each report."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

from cml_nova import exception
from cml_nova.states import Phase
from cml_nova.worker.work import Lease, Tools, Work
from tests.harness.job_model.oracle import Oracle
from tests.harness.job_model.site import CONTEXT
from tests.harness.job_model.steps import STEPS

#: what may become of a report, as often as it stands here
FATES = ("fine",) * 4 + ("answer lost", "stalls", "stalls and dies", "dies before", "dies after")


class Died(BaseException):
    """The worker's process ends here and now."""


@dataclass
class Fate:
    """What becomes of the next report of a worker: it dies before or after it, the answer is lost, a conductor stalls with it."""

    kind: str = "fine"


class Wire:
    """The conductor as one worker sees it (``conductor.rpcapi.ConductorClient``): calls are answered, or not, by the worker's fate."""

    def __init__(self, oracle: Oracle, fate: Fate) -> None:
        self._oracle = oracle
        self._fate = fate

    def job_get(self, context: object, job_id: str, generation: int) -> dict[str, Any]:
        return self._oracle.site.manager.job_get(CONTEXT, job_id, generation)

    def job_report(self, context: object, job_id: str, generation: int, report: dict[str, Any]) -> dict[str, Any]:
        fate, self._fate.kind = self._fate.kind, "fine"
        if fate == "dies before":
            raise Died
        if fate in ("stalls", "stalls and dies"):
            # A conductor has taken the message and does not answer; when it goes on is another rule's matter.
            self._oracle.site.stalled.append((job_id, generation, report))
            if fate == "stalls and dies":
                raise Died
        answer = self._oracle.report(job_id, generation, report)
        if fate == "dies after":
            raise Died
        if fate == "answer lost":
            answer = self._oracle.report(job_id, generation, report)
        return answer


class Worker:
    """A worker process: what WorkerManager does with messages and heartbeats, without threads."""

    def __init__(self, oracle: Oracle, worker_id: str, capacity: int) -> None:
        self.id = worker_id
        self.alive = True
        #: seconds by which its clock has stood still: it was stopped in the middle of something
        self.lag = 0.0
        self.works: dict[str, Work] = {}
        self._capacity = capacity
        self._site = oracle.site
        self.fate = Fate()
        self._tools = Tools(oracle.site.conf, cast(Any, Wire(oracle, self.fate)), *(cast(Any, None),) * 4)

    def die(self) -> None:
        self.alive = False
        self.works.clear()

    def clock(self) -> float:
        return self._site.now - self.lag

    def take(self, job_id: str, generation: int) -> None:
        """Act on the message that a job is ours now, as WorkerManager.run does."""
        known = self.works.get(job_id)
        if known is not None:
            if known.lease.generation < generation:
                known.lease.lose()
            return
        if len(self.works) >= self._capacity:
            return
        lease = Lease(job_id, generation, self._site.conf.conductor.lease_time / 2, self.clock)
        with self._living(job_id):
            self.works[job_id] = Work(self._tools, lease, lambda: False)

    def beat(self) -> None:
        """Say that we live, as WorkerManager.heartbeat does."""
        asked_at = self.clock()
        held = {job_id: work.lease.generation for job_id, work in self.works.items()}
        worker = {"id": self.id, "host": "h", "capacity": self._capacity, "draining": False}
        mine = {h["job_id"]: h for h in self._site.manager.worker_heartbeat(CONTEXT, worker, held)}
        for job_id, generation in held.items():
            if job_id not in mine or mine[job_id]["generation"] != generation:
                self.works[job_id].lease.lose()
            else:
                self.works[job_id].lease.renew(asked_at + self._site.conf.conductor.lease_time)
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
