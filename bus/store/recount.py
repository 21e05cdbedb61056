"""What the ledger would say, counted from the rows: of all that is kept, or of one period."""

from __future__ import annotations

from collections import Counter
from typing import Any

from sqlalchemy import Connection, Table, case, func, or_, select

from bus.model import ledger
from bus.model.delivery import FINAL, State
from bus.model.message import BUS
from bus.store import tables as t

_M = t.message.c
_D = t.delivery.c
_FINAL = [str(state) for state in FINAL]


def recount(connection: Connection, *, period: int | None = None) -> ledger.Deltas:
    """(measure, route) → amount, from the rows that the connection sees; `period`: of these alone that lie in it."""
    found: ledger.Deltas = Counter()
    receipt = t.receipt.c
    kinds = select(receipt.kind, func.count().label("rows")).where(*_in(t.receipt, period))
    for row in connection.execute(kinds.group_by(receipt.kind)):
        found[row.kind, ""] += row.rows
        found["received", ""] += row.rows
    received = case((_M.parent.is_(None), 1), else_=0)
    planned = case((_M.planned > 0, 1), else_=0)
    entering = case((_M.entering > 0, 1), else_=0)
    grouped = select(received.label("received"), planned.label("planned"), entering.label("entering"), func.count())
    for row in connection.execute(grouped.where(*_in(t.message, period)).group_by(received, planned, entering)):
        rows = row[3]
        found["received" if row.received else "produced", ""] += rows
        found["accepted", ""] += rows if row.received else 0
        found[ledger.disposition(row.planned, row.entering), ""] += rows
    counted = or_(_D.destination != BUS, _D.state.in_(_FINAL))
    by_route = select(_D.route, _D.state, func.count().label("rows")).where(counted, *_in(t.delivery, period))
    for row in connection.execute(by_route.group_by(_D.route, _D.state)):
        found["planned", row.route] += row.rows
        found[ledger.bucket(State(row.state)), row.route] += row.rows
    return found


def _in(table: Table, period: int | None) -> list[Any]:
    return [] if period is None else [table.c.period == period]
