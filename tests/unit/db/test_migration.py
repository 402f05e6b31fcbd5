"""The migrations lead to the schema of the models; the same test runs on MariaDB and PostgreSQL with their servers."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import inspect

from cml_nova.db import migration
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


def test_versions(db: Database) -> None:
    assert migration.version(db) is None
    migration.sync(db)
    assert migration.version(db) == migration.latest()
    migration.sync(db)
    assert migration.version(db) == migration.latest()


def test_processes_that_start_together_wait_for_each_other(db: Database) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: migration.sync(db), range(4)))
    assert migration.version(db) == migration.latest()
