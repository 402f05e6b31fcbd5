"""What a campaign does to the world: each kind of fault knows how to strike, how to heal, and what it makes right for a job to end as."""

from __future__ import annotations

import abc
import contextlib
import json
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, TypeVar

import requests
import sqlalchemy as sa
from chaos_load import Job
from chaos_world import DATABASE_ERRORS, GPUS, World

from tests.harness.process import Daemon

T = TypeVar("T")


class Fault(abc.ABC):
    """Something that goes wrong.

    :param draw: for its own choices: whom it strikes of those that are there.
    """

    def __init__(self, world: World, draw: Random) -> None:
        self.world = world
        self.draw = draw
        self.claimed: list[str] = []
        #: whom it struck, for the record
        self.victim = ""

    @abc.abstractmethod
    def strike(self) -> bool:
        """Do it; False if there is nothing to do it to now."""

    def heal(self) -> bool:
        """Make it good again; False if it turns out that it struck nobody."""
        return True

    def release(self) -> None:
        """Let other faults have what this one held."""
        self.world.unclaim(*self.claimed)
        self.claimed = []

    def claim_one(self, names: Sequence[str]) -> str:
        """Take one of some things that no other fault holds; empty if they are all taken."""
        for name in self.draw.sample(list(names), len(names)):
            if self.world.claim(name):
                self.claimed.append(name)
                return name
        return ""


# daemons


class OfDaemon(Fault):
    """A fault of one daemon."""

    def strike(self) -> bool:
        self.victim = self.claim_one(list(self.world.daemons))
        if not self.victim or not self.daemon.alive:
            return False
        self.begin()
        return True

    @property
    def daemon(self) -> Daemon:
        return self.world.daemons[self.victim]

    @abc.abstractmethod
    def begin(self) -> None:
        """Do it to the daemon."""


class Kill(OfDaemon):
    """SIGKILL; it is started again later."""

    def begin(self) -> None:
        self.daemon.kill()

    def heal(self) -> bool:
        self.daemon.start()
        return True


class Freeze(OfDaemon):
    """SIGSTOP, for longer than a lease at times; then it goes on as if nothing had been."""

    def begin(self) -> None:
        self.world.send(self.daemon, signal.SIGSTOP)

    def heal(self) -> bool:
        self.world.send(self.daemon, signal.SIGCONT)
        return True


class Drain(OfDaemon):
    """SIGTERM; it has to end in time, and is started again."""

    def begin(self) -> None:
        self.world.end(self.daemon)

    def heal(self) -> bool:
        self.daemon.start()
        return True


class RollingRestart(Fault):
    """Every daemon is asked to end, and started again, one after the other, as in an upgrade."""

    def strike(self) -> bool:
        names = list(self.world.daemons)
        if not self.world.claim(*names):
            return False
        self.claimed = names
        for daemon in self.world.daemons.values():
            if daemon.alive:
                self.world.end(daemon)
            daemon.start()
        return True


# bus and database


class ServerStops(Fault):
    """The broker or the database is stopped, and started again with its data."""

    name, number = "", signal.SIGTERM

    def strike(self) -> bool:
        if not self.claim_one([self.name]):
            return False
        self.server.halt(self.number)
        return True

    def heal(self) -> bool:
        self.server.launch()
        return True

    @property
    def server(self) -> Any:
        return getattr(self.world, self.name)


class BrokerStops(ServerStops):
    name = "broker"


class DatabaseStops(ServerStops):
    name = "database"


class DatabaseDies(ServerStops):
    name, number = "database", signal.SIGKILL


class ConnectionsBreak(Fault):
    """All connections to the broker or the database are reset."""

    def strike(self) -> bool:
        self.victim = self.draw.choice(["broker", "database"])
        getattr(self.world, f"{self.victim}_wire").break_connections()
        return True


class WireIsCut(Fault):
    """Nothing gets to or from the broker or the database, and nobody is told."""

    def strike(self) -> bool:
        self.victim = self.claim_one(["broker", "database"])
        if self.victim:
            getattr(self.world, f"{self.victim}_wire").cut()
        return bool(self.victim)

    def heal(self) -> bool:
        getattr(self.world, f"{self.victim}_wire").mend()
        return True


class RowsAreLocked(Fault):
    """Somebody holds rows of jobs, and one after the other, so that transactions wait, or are chosen to end a deadlock."""

    def strike(self) -> bool:
        ids = [job.id for job in list(self.world.jobs.values()) if job.id][-30:]
        if len(ids) < 2 or not self.claim_one(["rows"]):
            return False
        try:
            with self.world.engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection, connection.begin():
                for job_id in self.draw.sample(ids, min(8, len(ids))):
                    connection.execute(sa.text("SELECT id FROM jobs WHERE id = :id FOR UPDATE"), {"id": job_id}).all()
                    time.sleep(self.draw.uniform(0, 0.4))
        except DATABASE_ERRORS:
            return True  # the deadlock ended us, or the database is down
        return True


