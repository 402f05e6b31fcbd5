"""The database and the conductor, whose time is the test's."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import sqlalchemy as sa
from oslo_config import cfg

from cml_nova import conf as cml_conf
from cml_nova import context as cml_context
from cml_nova.conductor.dispatch import Dispatcher
from cml_nova.conductor.health import Health, Part
from cml_nova.conductor.manager import ConductorManager
from cml_nova.conductor.periodics import Periodics
from cml_nova.db.engine import Database
from cml_nova.db.models import Base

CONTEXT = cml_context.service_context()
_START = 1_800_000_000.0
#: seconds between a conductor's looks at its database and bus
_LOOK = 10.0
#: what a job's rows are in; the columns of the job that a repeated report may touch are left out
_OF_A_JOB = {"jobs": "id", "nodes": "job_id", "tasks": "job_id", "events": "job_id", "metrics": "job_id"}


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


_TRIGGER = (
    "CREATE TRIGGER note AFTER UPDATE ON jobs BEGIN INSERT INTO noted VALUES (" +
    ", ".join(f"{when}.{column}" for when in ("old", "new") for column in Row._fields) + "); END")
_TABLE = f"CREATE TABLE noted ({', '.join(f'{when}_{column}' for when in ('old', 'new') for column in Row._fields)})"


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
        #: reports that a conductor has taken and stalls with: job, generation, report
        self.stalled: list[tuple[str, int, dict[str, Any]]] = []
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
        self.stalled.clear()
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
        return [(Row(*values[:len(Row._fields)]), Row(*values[len(Row._fields):])) for values in found]
