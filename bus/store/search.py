"""Find messages: by what they are, by how they went, by what their documents say; bounded however long the history."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, func, literal, select

from bus.model.delivery import State
from bus.model.message import Message
from bus.store import tables as t
from bus.store.engine import Database
from bus.store.message_rows import message_of
from bus.store.states import in_state
from bus.store.views import (
    COUNTED,
    MESSAGE_COLUMNS,
    MessageLine,
    Page,
    count_up_to,
    message_line,
    states_of,
)
from bus.store.work import chunks

LOOK_AT = 50_000
"""Rows of one index range that the other filters are tried on; what lies behind is a next page."""

READ_AT_MOST = 5_000
"""Bodies read for one page of a search by a path that no contract declares searchable."""

_M = t.message.c
_D = t.delivery.c
_S = t.search_value.c
_SKEW = timedelta(minutes=1)
"""By how much the order of numbers may differ from that of times: a transaction is far shorter."""
_FEW = frozenset(State) - {State.DELIVERED, State.DISCARDED}
"""States that few deliveries are in at a time, each with an index: the search starts from them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageQuery:
    """What to look for; everything given must hold. `where`: (path, value) of paths contracts declare searchable."""

    type: str = ""
    system: str = ""
    subject: str = ""
    correlation: str = ""
    state: State | None = None
    """Some delivery of the message is in this state."""
    unrouted: bool = False
    since: datetime | None = None
    until: datetime | None = None
    """Times of acceptance, both included."""
    document: str = ""
    """A target gave some delivery of the message this number."""
    where: tuple[tuple[str, str], ...] = ()


Matches = Callable[[Message], bool]


def list_messages(
    database: Database, query: MessageQuery, *, limit: int, before: int | None = None, matches: Matches | None = None
) -> Page[MessageLine]:
    """The newest messages that fit, newest first; `matches` is asked with the whole message where it is given.

    One index range is read, chosen by the most telling filter; the others are tried on at most LOOK_AT of its rows
    (`matches` on READ_AT_MOST), and the page says when that was not all.
    """
    with database.history() as connection:
        if query == MessageQuery() and matches is None:
            return _newest(connection, before, limit)
        bounds = _Bounds.of(connection, query, before)
        if bounds is None:
            return Page([])
        window = _window(query, bounds)
        found = _filtered(query, window)
        if matches is not None:
            page = _read_and_match(connection, found, matches, limit)
            return page if page.goes_on_at is not None else _with_what_was_not_seen(connection, page, query, bounds)
        rows = connection.execute(found.limit(limit)).all()
        lines = _lines(connection, rows)
        if len(rows) == limit and (more := count_up_to(connection, found, limit + COUNTED) - limit):
            return Page(lines, more, more < COUNTED, rows[-1].id)
        return _with_what_was_not_seen(connection, Page(lines), query, bounds)


def _with_what_was_not_seen(
    connection: Connection, page: Page[MessageLine], query: MessageQuery, bounds: _Bounds
) -> Page[MessageLine]:
    """All that fits in the window is on the page: where the window ended at LOOK_AT, the search goes on behind it."""
    window = _window(query, bounds)
    seen = connection.execute(_seen(window)).one()
    is_full = seen.rows == LOOK_AT
    if query.state is not None and _starts_from_state(query):
        few = select(func.count()).select_from(_in_few(query.state, bounds))
        is_full |= connection.execute(few).scalar_one() == LOOK_AT
    return replace(page, goes_on_at=seen.oldest, looked_at=LOOK_AT) if is_full else page


def _newest(connection: Connection, before: int | None, limit: int) -> Page[MessageLine]:
    """Where nothing is filtered: no more rows are read than are shown, and only numbers are counted."""
    messages = select(*MESSAGE_COLUMNS)
    if before is not None:
        messages = messages.where(_M.id < before)
    rows = connection.execute(messages.order_by(_M.id.desc()).limit(limit)).all()
    lines = _lines(connection, rows)
    # Without an order, so that SQLite counts in one of the small indexes instead of among the bodies.
    more = count_up_to(connection, messages.with_only_columns(_M.id), limit + COUNTED) - limit
    return Page(lines, more, more < COUNTED, rows[-1].id) if more > 0 else Page(lines)


@dataclass(frozen=True, slots=True)
class _Bounds:
    """Between which numbers (both excluded) the messages of the asked time lie."""

    above: int
    below: int | None

    @classmethod
    def of(cls, connection: Connection, query: MessageQuery, before: int | None) -> _Bounds | None:
        above, below = 0, before
        if query.since is not None:
            first = select(_M.id).where(_M.accepted_at >= query.since - _SKEW).order_by(_M.accepted_at, _M.id).limit(1)
            number = connection.execute(first).scalar()
            if number is None:
                return None
            above = number - 1
        if query.until is not None:
            last = select(_M.id).where(_M.accepted_at <= query.until + _SKEW)
            number = connection.execute(last.order_by(_M.accepted_at.desc(), _M.id.desc()).limit(1)).scalar()
            if number is None:
                return None
            below = number + 1 if below is None else min(below, number + 1)
        return cls(above, below)

    def hold(self, number: ColumnElement[Any]) -> list[ColumnElement[bool]]:
        return [number > self.above] + ([number < self.below] if self.below is not None else [])


