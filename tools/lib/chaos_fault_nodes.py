"""Faults of nodes, of the runner on them, and of a training's processes; some make more ends right for a job."""

from __future__ import annotations

import abc
import contextlib
import os
import signal
import time
from collections.abc import Sequence

import requests
from chaos_fault import Fault
from chaos_ledger import Entry
from chaos_load import Job

from tests.harness import guests


class OfNode(Fault):
    """A fault of a server of a job."""

    def strike(self) -> bool:
        found = [server for server in self.world.cloud.servers() if server["status"] in self.statuses]
        name = self.claim_one([server["id"] for server in found])
        if not name:
            return False
        self.server = name
        job = self.world.job_of(next(server for server in found if server["id"] == name))
        if job is None:
            return False
        self.victim = f"server {name} of {job.run}"
        self.note(job)
        return self.inflict(self.fault)

    def note(self, job: Job) -> None:
        """Note it before it is done: the job may be judged at once."""
        job.hurt.append(f"{time.strftime('%H:%M:%S')} {type(self).__name__} {self.victim}")

    def inflict(self, fault: str) -> bool:
        """Do something to the server; False if it is not there or not running any more."""
        answer = requests.post(self.world.cloud.url + "/faults", json={"kind": "server", "server": self.server, "fault": fault}, timeout=30)
        assert answer.status_code in (201, 404, 409), answer.text
        return answer.status_code == 201

    fault = ""
    statuses: Sequence[str] = ("ACTIVE",)


class Crash(OfNode):
    fault = "crash"


class Vanish(OfNode):
    fault, statuses = "vanish", ("ACTIVE", "BUILD")


class GoesToError(OfNode):
    fault, statuses = "error", ("ACTIVE", "BUILD")


class HostGoesDown(OfNode):
    """Its host vanishes with all that runs there; the cloud calls the server ACTIVE, and its host down."""

    fault = "host-down"

    def inflict(self, fault: str) -> bool:
        if not super().inflict(fault):
            return False
        for entry in self.world.ledger.alive():
            if entry.place == str(self.world.cloud.home(self.server)):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(entry.pid, signal.SIGKILL)
        return True


class AnotherAtItsAddress(OfNode):
    """Another machine answers at its address; before a first attempt a second one means that the image is not as it has to be."""

    fault = "rekey"

    def note(self, job: Job) -> None:
        super().note(job)
        if not any(entry.attempt for entry in self.world.ledger.entries(job.run)):
            job.right.add("FAILED")


class Hang(OfNode):
    fault = "hang"

    def heal(self) -> bool:
        self.inflict("resume")
        return True


class Cut(OfNode):
    fault = "cut"

    def heal(self) -> bool:
        self.inflict("mend")
        return True


class LongCut(Cut):
    """So long that any time-out is over."""


class OfProcess(Fault):
    """A fault of a process on a node, or of what the runner does about it."""

    #: whether it may be that of a setup, too
    setups = False

    def strike(self) -> bool:
        alive = [entry for entry in self.world.ledger.alive() if (entry.attempt or self.setups) and self.may_strike(self._job(entry))]
        if not alive:
            return False
        self.entry = self.draw.choice(alive)
        job = self._job(self.entry)
        self.victim = f"{self.entry.task} of attempt {self.entry.attempt} of {job.run}"
        return self.harm(job)

    def _job(self, entry: Entry) -> Job:
        return self.world.jobs[int(entry.run.removeprefix("job"))]

    def may_strike(self, job: Job) -> bool:
        """Tell whether it is for processes of this job."""
        return True

    @abc.abstractmethod
    def harm(self, job: Job) -> bool:
        """Do it to the process."""

    def note(self, job: Job) -> None:
        """Note it before it is done: the job may be judged at once."""
        job.hurt.append(f"{time.strftime('%H:%M:%S')} {type(self).__name__} {self.victim}")


class ProcessIsKilled(OfProcess):
    """SIGKILL of a training's process: that it has failed is right then, unless it may start again."""

    def harm(self, job: Job) -> bool:
        job.right.add("FAILED")
        self.note(job)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.entry.pid, signal.SIGKILL)
            return True
        return False


class ProcessesHang(OfProcess):
    """All processes of an attempt, of a job with a hang_timeout, stand still for ever: they have to be ended, an error of the job."""

    def may_strike(self, job: Job) -> bool:
        return "hang_timeout" in job.document

    def harm(self, job: Job) -> bool:
        job.right.add("FAILED")
        job.hung.add(self.entry.attempt)
        self.note(job)
        stopped = False
        for entry in self.world.ledger.alive():
            if (entry.run, entry.attempt) == (job.run, self.entry.attempt):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(entry.pid, signal.SIGSTOP)
                    stopped = True
        return stopped


class RunnerIsKilled(OfProcess):
    """SIGKILL of what watches over a process, which dies with it: the next attempt, or another node for a setup. No more ends are right."""

    setups = True

    def harm(self, job: Job) -> bool:
        self.note(job)
        with contextlib.suppress(ProcessLookupError):
            os.kill(guests.supervisor(self.entry.pid), signal.SIGKILL)
            return True
        return False


class SessionIsKilled(OfProcess):
    """SIGKILL of what talks to the worker on a node: nothing but a new connection may come of it."""

    setups = True

    def harm(self, job: Job) -> bool:
        pids = guests.sessions(self.entry.place)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return bool(pids)


class LogFlood(OfProcess):
    """A process prints thousands of lines at once."""

    def harm(self, job: Job) -> bool:
        self.world.ledger.tell(self.entry, f"flood {self.draw.randint(500, 5000)}")
        return True
