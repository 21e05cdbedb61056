"""Endpoint rows: open, paused or tripped; why, by whom, since when, and when to check again."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from sqlalchemy import bindparam, literal, select, update

from bus.model.delivery import State
from bus.ports import Actor, EndpointRow
from bus.store import tables as t
from bus.store.clock import store_clock
from bus.store.engine import Database
from bus.store.states import in_state
from bus.store.transaction import SqlTransaction

_E = t.endpoint.c


_D = t.delivery.c
_OF_QUEUE = select(_D.id).where(_D.queue == bindparam("of_queue"))
_DOUBT_IS_DUE = _OF_QUEUE.where(in_state(_D.state, State.IN_DOUBT), _D.due_at <= store_clock()).exists()
_HAS_READY = _OF_QUEUE.where(in_state(_D.state, State.READY)).exists()
_ONE_ROW = select(literal(1).label("one")).subquery("one_row")
_CHECK_IS_DUE = (_E.state == "tripped") & (_E.check_at.is_(None) | (_E.check_at <= store_clock()))
_LOOK = select(
    t.endpoint,
    _CHECK_IS_DUE.label("check_is_due"),
    _DOUBT_IS_DUE.label("doubt_is_due"),
    _HAS_READY.label("has_ready"),
).select_from(_ONE_ROW.outerjoin(t.endpoint, _E.name == bindparam("of_name")))


def endpoint(database: Database, name: str) -> EndpointRow:
    """The row of an endpoint; one without a row is open."""
    with database.look() as connection:
        row = connection.execute(_LOOK, {"of_name": name, "of_queue": f"send.{name}"}).one()
    if row.name is None:
        return EndpointRow(
            name=name,
            state="open",
            cause="",
            detail="",
            since=None,
            checks=0,
            check_is_due=False,
            doubt_is_due=row.doubt_is_due,
            has_ready=row.has_ready,
        )
    return EndpointRow(
        name=name,
        state=row.state,
        cause=row.cause,
        detail=row.detail,
        since=row.since,
        checks=row.checks,
        check_is_due=row.check_is_due,
        doubt_is_due=row.doubt_is_due,
        has_ready=row.has_ready,
    )


def trip(database: Database, name: str, *, cause: str, detail: str, check_in: timedelta, actor: Actor) -> bool:
    """Open → tripped; a paused or tripped one stays as it is. Returns whether it changed."""
    return _change(
        database, name, {"open"}, "tripped", actor=actor, cause=cause, detail=detail, check_in=check_in, checks=0
    )


def reopen(database: Database, name: str, *, actor: Actor) -> bool:
    """Tripped → open."""
    return _change(database, name, {"tripped"}, "open", actor=actor)


def put_off_check(database: Database, name: str, *, check_in: timedelta, cause: str, detail: str) -> bool:
    """Take the check that is due, or write down how it ended: the next one comes later. False: another took it."""
    with database.write() as connection:
        now = database.now(connection)
        row = connection.execute(select(t.endpoint).where(_E.name == name).with_for_update()).one_or_none()
        if row is None or row.state != "tripped":
            return False
        if not cause and row.check_at is not None and row.check_at > now:
            return False
        values: dict[str, Any] = {"check_at": now + check_in}
        values |= {"cause": cause, "detail": detail} if cause else {"checks": row.checks + 1}
        connection.execute(update(t.endpoint).where(_E.name == name).values(values))
        return True


def _change(
    database: Database,
    name: str,
    expected: set[str],
    state: str,
    *,
    actor: Actor,
    cause: str = "",
    detail: str = "",
    check_in: timedelta | None = None,
    checks: int = 0,
) -> bool:
    with database.write() as connection:
        transaction = SqlTransaction(database, connection)
        now = transaction.now
        old = _lock(transaction, name)
        if old not in expected:
            return False
        values = {
            "state": state,
            "cause": cause,
            "detail": detail[:2000],
            "since": now,
            "check_at": now + check_in if check_in is not None else None,
            "checks": checks,
            "actor": actor.name,
        }
        connection.execute(update(t.endpoint).where(_E.name == name).values(values))
        transaction.write_journal(actor, "endpoint", endpoint=name, old=old, new=state, cause=cause, detail=detail)
        return True


def _lock(transaction: SqlTransaction, name: str) -> str:
    """Lock the endpoint's row and return its state; made first, so that of two who come at once one waits."""
    row = {"state": "open", "cause": "", "detail": "", "since": transaction.now, "checks": 0, "actor": ""}
    transaction.execute(transaction.insert(t.endpoint).values(name=name, **row).on_conflict_do_nothing())
    state: str = transaction.execute(select(_E.state).where(_E.name == name).with_for_update()).scalar_one()
    return state
