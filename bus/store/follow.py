"""Follow a message: everything about one, and the tree of causes from the first message to the last document number."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select

from bus.errors import NotFound
from bus.model.message import Message
from bus.store import tables as t
from bus.store.engine import Database
from bus.store.message_rows import message_of
from bus.store.retired import refuse_retired
from bus.store.views import (
    MESSAGE_COLUMNS,
    AttemptLine,
    DeliveryLine,
    JournalLine,
    MessageLine,
    attempts_of,
    deliveries_of,
    journal_of,
    message_line,
    states_of,
)
from bus.store.work import chunks

SHOWN = 200
"""Deliveries, attempts and journal rows shown of one message."""

TRACED = 500
"""Messages in one trace."""

KIN = 200
"""A trace takes in the other messages of the subject where these are no more: an order's life, not a machine's."""

_M = t.message.c
_D = t.delivery.c


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageDetail:
    """One message with its body, its deliveries, their attempts, what people and workers did, and its kin."""

    line: MessageLine
    message: Message
    parent_message: int | None
    """The message whose delivery made it."""
    deliveries: list[DeliveryLine]
    attempts: list[AttemptLine]
    journal: list[JournalLine]
    children: list[MessageLine]
    """What its deliveries made."""


def message_numbers(database: Database, name: str, *, limit: int = 20) -> list[int]:
    """The numbers of the messages that bear this id, newest first: a system's id of a fact, as its logs show it."""
    query = select(_M.id).where(_M.message_id == name).order_by(_M.id.desc()).limit(limit)
    with database.history() as connection:
        return list(connection.execute(query).scalars())


def message_detail(database: Database, number: int) -> MessageDetail:
    """Everything about one message.

    Raises:
        NotFound: no message has this number; or it was dropped with its month, which is said.
    """
    with database.history() as connection:
        row = connection.execute(select(t.message).where(_M.id == number)).one_or_none()
        if row is None:
            refuse_retired(connection, t.message, number)
            raise NotFound(f"no message has the number {number}; see: bus message list")
        deliveries = deliveries_of(connection, [number], limit=SHOWN)
        numbers = [delivery.number for delivery in deliveries]
        parent = select(_D.message).where(_D.id == row.parent)
        children = _made_by(connection, numbers, limit=SHOWN)
        return MessageDetail(
            line=message_line(row, states_of(connection, [number])[number]),
            message=message_of(row),
            parent_message=connection.execute(parent).scalar() if row.parent is not None else None,
            deliveries=deliveries,
            attempts=attempts_of(connection, numbers, limit=SHOWN),
            journal=journal_of(connection, numbers, limit=SHOWN),
            children=[message_line(child, {}) for child in children],
        )


# --- trace -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TracedDelivery:
    """A delivery in the tree, with the messages its transform made."""

    line: DeliveryLine
    made: list[TracedMessage]


@dataclass(frozen=True, slots=True)
class TracedMessage:
    """A message in the tree: its deliveries, and the messages that name it as their cause."""

    line: MessageLine
    deliveries: list[TracedDelivery]
    caused: list[TracedMessage]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """The tree of causes around one message; several roots where messages of a correlation or subject name no cause."""

    asked: int
    subject: str
    correlation_id: str
    roots: list[TracedMessage]
    messages: int
    is_cut: bool
    """There are more than TRACED messages; the tree holds the oldest."""
    kin_left_out: bool
    """The subject has more than KIN messages: those that are not of this correlation are left out."""


def trace(database: Database, number: int) -> Trace:
    """The tree of causes that a message belongs to: by parent delivery, causation, correlation and subject.

    Raises:
        NotFound: no message has this number; or it was dropped with its month, which is said.
    """
    with database.history() as connection:
        asked = connection.execute(select(*MESSAGE_COLUMNS).where(_M.id == number)).one_or_none()
        if asked is None:
            refuse_retired(connection, t.message, number)
            raise NotFound(f"no message has the number {number}; see: bus message list")
        rows, kin_left_out = _collect(connection, asked)
        numbers = sorted(rows)
        is_cut = len(numbers) > TRACED
        numbers = numbers[:TRACED] if not is_cut or number in numbers[:TRACED] else [*numbers[: TRACED - 1], number]
        states = states_of(connection, numbers)
        lines = {n: message_line(rows[n], states[n]) for n in numbers}
        deliveries = deliveries_of(connection, numbers, limit=TRACED * 10)
    return Trace(
        asked=number,
        subject=asked.subject,
        correlation_id=asked.correlation_id,
        roots=_grow(lines, deliveries),
        messages=len(rows),
        is_cut=is_cut,
        kin_left_out=kin_left_out,
    )


