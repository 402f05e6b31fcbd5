"""The database server's clock, as seconds since 1970 UTC with fractions.

Leases and deadlines are compared on the server, with its clock, so that daemons on hosts whose clocks differ agree.
All times in the schema are doubles of this kind: the same type and the same arithmetic on every database.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Double
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement


class now(FunctionElement[float]):  # noqa: N801 -- named like the SQL function it stands for
    """``now()`` in an SQL expression."""

    type = Double()
    inherit_cache = True


@compiles(now, "sqlite")
def _sqlite(element: now, compiler: Any, **kw: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(now, "mysql")
@compiles(now, "mariadb")
def _mysql(element: now, compiler: Any, **kw: Any) -> str:
    return "CAST(UNIX_TIMESTAMP(SYSDATE(6)) AS DOUBLE)"


@compiles(now, "postgresql")
def _postgresql(element: now, compiler: Any, **kw: Any) -> str:
    return "CAST(EXTRACT(EPOCH FROM clock_timestamp()) AS DOUBLE PRECISION)"
