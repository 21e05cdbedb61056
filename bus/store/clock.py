"""The store's clock inside a query."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from bus.store import tables as t


class store_clock(FunctionElement[datetime]):  # noqa: N801  # reads as the function it is in a query
    """Now, by the database's clock; on SQLite not later than it is, in whole milliseconds."""

    type = t.Instant()
    inherit_cache = True


@compiles(store_clock, "postgresql")
def _of_the_server(_: store_clock, compiler: SQLCompiler, **options: Any) -> str:
    return "clock_timestamp()"


@compiles(store_clock, "sqlite")
def _of_the_machine(_: store_clock, compiler: SQLCompiler, **options: Any) -> str:
    return "(strftime('%Y-%m-%dT%H:%M:%f', 'now') || '000Z')"
