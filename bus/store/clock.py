"""The store's clock: the database's on PostgreSQL, the machine's on SQLite, which knows none of that precision.

By it go the times in the records, what is tried again or checked later, and when "absent" begins to count: a clock that
is set back by an hour has them wait an hour longer, one that is set ahead has them come at once. Order goes by places,
leases by counters that each observer times with its own monotonic clock.
"""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime
from typing import Any

from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from bus.store import tables as t

_SQLITE_CLOCK = "store_clock"


def teach_the_clock(connection: sqlite3.Connection) -> None:
    """Let the connection's statements know `store_clock`."""
    connection.create_function(_SQLITE_CLOCK, 0, lambda: t.sqlite_instant(datetime.now(UTC)))


class store_clock(FunctionElement[datetime]):  # noqa: N801  # reads as the function it is in a query
    """Now, inside a query."""

    type = t.Instant()
    inherit_cache = True


@compiles(store_clock, "postgresql")
def _of_the_server(_: store_clock, compiler: SQLCompiler, **options: Any) -> str:
    return "clock_timestamp()"


@compiles(store_clock, "sqlite")
def _of_the_machine(_: store_clock, compiler: SQLCompiler, **options: Any) -> str:
    return f"{_SQLITE_CLOCK}()"
