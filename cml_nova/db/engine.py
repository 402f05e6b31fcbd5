"""Where sessions come from. One facade a process, made from the configuration that is handed in."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import tenacity
from oslo_config import cfg
from oslo_db import exception as db_exception
from oslo_db.sqlalchemy import enginefacade
from sqlalchemy import Engine, event
from sqlalchemy import exc as sa_exception
from sqlalchemy.orm import Session

from cml_nova import context as cml_context
from cml_nova import exception

_EXAMPLE = "mysql+pymysql://USER:PASSWORD@HOST/cml_nova?charset=utf8mb4"
#: what PostgreSQL answers to a write where it only reads (SQLSTATE)
_READ_ONLY = "25006"

#: wraps a function that is one transaction, or may run twice: it runs again after a deadlock
retried = tenacity.retry(retry=tenacity.retry_if_exception_type(exception.DatabaseBusy), stop=tenacity.stop_after_attempt(6),
                         wait=tenacity.wait_random_exponential(multiplier=0.05, max=2), reraise=True)


class Database:
    """Transactions on the database that ``[database]`` names.

    :raises ConfigurationError: it names none that lets us in. One that does not answer is tried as often as ``max_retries`` says first.
    """

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        if not conf.database.connection:
            raise exception.ConfigurationError(f"[database] connection is not set; it looks like {_EXAMPLE}")
        try:
            self._connect(conf)
        except (sa_exception.ArgumentError, ImportError) as error:
            # The first of these may have the whole URL in its text, the second is of a driver that is not installed.
            what = str(error) if isinstance(error, ImportError | sa_exception.NoSuchModuleError) else "it is no URL"
            raise exception.ConfigurationError(f"[database] connection: {what}; it looks like {_EXAMPLE}") from error
        except (db_exception.DBError, sa_exception.SQLAlchemyError) as error:
            # The first line says it; the rest is SQLAlchemy's advice to programmers.
            raise exception.ConfigurationError(f"[database] connection: {str(error).splitlines()[0]}") from error

    def _connect(self, conf: cfg.ConfigOpts) -> None:
        self._facade = enginefacade.transaction_context()
        self._one_writer: AbstractContextManager[Any] = nullcontext()
        options = conf.database
        self._facade.configure(
            connection=options.connection,
            sqlite_fk=True,
            max_retries=options.max_retries,
            retry_interval=options.retry_interval,
            max_pool_size=options.max_pool_size,
            max_overflow=options.max_overflow,
            pool_timeout=options.pool_timeout,
            connection_recycle_time=options.connection_recycle_time,
            mysql_sql_mode=options.mysql_sql_mode,
        )
        if self.engine.dialect.name == "sqlite":
            event.listen(self.engine, "connect", _share_sqlite_file)
            self.engine.dispose()
            # oslo.db opens the file anew for each transaction. Without one connection that stays, each close would be the
            # last one, upon which SQLite writes its log back and syncs the disk: several times the cost of the transaction.
            self._kept_open = self.engine.raw_connection()
            # SQLite refuses a transaction that read before another one wrote; those of this process queue up instead.
            self._one_writer = threading.Lock()

    @property
    def engine(self) -> Engine:
        """The SQLAlchemy engine, for migrations."""
        return self._facade.writer.get_engine()

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A transaction that only reads. :raises DatabaseUnavailable: now is not the time."""
        with _own_errors(), self._facade.reader.using(cml_context.service_context()) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A transaction that is committed at the end, rolled back on an exception.

        :raises DatabaseBusy: a deadlock; see ``retried``.
        :raises DatabaseUnavailable: it may have been committed all the same.
        """
        with _own_errors(), self._one_writer, self._facade.writer.using(cml_context.service_context()) as session:
            yield session


@contextmanager
def _own_errors() -> Iterator[None]:
    """Say in one way what drivers say in many. Only oslo.db's errors of MariaDB tell a lost connection from others."""
    try:
        yield
    except db_exception.DBDeadlock as error:
        raise exception.DatabaseBusy("The service's database is too busy at this time; try again later.") from error
    except (db_exception.DBConnectionError, sa_exception.OperationalError, sa_exception.TimeoutError) as error:
        raise exception.DatabaseUnavailable("The service can't reach its database at this time; try again later.") from error
    except db_exception.DBError as error:
        # In a failover. MariaDB's error for it is an operational one.
        if getattr(getattr(error.inner_exception, "orig", None), "sqlstate", None) != _READ_ONLY:
            raise
        raise exception.DatabaseUnavailable("The service's database only reads at this time; try again later.") from error


def _share_sqlite_file(connection: Any, record: Any) -> None:
    """Let the threads of the standalone service wait for each other's writes instead of failing, and read meanwhile."""
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA busy_timeout=30000")
    connection.execute("PRAGMA synchronous=NORMAL")
