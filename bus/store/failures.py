"""What did not go well: dead deliveries by cause and singly, doubts, and one with everything it takes to decide."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Select, func, select

from bus.errors import NotFound
from bus.model.delivery import State
from bus.model.message import Message
from bus.store import tables as t
from bus.store.engine import Database
from bus.store.message_rows import message_of
from bus.store.retired import refuse_retired
from bus.store.states import in_state
from bus.store.views import (
    COUNTED,
    AttemptLine,
    DeliveryLine,
    JournalLine,
    Page,
    attempts_of,
    count_up_to,
    delivery_line,
    journal_of,
    newest_try_of,
    select_deliveries,
)

LOOK_AT = 100_000
"""Deliveries in one state that are grouped or filtered."""

BEHIND = 5
"""Deliveries shown of those that wait behind one."""

_D = t.delivery.c
_M = t.message.c
_RUNNING = frozenset({State.READY, State.CLAIMED, State.SENDING})


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedLine:
    """A dead or doubtful delivery with what its message is about."""

    delivery: DeliveryLine
    type: str
    system: str
    subject: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Deliveries that died of one cause on one route."""

    cause: str
    route: str
    destination: str
    count: int
    oldest: datetime
    newest: datetime
    first: int
    """The lowest delivery number: one to look at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureQuery:
    cause: str = ""
    route: str = ""
    endpoint: str = ""


def dead_groups(database: Database, query: FailureQuery) -> list[Group]:
    """The dead by cause and route, the most frequent first; of the newest LOOK_AT."""
    window = _window(State.DEAD, query, None).subquery("window")
    joined = window.join(t.delivery, _D.id == window.c.id)
    columns = (
        func.count().label("count"),
        func.min(_D.changed_at, type_=_D.changed_at.type).label("oldest"),
        func.max(_D.changed_at, type_=_D.changed_at.type).label("newest"),
        func.min(_D.id).label("first"),
    )
    grouped = (
        select(_D.cause, _D.route, _D.destination, *columns)
        .select_from(joined)
        .group_by(_D.cause, _D.route, _D.destination)
    )
    with database.history() as connection:
        groups = [Group(**row._mapping) for row in connection.execute(grouped)]
    return sorted(groups, key=lambda group: (-group.count, group.cause, group.route))


def list_failures(
    database: Database, state: State, query: FailureQuery, *, limit: int, before: int | None = None
) -> Page[FailedLine]:
    """The newest deliveries in the state, newest first."""
    window = _window(state, query, before).subquery("window")
    with database.history() as connection:
        first = select(window.c.id).order_by(window.c.id.desc()).limit(limit)
        numbers = list(connection.execute(first).scalars())
        more = count_up_to(connection, select(window.c.id), limit + COUNTED) - len(numbers)
        about = {
            row.id: row
            for row in connection.execute(
                select(_D.id, _M.type, _M.system, _M.subject)
                .join(t.message, _M.id == _D.message)
                .where(_D.id.in_(numbers))
            )
        }
        lines = [
            FailedLine(
                delivery=delivery_line(row),
                type=about[row.id].type,
                system=about[row.id].system,
                subject=about[row.id].subject,
            )
            for row in connection.execute(select_deliveries().where(_D.id.in_(numbers)).order_by(_D.id.desc()))
        ]
    return Page(lines, more, more < COUNTED, numbers[-1] if more else None)


def numbers_of_failures(
    database: Database, state: State, query: FailureQuery, *, limit: int, above: int = 0
) -> list[int]:
    """The oldest numbers of deliveries in the state above a number: pages for acting on many."""
    conditions = _conditions(state, query)
    with database.history() as connection:
        found = select(_D.id).where(*conditions, _D.id > above).order_by(_D.id).limit(limit)
        return list(connection.execute(found).scalars())


def count_failures(database: Database, state: State, query: FailureQuery) -> int:
    """How many there are, counted up to LOOK_AT."""
    with database.history() as connection:
        return count_up_to(connection, select(_D.id).where(*_conditions(state, query)), LOOK_AT)


def _conditions(state: State, query: FailureQuery) -> list[Any]:
    conditions: list[Any] = [in_state(_D.state, state)]
    for column, wanted in ((_D.cause, query.cause), (_D.route, query.route), (_D.destination, query.endpoint)):
        if wanted:
            conditions.append(column == wanted)
    return conditions


def _window(state: State, query: FailureQuery, before: int | None) -> Select[Any]:
    window = select(_D.id).where(*_conditions(state, query)).order_by(_D.id.desc()).limit(LOOK_AT)
    return window if before is None else window.where(_D.id < before)


# --- one of them -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Behind:
    """What waits behind a delivery in its lane."""

    count: int
    count_is_exact: bool
    first: list[DeliveryLine]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryDetail:
    """One delivery with its message, attempts, journal, output, and what waits behind it."""

    line: DeliveryLine
    message: Message
    output: tuple[str, str, bytes] | None
    """(type, content type, body) that its transform made: the exact bytes that are sent."""
    attempts: list[AttemptLine]
    """The newest ones, oldest first; the newest that was no probe is always among them."""
    journal: list[JournalLine]
    before: DeliveryLine | None
    """What stands at the head of its lane, where that is another delivery."""
    behind: Behind
    store_now: datetime
    retry_after: timedelta | None
    """Until its retry or probe is due; None: none is planned."""


def delivery_detail(database: Database, number: int) -> DeliveryDetail:
    """Everything about one delivery, whatever its state.

    Raises:
        NotFound: no delivery has this number; or it was dropped with its month, which is said.
    """
    with database.history() as connection:
        row = connection.execute(select_deliveries().where(_D.id == number)).one_or_none()
        if row is None:
            refuse_retired(connection, t.delivery, number)
            raise NotFound(f"no delivery has the number {number}; see: bus dead list, bus message show MESSAGE")
        line = delivery_line(row)
        made = connection.execute(select(t.output).where(t.output.c.delivery == number)).one_or_none()
        message = connection.execute(select(t.message).where(_M.id == line.message)).one()
        now = database.now(connection)
        return DeliveryDetail(
            line=line,
            message=message_of(message),
            output=(made.type, made.content_type, bytes(made.body)) if made is not None else None,
            attempts=_attempts(connection, number),
            journal=journal_of(connection, [number], limit=50),
            before=_head(connection, line),
            behind=_behind(connection, line),
            store_now=now,
            retry_after=line.due_at - now if line.due_at is not None else None,
        )


def _attempts(connection: Connection, number: int) -> list[AttemptLine]:
    newest = attempts_of(connection, [number], limit=50)
    if newest and all(attempt.is_probe for attempt in newest):
        tried = newest_try_of(connection, number)
        return newest if tried is None else [tried, *newest]
    return newest


def _head(connection: Connection, line: DeliveryLine) -> DeliveryLine | None:
    if line.lane_number is None:
        return None
    head = select_deliveries().where(_D.lane == line.lane_number, _D.stands).order_by(_D.place, _D.part).limit(1)
    row = connection.execute(head).one_or_none()
    return None if row is None or row.id == line.number else delivery_line(row)


def _behind(connection: Connection, line: DeliveryLine) -> Behind:
    if line.lane_number is None or not line.stands:
        return Behind(count=0, count_is_exact=True, first=[])
    later = (_D.place > line.place) | ((_D.place == line.place) & (_D.part > line.part))
    standing = (_D.lane == line.lane_number, _D.stands, later)
    count = count_up_to(connection, select(_D.id).where(*standing), COUNTED)
    first = select_deliveries().where(*standing).order_by(_D.place, _D.part).limit(BEHIND)
    return Behind(
        count=count, count_is_exact=count < COUNTED, first=[delivery_line(row) for row in connection.execute(first)]
    )