def _collect(connection: Connection, asked: Any) -> tuple[dict[int, Any], bool]:
    """The rows of every message of the tree, a little more than TRACED at the most; whether kin was left out."""
    rows = {asked.id: asked}
    new = [asked]
    correlations: set[str] = set()
    subjects: set[str] = {""}
    kin_left_out = False
    while new and len(rows) <= TRACED:
        found = [*_ancestors(connection, new), *_caused_by(connection, new)]
        found += _related(connection, {row.correlation_id for row in new} - correlations)
        correlations |= {row.correlation_id for row in new}
        for subject in {row.subject for row in new} - subjects:
            kin = _kin(connection, subject)
            kin_left_out |= len(kin) > KIN
            found += kin if len(kin) <= KIN else []
        subjects |= {row.subject for row in new}
        new = [row for row in {row.id: row for row in found}.values() if row.id not in rows]
        rows.update({row.id: row for row in new})
    return rows, kin_left_out


def _ancestors(connection: Connection, rows: Sequence[Any]) -> Iterable[Any]:
    """The messages whose deliveries made these, and those they name as their causes."""
    parents = [row.parent for row in rows if row.parent is not None]
    for part in chunks(parents):
        query = select(*MESSAGE_COLUMNS).join(t.delivery, _D.message == _M.id).where(_D.id.in_(part))
        yield from connection.execute(query)
    causes = sorted({row.causation_id for row in rows if row.parent is None and row.causation_id})
    for names in chunks(causes):
        yield from connection.execute(select(*MESSAGE_COLUMNS).where(_M.message_id.in_(names)).limit(TRACED + 1))


def _related(connection: Connection, correlations: set[str]) -> Iterable[Any]:
    """Those of the same correlations, oldest first."""
    for part in chunks(sorted(correlations - {""})):
        query = select(*MESSAGE_COLUMNS).where(_M.correlation_id.in_(part)).order_by(_M.id).limit(TRACED + 1)
        yield from connection.execute(query)


def _caused_by(connection: Connection, rows: Sequence[Any]) -> Iterable[Any]:
    """What the deliveries of these made."""
    numbers = [row.id for row in rows]
    for part in chunks(numbers):
        made = select(_D.id).where(_D.message.in_(part))
        yield from _made_by(connection, list(connection.execute(made).scalars()), limit=TRACED + 1)


def _made_by(connection: Connection, deliveries: Collection[int], *, limit: int) -> list[Any]:
    found: list[Any] = []
    for part in chunks(sorted(deliveries)):
        query = select(*MESSAGE_COLUMNS).where(_M.parent.in_(part)).order_by(_M.id).limit(limit - len(found))
        found += connection.execute(query)
        if len(found) >= limit:
            break
    return found


def _kin(connection: Connection, subject: str) -> list[Any]:
    query = select(*MESSAGE_COLUMNS).where(_M.subject == subject).order_by(_M.id).limit(KIN + 1)
    return list(connection.execute(query))


def _grow(lines: dict[int, MessageLine], deliveries: Sequence[DeliveryLine]) -> list[TracedMessage]:
    """Put the messages below what made or caused them, each once; oldest first everywhere."""
    known = {delivery.number for delivery in deliveries}
    of_message: dict[int, list[DeliveryLine]] = defaultdict(list)
    for delivery in deliveries:
        of_message[delivery.message].append(delivery)
    by_name = {line.id: number for number, line in sorted(lines.items(), reverse=True)}
    made: dict[int, list[int]] = defaultdict(list)
    caused: dict[int, list[int]] = defaultdict(list)
    roots = []
    for number, line in sorted(lines.items()):
        cause = by_name.get(line.causation_id) if line.causation_id else None
        if line.parent is not None and line.parent in known:
            made[line.parent].append(number)
        # A cause is older than its effect; anything else would close a ring.
        elif cause is not None and cause < number:
            caused[cause].append(number)
        else:
            roots.append(number)
    grown: dict[int, TracedMessage] = {}
    for number in sorted(lines, reverse=True):
        ways = [TracedDelivery(line, [grown[n] for n in made[line.number]]) for line in of_message[number]]
        grown[number] = TracedMessage(lines[number], ways, [grown[n] for n in caused[number]])
    return [grown[number] for number in roots]
