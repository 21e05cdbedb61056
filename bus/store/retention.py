"""Retire months: drop the tables of a closed one, and account for what was in them. The ids of its messages stay taken.

PostgreSQL alone: where everything is in one file, and the journal refuses to be deleted from, nothing is dropped.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, func, select, text, update

from bus.errors import NotAllowed, NotFound, StoreConflict
from bus.ports import Actor
from bus.store import tables as t
from bus.store.engine import MONTHLY, Database, translated
from bus.store.months import Month, months, unended_of
from bus.store.periods import last_month, name_of
from bus.store.recount import recount
from bus.store.revival import hold_month
from bus.store.transaction import SqlTransaction

NAMED = 20
"""Deliveries named of those that hold a month."""

TRIES = 20
PAUSE = 0.25  # seconds between two tries
_PATIENCE = text("SET LOCAL lock_timeout = '300ms'")
"""Whoever reads history waits behind the one who waits to drop some of it: not for long, and not in vain for ever."""

_P = t.period.c
_NOT_ENDED = ("open", "dead", "in-doubt", "entering")
_ASKED_FOR = ("message", "delivery", "receipt")


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A closed month that is old enough, and the deliveries that hold it: the first NAMED of `month.not_ended`."""

    month: Month
    held_by: list[int]


def candidates(database: Database, *, before: str) -> list[Candidate]:
    """The closed months before this one (`2026-01`), the oldest first; see retire for those that are held.

    Raises:
        NotAllowed: the store is SQLite.
    """
    _require_months(database)
    found = [month for month in months(database) if month.closed_at is not None and month.retired_at is None]
    with database.read() as connection:
        return [
            Candidate(month=month, held_by=_held_by(connection, month))
            for month in found
            if month.closed_at is not None and last_month(month.began_at, month.closed_at) < before
        ]


def _require_months(database: Database) -> None:
    if database.is_sqlite:
        raise NotAllowed(
            "SQLite keeps everything in one file, whose journal refuses to be deleted from: nothing is retired there. "
            "Take PostgreSQL where history has to end"
        )


def _held_by(connection: Connection, month: Any) -> list[int]:
    held = unended_of(month.began_at, month.closed_at).order_by(t.delivery.c.id).limit(NAMED)
    return list(connection.execute(held).scalars())


def retire(database: Database, period: int, *, actor: Actor) -> None:
    """Drop a closed month's tables: messages, deliveries, attempts, receipts and journal of it are gone for good.

    What was in them is noted in its row of `period`, for the totals to be proved without it, and in the journal.

    Raises:
        NotFound: there is no such period.
        NotAllowed: it is open, or was retired, or holds something that is not ended; the store is SQLite.
        StoreConflict: somebody read it all the time; nothing was done, try again.
        StoreRefuses: only the owner of the tables may drop them.
    """
    _require_months(database)
    with database.write() as connection:
        row = connection.execute(select(t.period).where(_P.number == period).with_for_update(nowait=True)).one_or_none()
        if row is None:
            raise NotFound(f"there is no period {period}; see: bus store partitions")
        _require_retirable(connection, row)
        connection.execute(hold_month(period))
        with database.history() as all_months:
            account = _account(all_months, row)
        transaction = SqlTransaction(database, connection)
        by = {"retired_at": transaction.now, "actor": actor.name, "reason": actor.reason}
        connection.execute(update(t.period).where(_P.number == period).values(**by, **account))
        name = name_of(row.began_at, row.closed_at)
        transaction.write_journal(actor, "retire", old=name, new="dropped", detail=f"rows: {account['rows']}")
        transaction.finish()
        _drop(connection, row)


def _require_retirable(connection: Connection, row: Any) -> None:
    name = name_of(row.began_at, row.closed_at)
    if row.closed_at is None:
        raise NotAllowed(f"{name} is open: the bus works in it; the relay closes it when the month is over")
    if row.retired_at is not None:
        raise NotAllowed(f"{name} was retired on {row.retired_at:%Y-%m-%d} by {row.actor}: {row.reason}")
    if held := _held_by(connection, row):
        raise NotAllowed(held_text(name, held))


def held_text(name: str, held_by: list[int]) -> str:
    """Why a month is not dropped, and what to do."""
    numbers = ", ".join(map(str, held_by)) + (" …" if len(held_by) == NAMED else "")
    return (
        f"{name} is held by what is not ended: delivery {numbers}. "
        f"Have it sent or given up first: bus dead replay, bus dead discard, bus doubt"
    )


def _account(connection: Connection, row: Any) -> dict[str, Any]:
    """What is in the month: rows by table, the ledger's sums, lowest and highest number of what is asked for by it."""
    rows, numbers = {}, {}
    for name in MONTHLY:
        table = t.metadata.tables[name]
        in_it = table.c.period == row.number
        rows[name] = connection.execute(select(func.count()).select_from(table).where(in_it)).scalar_one()
        if name in _ASKED_FOR:
            ends = connection.execute(select(func.min(table.c.id), func.max(table.c.id)).where(in_it)).one()
            numbers[name] = list(ends) if rows[name] else None
    counted = recount(connection, period=row.number)
    if left := {measure: count for (measure, _), count in counted.items() if count and measure in _NOT_ENDED}:
        raise NotAllowed(f"{name_of(row.began_at, row.closed_at)} holds what is not ended: {left}; it is kept")
    sums = [[measure, route, amount] for (measure, route), amount in sorted(counted.items()) if amount]
    return {"rows": json.dumps(rows), "ledger": json.dumps(sums), "numbers": json.dumps(numbers)}


def _drop(connection: Connection, row: Any) -> None:
    """Drop the tables of a month, between two who read history."""
    drop = text("DROP TABLE " + ", ".join(f"history.{name}_{row.number}" for name in MONTHLY))
    connection.execute(_PATIENCE)
    for _ in range(TRIES):
        try:
            with translated(), connection.begin_nested():
                connection.execute(drop)
                return
        except StoreConflict:
            time.sleep(PAUSE)
    raise StoreConflict(f"{name_of(row.began_at, row.closed_at)} is being read all the time; nothing was dropped")
