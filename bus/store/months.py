"""The months of PostgreSQL: the open one that the bus works on, the closed ones, and the turn from one to the next.

SQLite has one period, which stays open.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, Select, bindparam, func, select, table, text, union_all

from bus.model.delivery import FINAL, State
from bus.ports import Actor, MonthTurn
from bus.store import tables as t
from bus.store.engine import MONTHLY, Database
from bus.store.periods import month_of, name_of
from bus.store.states import HELD, in_state
from bus.store.transaction import SqlTransaction
from bus.store.views import COUNTED, count_up_to

MOVED_AT_MOST = 20_000
"""Deliveries that are not ended and move along with a turn: everybody waits for a second or two meanwhile."""

_P = t.period.c
_D = t.delivery.c
_M = t.message.c
_OPEN = select(_P.number, _P.began_at).where(_P.closed_at.is_(None))
_TURN = select(func.history.turn(bindparam("expected"), bindparam("at_most")))
_SIZES = text(
    "SELECT name, c.reltuples AS rows, pg_total_relation_size(c.oid) AS bytes FROM unnest(CAST(:names AS text[])) name "
    "JOIN pg_class c ON c.oid = to_regclass(name)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Month:
    """One period of the store, nearly always a month by UTC; `2026-01 to 2026-03` where nobody turned it in time."""

    period: int
    name: str
    state: str
    """open, closed or retired."""
    began_at: datetime
    closed_at: datetime | None
    messages: int
    deliveries: int
    is_exact: bool
    """False: the database's own estimate; counting would read the whole month."""
    bytes: int
    not_ended: int
    """Counted up to COUNTED. Of a closed one: deliveries of messages accepted in it, which moved along."""
    moved_along: int
    """Messages that went on into the next period when it was turned, for they or their kin were not ended."""
    retired_at: datetime | None
    actor: str
    reason: str


def months(database: Database) -> list[Month]:
    """All periods, the oldest first; what was retired is told by what was noted then."""
    with database.read() as connection:
        return [_month(connection, row) for row in connection.execute(select(t.period).order_by(_P.number)).all()]


def _month(connection: Connection, row: Any) -> Month:
    not_ended = 0
    if row.retired_at is None:
        unended = _unended() if row.closed_at is None else unended_of(row.began_at, row.closed_at)
        not_ended = count_up_to(connection, unended, COUNTED)
    extent = _extent(connection, row)
    return Month(
        period=row.number,
        name=name_of(row.began_at, row.closed_at),
        state="retired" if row.retired_at is not None else "open" if row.closed_at is None else "closed",
        began_at=row.began_at,
        closed_at=row.closed_at,
        messages=extent.messages,
        deliveries=extent.deliveries,
        is_exact=extent.is_exact,
        bytes=extent.bytes,
        not_ended=not_ended,
        moved_along=row.moved_along,
        retired_at=row.retired_at,
        actor=row.actor,
        reason=row.reason,
    )


class _Extent(NamedTuple):
    messages: int
    deliveries: int
    is_exact: bool
    bytes: int


def _extent(connection: Connection, row: Any) -> _Extent:
    if row.retired_at is not None:
        rows = json.loads(row.rows)
        return _Extent(rows["message"], rows["delivery"], is_exact=True, bytes=0)
    if connection.dialect.name == "sqlite":
        pages, each = (
            connection.exec_driver_sql(f"PRAGMA {name}").scalar_one() for name in ("page_count", "page_size")
        )
        return _Extent(_count(connection, "message"), _count(connection, "delivery"), is_exact=True, bytes=pages * each)
    closed = "" if row.closed_at is None else f"_{row.number}"
    of = {name: f"history.{name}{closed}" if closed else name for name in MONTHLY}
    found = {one.name: one for one in connection.execute(_SIZES, {"names": list(of.values())})}
    estimates = [int(found[of[name]].rows) for name in ("message", "delivery")]
    # What autovacuum never looked at is small: it is counted.
    messages, deliveries = (
        estimate if estimate >= 0 else _count(connection, f"{name}{closed}", schema="history" if closed else None)
        for name, estimate in zip(("message", "delivery"), estimates, strict=True)
    )
    size = sum(one.bytes for one in found.values())
    return _Extent(messages, deliveries, is_exact=all(estimate < 0 for estimate in estimates), bytes=int(size))


def _count(connection: Connection, name: str, *, schema: str | None = None) -> int:
    return int(connection.execute(select(func.count()).select_from(table(name, schema=schema))).scalar_one())


def unended_of(began_at: datetime, closed_at: datetime) -> Select[Any]:
    """The deliveries that are not ended, of messages accepted in a closed period: the open one has them."""
    accepted = (_M.accepted_at >= began_at, _M.accepted_at < closed_at)
    joined = t.delivery.join(t.message, _M.id == _D.message)
    return select(_D.id).select_from(joined).where(*accepted, _D.state.not_in([str(state) for state in FINAL]))


def _unended() -> Select[Any]:
    """All that are not ended, state by state: each has an index that holds no others."""
    waiting = select(_D.id).where(in_state(_D.state, State.WAITING), _D.stands)
    held = select(_D.id).where(in_state(_D.state, *HELD))
    others = (State.READY, State.RETRYING, State.IN_DOUBT, State.DEAD)
    by_state = union_all(waiting, held, *(select(_D.id).where(in_state(_D.state, state)) for state in others))
    return select(by_state.subquery("unended"))


def turn_month(database: Database, *, actor: Actor) -> MonthTurn | None:
    """See MessageStore.turn_month."""
    if database.is_sqlite:
        return None
    with database.look() as connection:
        row = connection.execute(_OPEN.add_columns(func.clock_timestamp().label("now"))).one()
    if month_of(row.now) <= month_of(row.began_at):
        return None
    with database.write() as connection:
        moved = connection.execute(_TURN, {"expected": row.number, "at_most": MOVED_AT_MOST}).scalar_one()
        if moved is None:
            return None
        name = name_of(row.began_at, row.now)
        if moved < 0:
            return MonthTurn(month=name, moved_along=0, is_put_off=True)
        transaction = SqlTransaction(database, connection)
        detail = f"{moved} messages moved along: they, or what they belong to, are not ended"
        transaction.write_journal(actor, "turn", old=name, new=month_of(row.now), detail=detail)
        transaction.finish()
        return MonthTurn(month=name, moved_along=moved, is_put_off=False)
