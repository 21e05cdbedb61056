"""A past: finished messages as the bus leaves them, made of the rows of one that it carried.

Everything that a message says of itself (its id, its subject, its body, the keys derived from them) is of the new one;
what it had to go through is that of the pattern. They lie one second apart, the newest of them when the pattern began.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Table, select, text

from bus.bench.job import order_id
from bus.model import ledger
from bus.model.delivery import State
from bus.model.message import Message, delivery_key, digest_of
from bus.store import tables as t
from bus.store.bulk import add_rows, draw_numbers
from bus.store.engine import Database
from bus.store.message_rows import message_of

AT_ONCE = 2_000
"""Messages in one transaction."""
APART = timedelta(seconds=1)

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Pattern:
    """The rows of one message with one delivery in a lane of its own."""

    name: str
    """Its message id, which stands in everything that says whose it is."""
    header: Message
    message: Row
    key: Row
    searchable: Sequence[Row]
    lane: Row
    delivery: Row
    output: Row
    attempts: Sequence[Row]
    journal: Sequence[Row]

    @classmethod
    def of(cls, database: Database, name: str) -> Pattern:
        """Those of the message with this id; it is delivered."""
        with database.read() as connection:
            found = connection.execute(select(t.message).where(t.message.c.message_id == name)).one()
            message = dict(found._mapping)
            (delivery,) = _rows(connection, t.delivery, t.delivery.c.message == message["id"])
            number = delivery["id"]
            return cls(
                name=name,
                header=message_of(found),
                message=message,
                key=_rows(connection, t.message_key, t.message_key.c.message_id == name)[0],
                searchable=_rows(connection, t.search_value, t.search_value.c.message == message["id"]),
                lane=_rows(connection, t.lane, t.lane.c.id == delivery["lane"])[0],
                delivery=delivery,
                output=_rows(connection, t.output, t.output.c.delivery == number)[0],
                attempts=_rows(connection, t.attempt, t.attempt.c.delivery == number),
                journal=_rows(connection, t.journal, t.journal.c.delivery == number),
            )


def _rows(connection: Connection, table: Table, condition: Any) -> list[Row]:
    return [dict(row) for row in connection.execute(select(table).where(condition)).mappings()]


def fill(database: Database, pattern: Pattern, *, first: int, count: int) -> None:
    """Put so many messages into an empty store, numbered from `first` on as `order_id` writes it."""
    for start in range(0, count, AT_ONCE):
        part = range(start, min(start + AT_ONCE, count))
        names = [order_id(first + at) for at in part]
        backs = [APART * (count - at) for at in part]
        with database.write() as connection:
            for table, rows in _past(connection, pattern, names, backs):
                add_rows(connection, table, rows)
    with database.write() as connection:
        add_rows(connection, t.total, _totals(pattern, count))
    _tidy(database)


def _past(
    connection: Connection, pattern: Pattern, names: Sequence[str], backs: Sequence[timedelta]
) -> Iterator[tuple[Table, list[Row]]]:
    """Table by table, in the order in which one refers to another."""
    messages = draw_numbers(connection, t.message, len(names))
    lanes = draw_numbers(connection, t.lane, len(names))
    deliveries = draw_numbers(connection, t.delivery, len(names))
    p = pattern
    kept = [
        _message(_like(p.message, p.name, name, back) | {"id": number})
        for name, back, number in zip(names, backs, messages, strict=True)
    ]
    yield t.message, kept
    yield (
        t.message_key,
        [
            _like(p.key, p.name, name, back) | {"digest": each["digest"]}
            for name, back, each in zip(names, backs, kept, strict=True)
        ],
    )
    yield t.search_value, _each(p.searchable, p.name, names, backs, message=messages)
    yield t.lane, _each([p.lane], p.name, names, backs, id=lanes)
    yield (
        t.delivery,
        [
            row | {"key": delivery_key(replace(p.header, id=name), route=row["route"], replay=row["replay"])}
            for row, name in zip(
                _each([p.delivery], p.name, names, backs, id=deliveries, message=messages, lane=lanes),
                names,
                strict=True,
            )
        ],
    )
    yield t.output, _each([p.output], p.name, names, backs, delivery=deliveries)
    yield t.attempt, _each([_without_id(row) for row in p.attempts], p.name, names, backs, delivery=deliveries)
    journal = [_without_id(row) for row in p.journal]
    yield t.journal, _each(journal, p.name, names, backs, delivery=deliveries, message=messages)


def _each(
    rows: Sequence[Row], old: str, names: Sequence[str], backs: Sequence[timedelta], **columns: Sequence[int]
) -> list[Row]:
    """The rows once for each name, with the values of these columns that go with it."""
    return [
        _like(row, old, name, back) | {column: values[at] for column, values in columns.items()}
        for at, (name, back) in enumerate(zip(names, backs, strict=True))
        for row in rows
    ]


def _like(row: Row, old: str, name: str, back: timedelta) -> Row:
    """The row, of another message and of an earlier time."""
    return {column: _of(value, old, name, back) for column, value in row.items()}


def _of(value: Any, old: str, name: str, back: timedelta) -> Any:
    if isinstance(value, str):
        return value.replace(old, name)
    if isinstance(value, bytes):
        return value.replace(old.encode(), name.encode())
    return value - back if isinstance(value, datetime) else value


def _message(row: Row) -> Row:
    return row | {"digest": digest_of(row["type"], row["subject"], row["content_type"], row["body"])}


def _without_id(row: Row) -> Row:
    return {column: value for column, value in row.items() if column != "id"}


def _totals(pattern: Pattern, count: int) -> list[Row]:
    """As they stand after the relay folded them."""
    delivery = pattern.delivery
    one: Counter[tuple[str, str]] = Counter({("received", ""): 1, ("accepted", ""): 1})
    one[ledger.disposition(pattern.message["planned"], pattern.message["entering"]), ""] += 1
    one += ledger.planned_delivery(delivery["destination"], delivery["route"], State(delivery["state"]))
    return [{"measure": measure, "route": route, "amount": amount * count} for (measure, route), amount in one.items()]


def _tidy(database: Database) -> None:
    """What a database that grew this far in months would have done meanwhile."""
    if database.is_sqlite:
        database.checkpoint()
        return
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM (ANALYZE)"))