class ConnectionsAreKilled(Fault):
    """The database ends connections, in the midst of what they do."""

    def strike(self) -> bool:
        try:
            with self.world.engine.connect() as connection:
                ids = [row.id for row in connection.execute(sa.text(
                    "SELECT id FROM information_schema.processlist WHERE db = :name AND id <> connection_id()"),
                    {"name": self.world.service.database.name})]
                for ident in self.draw.sample(ids, (len(ids) + 1) // 2):
                    with contextlib.suppress(*DATABASE_ERRORS):
                        connection.execute(sa.text(f"KILL CONNECTION {ident}"))
        except DATABASE_ERRORS:
            return False
        return bool(ids)


class MessagesSuffer(Fault):
    """Messages between the daemons are lost, or come twice, or get no answer."""

    def strike(self) -> bool:
        if not self.claim_one(["messages"]):
            return False
        self.victim = self.draw.choice(["lost", "unanswered", "doubled", "all"])
        chances = {"lost": 0.15, "unanswered": 0.15, "doubled": 0.3} if self.victim == "all" else {self.victim: 0.4}
        control = self.world.service.bus_control
        control.with_suffix(".new").write_text(json.dumps(chances))
        control.with_suffix(".new").replace(control)
        return True

    def heal(self) -> bool:
        self.world.service.bus_control.unlink()
        return True


# the cloud's API


@dataclass(frozen=True)
class Request:
    """Requests to the cloud that a fault is for."""

    service: str
    method: str | None
    path: str


CREATE_SERVERS, DELETE_SERVER = Request("compute", "POST", "/servers$"), Request("compute", "DELETE", "/servers/")
REQUESTS = (
    CREATE_SERVERS, CREATE_SERVERS, DELETE_SERVER, DELETE_SERVER, Request("compute", "GET", "/servers"), Request("network", "GET", ""),
    Request("network", "POST", "/security-groups$"), Request("network", "POST", "/security-group-rules$"),
    Request("network", "DELETE", "/security-groups/"), Request("network", "POST", "/floatingips$"),
    Request("network", "DELETE", "/floatingips/"), Request("network", "DELETE", "/ports/"), Request("identity", "POST", "/auth/tokens$"),
    Request("identity", "GET", "/auth/tokens$"), Request("image", "GET", ""),
)


class BadAnswers(Fault):
    """The next requests of a kind go wrong. It counts only if there were any."""

    requests: Sequence[Request] = REQUESTS
    count: tuple[int, int] | None = (1, 4)

    def strike(self) -> bool:
        wanted = self.draw.choice(self.requests)
        self.victim = f"{wanted.service} {wanted.method or 'everything'} {wanted.path}"
        count = self.draw.randint(*self.count) if self.count else None
        self._armed = self.world.cloud.fault("http", service=wanted.service, method=wanted.method, path=wanted.path, count=count,
                                             **self.how())
        return True

    def heal(self) -> bool:
        answer = requests.delete(f"{self.world.cloud.url}/faults/{self._armed['id']}", timeout=30)
        assert answer.status_code in (200, 404), answer.text
        return answer.status_code == 404 or self.count is None or answer.json()["count"] < self._armed["count"]

    @abc.abstractmethod
    def how(self) -> dict[str, Any]:
        """Say how they go wrong."""


class Refused(BadAnswers):
    def how(self) -> dict[str, Any]:
        return {"status": self.draw.choice([500, 502, 503, 504]), "when": "before"}


class DoneAllTheSame(BadAnswers):
    """The request fails, and has taken effect."""

    def how(self) -> dict[str, Any]:
        return {"status": self.draw.choice([500, 503, 504]), "when": "after"}


class TimesOut(BadAnswers):
    """No answer comes in time; the request has taken effect, or not yet."""

    count = (1, 2)

    def how(self) -> dict[str, Any]:
        return {"delay": 6, "when": self.draw.choice(["before", "after"])}


class TooMany(BadAnswers):
    def how(self) -> dict[str, Any]:
        return {"status": 429, "retry_after": self.draw.randint(0, 2)}


class DeletesAreRefused(BadAnswers):
    requests = (DELETE_SERVER, Request("network", "DELETE", ""))

    def how(self) -> dict[str, Any]:
        return {"status": 409, "when": "before"}


class ServiceIsDown(BadAnswers):
    """One of the cloud's services is away for a while."""

    requests = tuple(Request(service, None, "") for service in ("identity", "compute", "network", "image"))
    count = None

    def how(self) -> dict[str, Any]:
        return {"status": 503, "when": "before"}


class TokensExpire(Fault):
    def strike(self) -> bool:
        self.world.cloud.fault("tokens", expire="all")
        return True


class BootsFail(Fault):
    """The next servers go to ERROR, or stay in BUILD for ever."""

    def strike(self) -> bool:
        self.victim = self.draw.choice(["error", "error", "never"])
        self.world.cloud.fault("boot", result=self.victim, count=self.draw.randint(1, 3))
        return True


class Setting(Fault):
    """The cloud is as it should be, but another for a while."""

    setting: dict[str, Any]
    normal: dict[str, Any]

    def strike(self) -> bool:
        if not self.claim_one(list(self.setting)):
            return False
        self.world.cloud.fault("settings", **self.setting)
        return True

    def heal(self) -> bool:
        self.world.cloud.fault("settings", **self.normal)
        return True


class DeletesAreSlow(Setting):
    setting, normal = {"delete_time": 4}, {"delete_time": 0.2}


class BootsAreSlow(Setting):
    setting, normal = {"boot_time": 3}, {"boot_time": 0.1}


class RoomShrinks(Setting):
    setting, normal = {"gpus": GPUS // 4}, {"gpus": GPUS}


# nodes


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
    """A fault of a process on a node."""

    def strike(self) -> bool:
        alive = [entry for entry in self.world.ledger.alive() if entry.attempt]
        if not alive:
            return False
        self.entry = self.draw.choice(alive)
        job = self.world.jobs[int(self.entry.run.removeprefix("job"))]
        self.victim = f"{self.entry.task} of attempt {self.entry.attempt} of {job.run}"
        return self.harm(job)

    @abc.abstractmethod
    def harm(self, job: Job) -> bool:
        """Do it to the process."""


class ProcessIsKilled(OfProcess):
    """SIGKILL of a training's process: that it has failed is right then, unless it may start again."""

    def harm(self, job: Job) -> bool:
        job.right.add("FAILED")
        job.hurt.append(f"{time.strftime('%H:%M:%S')} {type(self).__name__} {self.victim}")
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.entry.pid, signal.SIGKILL)
            return True
        return False


class LogFlood(OfProcess):
    """A process prints thousands of lines at once."""

    def harm(self, job: Job) -> bool:
        self.world.ledger.tell(self.entry, f"flood {self.draw.randint(500, 5000)}")
        return True


@dataclass(frozen=True)
class Kind:
    """A kind of fault, how often it is drawn, and for how many seconds it lasts."""

    name: str
    weight: int
    make: Callable[[World, Random], Fault]
    lasts: tuple[float, float] = (0, 0)


KINDS = (
    Kind("daemon killed", 12, Kill, (0, 4)),
    Kind("daemon stands still", 8, Freeze, (0.5, 10)),
    Kind("daemon asked to end", 4, Drain, (0, 2)),
    Kind("rolling restart", 1, RollingRestart),
    Kind("broker stopped", 1, BrokerStops, (0, 8)),
    Kind("database stopped", 2, DatabaseStops, (0, 8)),
    Kind("database killed", 1, DatabaseDies, (0, 3)),
    Kind("connections reset", 6, ConnectionsBreak),
    Kind("connections killed", 4, ConnectionsAreKilled),
    Kind("wire cut", 4, WireIsCut, (1, 8)),
    Kind("rows locked", 4, RowsAreLocked),
    Kind("messages lost or doubled", 8, MessagesSuffer, (1, 6)),
    Kind("request refused", 14, Refused, (6, 12)),
    Kind("request failed after its effect", 14, DoneAllTheSame, (6, 12)),
    Kind("request timed out", 6, TimesOut, (6, 12)),
    Kind("too many requests", 8, TooMany, (6, 12)),
    Kind("deletion refused", 5, DeletesAreRefused, (6, 12)),
    Kind("cloud service down", 4, ServiceIsDown, (1, 6)),
    Kind("tokens expired", 5, TokensExpire),
    Kind("servers don't boot", 6, BootsFail),
    Kind("slow deletions", 3, DeletesAreSlow, (3, 8)),
    Kind("slow boots", 3, BootsAreSlow, (3, 8)),
    Kind("less room", 3, RoomShrinks, (3, 8)),
    Kind("node crashed", 6, Crash),
    Kind("node gone", 6, Vanish),
    Kind("node in ERROR", 6, GoesToError),
    Kind("another host key", 3, AnotherAtItsAddress),
    Kind("node hung", 5, Hang, (1, 8)),
    Kind("node cut off", 6, Cut, (1, 8)),
    Kind("process killed", 4, ProcessIsKilled),
    Kind("log flood", 6, LogFlood),
)
LONG_CUT = Kind("node cut off for two minutes", 0, LongCut, (125, 125))
LONG_OUTAGE = Kind("database stopped for two minutes", 0, DatabaseStops, (120, 120))


def draw_fault(seed: int, number: int) -> tuple[Kind, float, Random]:
    """Give the fault of a number, how long it lasts, and what its own choices are drawn from: the same for the same seed."""
    draw = Random(f"{seed} fault {number}")
    [kind] = draw.choices(KINDS, [kind.weight for kind in KINDS])
    return kind, draw.uniform(*kind.lasts), draw
