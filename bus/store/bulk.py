"""Many rows at once, by statements whose text does not depend on how many: they are parsed and planned once.

PostgreSQL takes COPY and arrays, SQLite prepared inserts and JSON lists; the numbers of new rows are drawn before.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    BigInteger,
    BindParameter,
    Boolean,
    ColumnElement,
    Connection,
    Dialect,
    Table,
    Text,
    bindparam,
    func,
    insert,
    select,
    text,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator, TypeEngine

# PostgreSQL's driver and dialect are imported where they are used: on SQLite every command would wait for them.
if TYPE_CHECKING:
    from psycopg import sql

FEW = 3
"""Rows from which COPY is quicker than an INSERT: it costs a round trip more."""

_SQLITE_LAST = text("SELECT seq FROM sqlite_sequence WHERE name = :name")


def draw_numbers(connection: Connection, table: Table, count: int) -> list[int]:
    """Numbers for so many new rows, rising; nobody else gets them. Call it inside a write transaction."""
    if connection.dialect.name == "sqlite":
        last = connection.execute(_SQLITE_LAST, {"name": table.name}).scalar() or 0
        return list(range(last + 1, last + 1 + count))
    return sorted(connection.execute(_draw(table.name), {"count": count}).scalars())


def add_numbered(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> list[int]:
    """As `add_rows`, for rows without numbers of their own: returns those they were given, rising."""
    if len(rows) == 1:
        return [connection.execute(_insert_numbered(table), rows[0]).scalar_one()]
    numbers = draw_numbers(connection, table, len(rows))
    add_rows(connection, table, [{"id": number, **row} for number, row in zip(numbers, rows, strict=True)])
    return numbers


def add_rows(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert the rows; all name the same columns, in the same order."""
    if not rows:
        return
    if connection.dialect.name == "sqlite" or len(rows) < FEW:
        connection.execute(_insert(table), rows)
        return
    import psycopg

    copy_in = _copy(table.name, tuple(rows[0]))
    # Behind SQLAlchemy's back, in its transaction: it has no COPY.
    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    try:
        with driver.cursor() as cursor, cursor.copy(copy_in) as copy:
            for row in rows:
                copy.write_row(tuple(row.values()))
    except psycopg.Error as error:
        statement = copy_in.as_string(driver)
        raise DBAPIError.instance(statement, None, error, psycopg.Error, dialect=connection.dialect) from error


class Listed(TypeDecorator[Sequence[Any]]):
    """A list as one parameter: an array on PostgreSQL, JSON on SQLite."""

    impl = Text
    cache_ok = True

    def __init__(self, item: TypeEngine[Any] | type[TypeEngine[Any]] = BigInteger) -> None:
        super().__init__()
        self.item = item

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name == "postgresql":
            from sqlalchemy.dialects.postgresql import ARRAY

            return dialect.type_descriptor(ARRAY(self.item))
        return dialect.type_descriptor(Text())

    def process_bind_param(self, value: Sequence[Any] | None, dialect: Dialect) -> Any:
        return list(value or ()) if dialect.name == "postgresql" else json.dumps(list(value or ()))


NUMBERS: BindParameter[Sequence[Any]] = bindparam("numbers", type_=Listed())
"""Row ids."""


class one_of(FunctionElement[bool]):  # noqa: N801  # reads as the function it is in a query
    """Whether a column is one of a list, which is one parameter of type Listed."""

    type = Boolean()
    inherit_cache = True


@compiles(one_of, "postgresql")
def _is_any(element: one_of, compiler: SQLCompiler, **options: Any) -> str:
    column, listed = (compiler.process(part, **options) for part in element.clauses)
    return f"{column} = ANY({listed})"


@compiles(one_of, "sqlite")
def _is_in_json(element: one_of, compiler: SQLCompiler, **options: Any) -> str:
    column, listed = (compiler.process(part, **options) for part in element.clauses)
    return f"{column} IN (SELECT value FROM json_each({listed}))"  # noqa: S608  # both parts are the compiler's


def from_lists(table: Table, *names: str, **computed: ColumnElement[Any]) -> Any:
    """PostgreSQL: an insert of as many rows as the lists, parameters named as these columns, are long, in order.

    `computed`: expressions for further columns.
    """
    from sqlalchemy.dialects import postgresql

    unnested = func.unnest(*(bindparam(name, type_=Listed(table.c[name].type)) for name in names))
    each = unnested.table_valued(*names, with_ordinality="nth", name="each").render_derived(name="each")
    rows = select(*(each.c[name] for name in names), *computed.values()).order_by(each.c.nth)
    return postgresql.insert(table).from_select([*names, *computed], rows)


def as_lists(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """The rows column by column, as `from_lists` takes them."""
    return {name: [row[name] for row in rows] for name in rows[0]}


@cache
def _insert(table: Table) -> Any:
    return insert(table)


@cache
def _insert_numbered(table: Table) -> Any:
    return insert(table).returning(table.c.id)


@cache
def _draw(table: str) -> Any:
    times = func.generate_series(1, bindparam("count", type_=BigInteger())).table_valued("number")
    return select(func.nextval(f"{table}_id_seq")).select_from(times)


@cache
def _copy(table: str, columns: tuple[str, ...]) -> sql.Composed:
    from psycopg import sql

    names = sql.SQL(", ").join(map(sql.Identifier, columns))
    return sql.SQL("COPY {} ({}) FROM STDIN").format(sql.Identifier(table), names)
