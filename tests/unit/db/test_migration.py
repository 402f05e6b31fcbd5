"""The migrations lead to the schema of the models; the same test runs on MariaDB and PostgreSQL with their servers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import inspect

from cml_nova.db import migration, quotas
from cml_nova.db.engine import Database
from cml_nova.db.models import Base
from tests.unit.api.conftest import make_conf


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    made = Database(make_conf(tmp_path))
    yield made
    made.engine.dispose()


def test_migrated_schema_is_that_of_the_models(db: Database) -> None:
    migration.sync(db)
    with db.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []


def test_what_the_comparison_does_not_see(db: Database) -> None:
    """Rules of foreign keys, and which columns are keys: alembic does not compare these on SQLite."""
    migration.sync(db)
    inspector = inspect(db.engine)
    for name, table in Base.metadata.tables.items():
        assert inspector.get_pk_constraint(name)["constrained_columns"] == [column.name for column in table.primary_key]
        migrated = {(key["constrained_columns"][0], key["referred_table"], key["options"].get("ondelete"))
                    for key in inspector.get_foreign_keys(name)}
        assert migrated == {(key.parent.name, key.column.table.name, key.ondelete) for key in table.foreign_keys}
        nullable = {column["name"]: column["nullable"] for column in inspector.get_columns(name)}
        assert nullable == {column.name: column.nullable for column in table.columns}


def columns(db: Database) -> dict[tuple[str, str], tuple[str, bool, bool]]:
    """Give all columns, by table and name: type, whether they may be empty, and whether a row may be written without them."""
    inspector = inspect(db.engine)
    return {(table, column["name"]): (str(column["type"]), column["nullable"], column["nullable"] or column["default"] is not None)
            for table in inspector.get_table_names() for column in inspector.get_columns(table)}


def test_daemons_of_the_release_before_can_go_on(db: Database) -> None:
    """They write rows without what is new, while daemons are upgraded one after the other."""
    before: dict[tuple[str, str], tuple[str, bool, bool]] = {}
    while migration.version(db) != migration.latest():
        with db.engine.connect() as connection:
            command.upgrade(migration._config(connection), "+1")
            connection.commit()
        after = columns(db)
        assert {key: after[key] for key in before} == before, "nothing is taken away or changed"
        tables = {table for table, _ in before}
        assert not [key for key in set(after) - set(before) if key[0] in tables and not after[key][2]], "rows can be written without it"
        before = after


def test_versions(db: Database) -> None:
    assert migration.version(db) is None
    migration.sync(db)
    assert migration.version(db) == migration.latest()
    migration.sync(db)
    assert migration.version(db) == migration.latest()


def test_jobs_that_are_there_count_with_their_accelerators(db: Database) -> None:
    """Those that have not ended: only these are counted."""
    with db.engine.connect() as connection:
        command.upgrade(migration._config(connection), "0001")
        columns = {"project_id": "p", "user_id": "u", "name": "n", "metadata": "{}", "request_digest": "", "framework": "custom",
                   "keys": "{}", "sealed": "", "priority": 0, "target": "RUN", "forget": False, "progress": 0, "attempt": 0,
                   "error_restarts": 0,
                   "infra_restarts": 0, "capacity_tries": 0, "runtime": "{}", "generation": 0, "created_at": 0, "updated_at": 0,
                   "phase_started_at": 0}
        flavors = {"worker": {"accelerators": {"kind": "VGPU", "count": 4}}, "ps": {"accelerators": None}}
        spec = json.dumps({"roles": {role: {"flavor": flavor} for role, flavor in flavors.items()}})
        names = ["id", "phase", "spec", *columns]
        insert = f"INSERT INTO jobs ({', '.join(names)}) VALUES ({', '.join(':' + name for name in names)})"
        for job_id, phase in (("old", "DONE"), ("new", "RUNNING")):
            connection.execute(sa.text(insert), {**columns, "id": job_id, "phase": phase, "spec": spec})
            for rank, role in enumerate(flavors):
                connection.execute(sa.text(f"INSERT INTO nodes (job_id, rank, role, role_index, flavor_id, status, updated_at) "
                                           f"VALUES ('{job_id}', {rank}, '{role}', 0, 'f', 'ACTIVE', 0)"))
        connection.commit()
    migration.sync(db)
    with db.read() as session:
        assert quotas.in_use(session, "p") == {"jobs": 1, "nodes": 2, "accelerators": 4}


def test_processes_that_start_together_wait_for_each_other(db: Database) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: migration.sync(db), range(4)))
    assert migration.version(db) == migration.latest()