def _window(query: MessageQuery, bounds: _Bounds) -> Any:
    """The newest LOOK_AT messages of the one index range the search reads.

    With all their columns: the other filters look at these, so that no plan can join the range with another one.
    """
    messages = select(*MESSAGE_COLUMNS)
    if query.document:
        booked = select(_D.message.label("id")).distinct().where(*_is_document(query), *bounds.hold(_D.message))
        messages = _of_numbers(messages, booked.order_by(_D.message.desc()).limit(LOOK_AT))
    elif query.correlation:
        messages = messages.where(_M.correlation_id == query.correlation)
    elif query.where:
        path, value = query.where[0]
        named = select(_S.message.label("id")).where(_S.path == path, _S.value == value[:500], *bounds.hold(_S.message))
        messages = _of_numbers(messages, named.order_by(_S.message.desc()).limit(LOOK_AT))
    elif query.subject:
        messages = messages.where(_M.subject == query.subject)
    elif query.state is not None and _starts_from_state(query):
        few = _in_few(query.state, bounds)
        newest = select(few.c.message.label("id")).distinct()
        messages = _of_numbers(messages, newest.order_by(few.c.message.desc()).limit(LOOK_AT))
    elif query.type:
        messages = messages.where(_M.type == query.type)
    elif query.system:
        messages = messages.where(_M.system == query.system)
    return messages.where(*bounds.hold(_M.id)).order_by(_M.id.desc()).limit(LOOK_AT).subquery("window")


def _starts_from_state(query: MessageQuery) -> bool:
    return query.state in _FEW and not (query.document or query.correlation or query.where or query.subject)


def _is_document(query: MessageQuery) -> list[ColumnElement[bool]]:
    # "<> ''" as it stands in the index: with the number as a parameter alone, its index would not be seen to serve.
    return [_D.document != literal("", literal_execute=True), _D.document == query.document]


def _of_numbers(messages: Select[Any], numbers: Select[Any]) -> Select[Any]:
    few = numbers.subquery("numbers")
    return messages.join(few, few.c.id == _M.id)


def _in_few(state: State, bounds: _Bounds) -> Any:
    """The newest messages of at most LOOK_AT deliveries in the state.

    Their numbers as an expression: no plan reads the index of messages then, instead of the state's.
    """
    number = _D.message + 0
    few = select(_D.message).where(in_state(_D.state, state), *bounds.hold(number))
    if state is State.WAITING:
        few = few.where(_D.stands)
    return few.order_by(number.desc()).limit(LOOK_AT).subquery("few")


def _filtered(query: MessageQuery, window: Any) -> Select[Any]:
    conditions: list[ColumnElement[bool]] = []
    w = window.c
    for column, wanted in (
        (w.type, query.type),
        (w.system, query.system),
        (w.subject, query.subject),
        (w.correlation_id, query.correlation),
    ):
        if wanted:
            conditions.append(column == wanted)
    if query.since is not None:
        conditions.append(w.accepted_at >= query.since)
    if query.until is not None:
        conditions.append(w.accepted_at <= query.until)
    if query.unrouted:
        conditions.append(w.planned == 0)
    if query.state is not None and not _starts_from_state(query):
        conditions.append(_has_delivery(w.id, query.state))
    for path, value in query.where:
        named = select(_S.message).where(_S.path == path, _S.value == value[:500], _S.message == w.id)
        conditions.append(named.exists())
    return select(window).where(*conditions).order_by(w.id.desc())


def _has_delivery(message: ColumnElement[Any], state: State) -> ColumnElement[bool]:
    # The state as a parameter: as a literal it would tempt SQLite to read the state's index for every message.
    return select(_D.id).where(_D.message == message, _D.state == str(state)).exists()


def _seen(window: Any) -> Select[Any]:
    return select(func.count().label("rows"), func.min(window.c.id).label("oldest")).select_from(window)


def _lines(connection: Connection, rows: Sequence[Any]) -> list[MessageLine]:
    states = states_of(connection, [row.id for row in rows])
    return [message_line(row, states[row.id]) for row in rows]


def _read_and_match(connection: Connection, found: Select[Any], matches: Matches, limit: int) -> Page[MessageLine]:
    candidates = connection.execute(found.limit(READ_AT_MOST)).all()
    kept: list[Any] = []
    read = 0
    for part in chunks(candidates, 100):
        bodies = _messages(connection, [row.id for row in part])
        for row in part:
            read += 1
            if matches(bodies[row.id]):
                kept.append(row)
                if len(kept) == limit:
                    break
        if len(kept) == limit:
            break
    left = read < len(candidates) or len(candidates) == READ_AT_MOST
    goes_on = candidates[read - 1].id if left and read else None
    cut = read if left and len(kept) < limit else None
    # How many more there are nobody knows before they are read.
    return Page(_lines(connection, kept), 1 if left else 0, not left, goes_on, cut)


def _messages(connection: Connection, numbers: Sequence[int]) -> Mapping[int, Message]:
    return {row.id: message_of(row) for row in connection.execute(select(t.message).where(_M.id.in_(numbers)))}
