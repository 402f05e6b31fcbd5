"""Faults of bus and database, of the way to them, and of what is on it."""

from __future__ import annotations

import contextlib
import signal
import time
from typing import Any

import sqlalchemy as sa
from chaos_fault import Fault
from chaos_world import DATABASE_ERRORS


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


class WireIsSlow(Fault):
    """All that gets to and from the broker or the database takes its time."""

    def strike(self) -> bool:
        self.victim = self.claim_one(["broker", "database"])
        if self.victim:
            getattr(self.world, f"{self.victim}_wire").slow(self.draw.uniform(0.02, 0.3))
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
        self.world.service.trouble_bus(**chances)
        return True

    def heal(self) -> bool:
        self.world.service.calm_bus()
        return True
