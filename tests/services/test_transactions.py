"""What real databases do to transactions: deadlocks, lost connections. Each says so in its own way; we say it in one."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa
from oslo_config import cfg

from cml_nova import conf as cml_conf
from cml_nova import exception
from cml_nova.db import migration, quotas
from cml_nova.db.engine import Database, retried
from cml_nova.db.models import Job, Worker
from tests.harness.service import Database as Server


@pytest.fixture
def db(database: Server) -> Database:
    conf = cfg.ConfigOpts()
    cml_conf.register_opts(conf)
    conf([], default_config_files=[], default_config_dirs=[])
    conf.set_override("connection", database.url, "database")
    conf.set_override("max_retries", 0, "database")
    made = Database(conf)
    migration.sync(made)
    return made


@pytest.mark.fault("deadlock")
def test_a_transaction_that_loses_in_a_deadlock_runs_again(db: Database) -> None:
    with db.write() as session:
        for name in ("a", "b"):
            session.add(Worker(id=name, host="h", capacity=0, started_at=0, seen_at=0))
    both_hold_one = threading.Barrier(2)
    tries: list[str] = []

    @retried
    def raise_both(first: str, second: str) -> None:
        tries.append(first)
        is_first_try = tries.count(first) == 1
        with db.write() as session:
            for name in (first, second):
                session.execute(sa.update(Worker).where(Worker.id == name).values(capacity=Worker.capacity + 1))
                if is_first_try and name == first:
                    both_hold_one.wait(30)

    with ThreadPoolExecutor(2) as pool:
        for done in (pool.submit(raise_both, "a", "b"), pool.submit(raise_both, "b", "a")):
            done.result(60)
    assert len(tries) == 3, "no deadlock came of it"
    with db.read() as session:
        assert session.scalars(sa.select(Worker.capacity)).all() == [2, 2]


def test_of_creates_at_the_same_time_only_those_pass_for_which_there_is_quota(db: Database) -> None:
    """Each counts what the project has, and adds a job if there are fewer than three."""
    together = threading.Barrier(8)

    @retried
    def create(name: str) -> bool:
        with db.write() as session:
            quotas.lock(session, "red")
            if quotas.in_use(session, "red")["jobs"] >= 3:
                return False
            session.add(Job(id=name, project_id="red", user_id="u", name=name, phase="QUEUED", target="RUN", spec={}, keys={}, sealed="",
                            created_at=0, updated_at=0, phase_started_at=0))
            return True

    def try_it(number: int) -> bool:
        together.wait(30)
        return create(f"job-{number}")

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(try_it, range(8))) == [False] * 5 + [True] * 3
    with db.read() as session:
        assert quotas.in_use(session, "red") == {"jobs": 3, "nodes": 0, "accelerators": 0}


@pytest.mark.fault("database-away")
def test_a_connection_that_is_cut_in_a_transaction_is_told_as_such_and_the_next_one_works(db: Database, database: Server) -> None:
    admin = sa.create_engine(database.url, isolation_level="AUTOCOMMIT")
    own, kill = {
        "mysql": ("SELECT CONNECTION_ID()", "KILL CONNECTION {}"),
        "postgresql": ("SELECT pg_backend_pid()", "SELECT pg_terminate_backend({})"),
    }[admin.dialect.name]
    with pytest.raises(exception.DatabaseUnavailable), db.write() as session:
        number = session.scalar(sa.text(own))
        with admin.connect() as connection:
            connection.execute(sa.text(kill.format(number)))
        session.add(Worker(id="w", host="h", capacity=0, started_at=0, seen_at=0))
    with db.read() as session:
        assert session.scalars(sa.select(Worker.id)).all() == []
    admin.dispose()


@pytest.mark.fault("database-away")
def test_a_server_that_refuses_connections_is_told_as_such(database: Server) -> None:
    conf = cfg.ConfigOpts()
    cml_conf.register_opts(conf)
    conf([], default_config_files=[], default_config_dirs=[])
    nowhere = sa.make_url(database.url).set(port=1).render_as_string(hide_password=False)
    conf.set_override("connection", nowhere, "database")
    conf.set_override("max_retries", 0, "database")
    with pytest.raises(exception.DatabaseUnavailable), Database(conf).read() as session:
        session.execute(sa.select(Worker))
