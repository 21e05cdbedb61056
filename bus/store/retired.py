"""What was retired: the account of months that were dropped, and who asks for something of them."""

from __future__ import annotations

import json
from collections import Counter
from datetime import datetime

from sqlalchemy import Connection, Table, func, select

from bus.errors import NotFound
from bus.model import ledger
from bus.store import tables as t
from bus.store.engine import Database
from bus.store.periods import name_of

_P = t.period.c
_RETIRED_UNTIL = select(func.max(_P.closed_at)).where(_P.retired_at.is_not(None))
_RETIRED = select(t.period).where(_P.retired_at.is_not(None)).order_by(_P.number)


def retired_ledger(connection: Connection) -> ledger.Deltas:
    """(measure, route) → amount of everything that was dropped: with the rows that are left, the totals."""
    found: ledger.Deltas = Counter()
    for row in connection.execute(_RETIRED):
        found.update({(measure, route): amount for measure, route, amount in json.loads(row.ledger)})
    return found


def retired_until(connection: Connection) -> datetime | None:
    """The end of the last month that was retired; None: none was."""
    until: datetime | None = connection.execute(_RETIRED_UNTIL).scalar_one()
    return until


def refuse_retired(connection: Connection, table: Table, number: int) -> None:
    """Say of something that is not there that it was dropped, where its number is one of a retired month.

    Raises:
        NotFound: with the month, who retired it, when and why.
    """
    for row in connection.execute(_RETIRED):
        first, last = json.loads(row.numbers)[table.name] or (0, -1)
        if first <= number <= last:
            raise NotFound(
                f"{table.name} {number} is not kept any more: {name_of(row.began_at, row.closed_at)} was retired by "
                f"{row.actor} on {row.retired_at:%Y-%m-%d} ({row.reason}); see: bus store partitions"
            )


def unknown_message(database: Database, name: str) -> NotFound:
    """No message bears this id: it may have been one of a month that was retired."""
    with database.read() as connection:
        names = [name_of(row.began_at, row.closed_at) for row in connection.execute(_RETIRED)]
    gone = f"; what was retired is not kept: {', '.join(names[-3:])}" if names else ""
    return NotFound(f"no message has the number or id {name}{gone}; see: bus message list")
