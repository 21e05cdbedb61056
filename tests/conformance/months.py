"""Stores whose months are over when a test says so."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from sqlalchemy import Table, func, select, text, update

from bus.ports import Actor, MonthTurn
from bus.store import tables as t
from bus.store.engine import Database
from bus.store.schema import upgrade
from bus.store.sqlstore import SqlStore
from tests.services import PostgreSQL

RELAY = Actor(name="relay:test", reason="the month is over")
PERSON = Actor(name="person:archivist", reason="kept for a year")
MONTH = timedelta(days=32)
LATER = "9999-12"
"""A month before which everything that is closed may be retired."""


@contextmanager
def fresh_store(postgresql: PostgreSQL) -> Iterator[SqlStore]:
    """A store of its own: what a turn makes of the tables outlives a test."""
    with postgresql.fresh_database() as address:
        database = Database(address, pool_size=16)
        upgrade(database)
        yield SqlStore(database)
        database.close()


def let_the_month_end(store: SqlStore) -> None:
    """What is open began a month earlier, by the store's clock."""
    p = t.period.c
    with store.database.write() as connection:
        began_at = connection.execute(select(p.began_at).where(p.closed_at.is_(None))).scalar_one()
        connection.execute(update(t.period).where(p.closed_at.is_(None)).values(began_at=began_at - MONTH))


def turn(store: SqlStore) -> MonthTurn:
    """End the month, and close it."""
    let_the_month_end(store)
    turned = store.turn_month(actor=RELAY)
    assert turned is not None
    return turned


def closed_in(store: SqlStore, table: str) -> dict[str, int]:
    """How many rows of a table lie in which partition; `open` is the one that the bus works on."""
    each = f"""
        SELECT CASE relnamespace::regnamespace::text WHEN 'history' THEN relname ELSE 'open' END AS place,
            count(*) AS rows
        FROM history.{table} r JOIN pg_class c ON c.oid = r.tableoid GROUP BY 1"""
    with store.database.read() as connection:
        return {row.place: row.rows for row in connection.execute(text(each))}


def period_of(store: SqlStore) -> int:
    """The number of the open period."""
    with store.database.read() as connection:
        return int(connection.execute(select(func.max(t.period.c.number))).scalar_one())


def in_the_open_month(store: SqlStore, table: Table) -> Sequence[Any]:
    """The rows of a table that the bus works on, oldest first."""
    with store.database.read() as connection:
        return connection.execute(select(table).order_by(table.c.id)).all()
