"""Brings a database to the schema of this release."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from cml_nova.db.engine import Database


def _config(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "alembic"))
    config.attributes["connection"] = connection
    return config


def sync(db: Database) -> None:
    """Apply the migrations that the database lacks; none if it is up to date."""
    with db.engine.connect() as connection:
        command.upgrade(_config(connection), "head")
        connection.commit()


def version(db: Database) -> str | None:
    """Give the revision that the database is at; None for one without a schema."""
    with db.engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def latest() -> str:
    """Give the revision of this release."""
    head = ScriptDirectory.from_config(_config()).get_current_head()
    if head is None:
        raise RuntimeError("the package holds no migrations")
    return head
