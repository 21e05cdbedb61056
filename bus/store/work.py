"""A unit of work: one write transaction's connection and clock, its journal and its totals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import Connection, Table

from bus.model import ledger
from bus.store import tables as t
from bus.store.bulk import add_rows, as_lists, from_lists
from bus.store.engine import Database

if TYPE_CHECKING:
    from bus.ports import Actor

T = TypeVar("T")

CHUNK = 400
"""Rows per statement where a list of values goes into one (SQLite allows 32,766 parameters)."""


@cache
def insert_into(table: Table, *, is_sqlite: bool) -> Any:
    """An insert of the dialect, which knows ON CONFLICT."""
    if is_sqlite:
        from sqlalchemy.dialects import sqlite

        return sqlite.insert(table)
    from sqlalchemy.dialects import postgresql

    return postgresql.insert(table)


@cache
def _add_totals() -> Any:
    return from_lists(t.total, "measure", "route", "amount")


def chunks(items: Sequence[T], size: int = CHUNK) -> Iterable[Sequence[T]]:
    """The items in slices of at most `size`."""
    return (items[start : start + size] for start in range(0, len(items), size))


def storable(value: str, limit: int = 500) -> str:
    """Text any database keeps: no NUL, no half surrogates, bounded."""
    cleaned = value.replace("\x00", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode("utf-8")
    return cleaned[:limit]


class UnitOfWork:
    """What every step of a transaction works with; `finish` is its last one."""

    def __init__(self, database: Database, connection: Connection) -> None:
        self.database = database
        self.connection = connection
        self.deltas: ledger.Deltas = Counter()
        self._now: datetime | None = None

    @property
    def now(self) -> datetime:
        """When this transaction began to write, by the store's clock."""
        if self._now is None:
            self._now = self.database.now(self.connection)
        return self._now

    def learn_now(self, moment: datetime) -> None:
        """A statement brought the time with it: nobody needs to ask."""
        if self._now is None:
            self._now = moment

    def insert(self, table: Any) -> Any:
        return insert_into(table, is_sqlite=self.database.is_sqlite)

    def execute(self, statement: Any) -> Any:
        """Run one statement inside the transaction."""
        return self.connection.execute(statement)

    def journal_row(
        self,
        actor: Actor,
        act: str,
        delivery: int | None,
        message: int | None,
        old: str,
        new: str,
        cause: str,
        detail: str = "",
        endpoint: str = "",
    ) -> dict[str, Any]:
        return {
            "at": self.now,
            "actor": actor.name,
            "reason": actor.reason,
            "act": act,
            "delivery": delivery,
            "message": message,
            "endpoint": endpoint,
            "old": str(old),
            "new": str(new),
            "cause": storable(cause),
            "detail": storable(detail, 20_000),
        }

    def write_journal(self, actor: Actor, act: str, **what: Any) -> None:
        """One row of the journal: who did what, when, why, old and new."""
        row = {"delivery": None, "message": None, "old": "", "new": "", "cause": ""} | what
        add_rows(self.connection, t.journal, [self.journal_row(actor, act, **row)])

    def finish(self) -> None:
        """Write the totals; the last step before the commit."""
        rows = [
            {"measure": measure, "route": route, "amount": amount}
            for (measure, route), amount in sorted(self.deltas.items())
            if amount
        ]
        if rows and not self.database.is_sqlite:
            self.connection.execute(_add_totals(), as_lists(rows))  # always a few: neither COPY nor row by row
        else:
            add_rows(self.connection, t.total, rows)
