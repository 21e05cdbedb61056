"""What lies in a closed month and is touched again comes back into the open one, with everything that belongs to it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sqlalchemy import Connection, Table, TableClause, TextClause, column, delete, insert, select, table, text

from bus.store import tables as t
from bus.store.bulk import NUMBERS, one_of

_D = t.delivery.c
_IN_OPEN = select(_D.id).where(one_of(_D.id, NUMBERS))
_MOVED = (t.message, t.search_value, t.delivery, t.output, t.attempt)
"""In the order in which they refer to each other."""


def bring_back(connection: Connection, deliveries: Collection[int]) -> set[int]:
    """Make sure that these deliveries are in the open month; returns those that are: the others were dropped.

    Raises:
        StoreConflict: somebody else brings back from this month, or drops it.
    """
    numbers = sorted(deliveries)
    there = set(connection.execute(_IN_OPEN, {"numbers": numbers}).scalars())
    if connection.dialect.name == "sqlite" or len(there) == len(numbers):
        return there
    closed = all_months(t.delivery)
    found = select(closed.c.id, closed.c.period, closed.c.message).where(one_of(closed.c.id, NUMBERS))
    left = connection.execute(found, {"numbers": sorted(set(numbers) - there)}).all()
    for period in sorted({row.period for row in left}):
        # Whoever else brings back from this month, or drops it, is told to come again.
        connection.execute(hold_month(period))
        _bring(connection, period, {row.message for row in left if row.period == period})
    return set(connection.execute(_IN_OPEN, {"numbers": numbers}).scalars())


def _bring(connection: Connection, period: int, messages: set[int]) -> None:
    of = {live.name: _of_period(live, period) for live in _MOVED}
    kin, deliveries = _kin(connection, of["message"], of["delivery"], messages)
    keys = {"message": ("id", kin), "delivery": ("id", deliveries), "search_value": ("message", kin)}
    for live in _MOVED:
        closed = of[live.name]
        key, numbers = keys.get(live.name, ("delivery", deliveries))
        these = one_of(closed.c[key], NUMBERS)
        moved = select(*(closed.c[name] for name in closed.c.keys())).where(these)  # noqa: SIM118  # of columns, no dict
        connection.execute(insert(live).from_select(list(closed.c.keys()), moved), {"numbers": sorted(numbers)})
        connection.execute(delete(closed).where(these), {"numbers": sorted(numbers)})


def _kin(
    connection: Connection, message: TableClause, delivery: TableClause, messages: set[int]
) -> tuple[set[int], set[int]]:
    """The messages and deliveries of the trees that these messages are in; all lie in one month."""

    def numbers(query: Any, given: Collection[int]) -> set[int]:
        return set(connection.execute(query, {"numbers": sorted(given)}).scalars()) if given else set()

    makers = select(message.c.parent).where(one_of(message.c.id, NUMBERS), message.c.parent.is_not(None))
    of_delivery = select(delivery.c.message).where(one_of(delivery.c.id, NUMBERS))
    of_message = select(delivery.c.id).where(one_of(delivery.c.message, NUMBERS))
    made = select(message.c.id).where(one_of(message.c.parent, NUMBERS))
    found, new = set(messages), set(messages)
    deliveries: set[int] = set()
    while new:
        their = numbers(of_message, new)
        deliveries |= their
        new = (numbers(of_delivery, numbers(makers, new)) | numbers(made, their)) - found
        found |= new
    return found, deliveries


def hold_month(period: int) -> TextClause:
    """PostgreSQL: to be executed by who changes a closed month; one at a time, until the end of the transaction."""
    return text(f"LOCK TABLE history.message_{period} IN SHARE ROW EXCLUSIVE MODE NOWAIT")


def all_months(live: Table) -> TableClause:
    """PostgreSQL: the table over all months, whatever the connection sees."""
    return table(live.name, *(column(c.name, c.type) for c in live.c), schema="history")


def _of_period(live: Table, period: int) -> TableClause:
    columns = (column(c.name, c.type) for c in live.c if c.name != "period")
    return table(f"{live.name}_{period}", *columns, schema="history")
