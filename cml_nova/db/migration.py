"""Brings a database to the schema of this release."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import tenacity
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from cml_nova import exception
from cml_nova.db.engine import Database

LOG = logging.getLogger(__name__)


def _config(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "alembic"))
    config.attributes["connection"] = connection
    return config


#: any number, the same in every process: names the lock that keeps two of them from migrating at the same time
_LOCK = 7012034


@contextmanager
def _alone(connection: Connection) -> Iterator[None]:
    """Keep other processes that migrate this database waiting; commit at the end."""
    match connection.dialect.name:
        case "postgresql":
            # Ends with the transaction, which holds all of the migration.
            connection.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK})"))
        case "mysql" | "mariadb":
            # There, each change of the schema commits; the lock belongs to the connection.
            connection.execute(text(f"SELECT GET_LOCK('{_LOCK}', 3600)"))
        case "sqlite":
            # A transaction that begins by writing has the file to itself.
            connection.execute(text(f"PRAGMA user_version = {_LOCK}"))
    try:
        yield
        connection.commit()
    finally:
        if connection.dialect.name in ("mysql", "mariadb"):
            connection.execute(text(f"SELECT RELEASE_LOCK('{_LOCK}')"))


def sync(db: Database) -> None:
    """Apply the migrations that the database lacks; none if it is up to date. Several processes may do so at once."""
    with db.engine.connect() as connection, _alone(connection):
        command.upgrade(_config(connection), "head")


def version(db: Database) -> str | None:
    """Give the revision that the database is at; None for one without a schema. :raises DatabaseUnavailable: now is not the time."""
    with db.read() as session:
        return MigrationContext.configure(session.connection()).get_current_revision()


@tenacity.retry(retry=tenacity.retry_if_exception_type(exception.DatabaseUnavailable), wait=tenacity.wait_fixed(1),
                before_sleep=tenacity.before_sleep_log(LOG, logging.WARNING))
def check(db: Database) -> None:
    """See that the database has the tables of this release. Those of a newer one, to which it may be on the way, will do.

    One that went away since it was connected to is waited for, as is one that is away at the start.

    :raises ConfigurationError: it has none, or those of an older release.
    """
    found, ours = version(db), [script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()]
    if found is None or found in ours[1:]:
        has = "no tables" if found is None else "the tables of an older release"
        raise exception.ConfigurationError(f"[database] connection: that one has {has} of this service: run cml-nova-manage db sync")


def latest() -> str:
    """Give the revision of this release."""
    head = ScriptDirectory.from_config(_config()).get_current_head()
    if head is None:
        raise RuntimeError("the package holds no migrations")
    return head
