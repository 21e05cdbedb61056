"""What reading the store yields: messages, deliveries and attempts as people look at them, and pages of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any, Generic, TypeVar

from sqlalchemy import Connection, Select, func, select

from bus.store import tables as t
from bus.store.work import chunks

T = TypeVar("T")

PROBE = "probe:"
"""How the outcome of an attempt begins that only asked the target."""

COUNTED = 10_000
"""How far matches beyond a page are counted: a number nobody reads is not worth a scan."""


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """The first matches, and what is known of the others."""

    items: list[T]
    more: int = 0
    """Matches beyond these, counted up to COUNTED."""
    more_is_exact: bool = True
    goes_on_at: int | None = None
    """Pass it as `before` for what follows; None: there is nothing more."""
    looked_at: int | None = None
    """Set where the search stopped after this many rows without having seen all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageLine:
    """A message without its body; `deliveries` counts them by state."""

    number: int
    id: str
    type: str
    system: str
    site: str
    subject: str
    correlation_id: str
    causation_id: str
    content_type: str
    time: datetime | None
    sequence: int | None
    business_date: date | None
    accepted_at: datetime
    parent: int | None
    """The delivery whose transform made it; None: received."""
    planned: int
    entering: int
    deliveries: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryLine:
    """A delivery as it stands; `lane` is `destination/key`, empty where it is unordered."""

    number: int
    message: int
    route: str
    destination: str
    stage: str
    state: str
    lane: str
    lane_number: int | None
    place: int
    part: int
    stands: bool
    attempts: int
    deaths: int
    replay: int
    key: str
    produced: int | None
    cause: str
    detail: str
    document: str
    worker: str
    due_at: datetime | None
    created_at: datetime
    changed_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptLine:
    """One try of a delivery: what was sent and what came back, secrets masked before they were stored."""

    delivery: int
    number: int
    stage: str
    began_at: datetime
    ended_at: datetime
    outcome: str
    cause: str
    detail: str
    document: str
    worker: str
    digests: str
    late: bool
    sent: bytes
    received: bytes

    @property
    def is_probe(self) -> bool:
        """It asked the target whether an earlier attempt had happened; nothing was to be delivered by it."""
        return self.outcome.startswith(PROBE)


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalLine:
    """Who did what to a delivery, when and why."""

    at: datetime
    actor: str
    login: str
    act: str
    reason: str
    delivery: int | None
    old: str
    new: str
    cause: str
    detail: str


MESSAGE_COLUMNS = [column for column in t.message.c if column.name not in ("body", "digest")]


def message_line(row: Any, deliveries: Mapping[str, int]) -> MessageLine:
    return MessageLine(
        number=row.id,
        id=row.message_id,
        type=row.type,
        system=row.system,
        site=row.site,
        subject=row.subject,
        correlation_id=row.correlation_id,
        causation_id=row.causation_id,
        content_type=row.content_type,
        time=row.time,
        sequence=row.sequence,
        business_date=row.business_date,
        accepted_at=row.accepted_at,
        parent=row.parent,
        planned=row.planned,
        entering=row.entering,
        deliveries=deliveries,
    )


def states_of(connection: Connection, messages: Sequence[int]) -> dict[int, dict[str, int]]:
    """How many deliveries of each message are in which state."""
    d = t.delivery.c
    found: dict[int, dict[str, int]] = {number: {} for number in messages}
    for part in chunks(messages):
        query = select(d.message, d.state, func.count().label("count")).where(d.message.in_(part))
        for row in connection.execute(query.group_by(d.message, d.state).order_by(d.message, d.state)):
            found[row.message][row.state] = row._mapping["count"]
    return found


def select_deliveries() -> Select[Any]:
    """Deliveries with the names of their lanes, to be narrowed by the caller."""
    columns = [column for column in t.delivery.c if column.name not in ("queue", "blocks", "token", "trips", "tries")]
    lane = [t.lane.c.destination.label("lane_destination"), t.lane.c.key.label("lane_key")]
    return select(*columns, *lane).select_from(t.delivery.outerjoin(t.lane, t.lane.c.id == t.delivery.c.lane))


def delivery_line(row: Any) -> DeliveryLine:
    return DeliveryLine(
        number=row.id,
        message=row.message,
        route=row.route,
        destination=row.destination,
        stage=row.stage,
        state=row.state,
        lane=lane_name(row.lane_destination, row.lane_key) if row.lane is not None else "",
        lane_number=row.lane,
        place=row.place,
        part=row.part,
        stands=bool(row.stands),
        attempts=row.attempts,
        deaths=row.deaths,
        replay=row.replay,
        key=row.key,
        produced=row.produced,
        cause=row.cause,
        detail=row.detail,
        document=row.document,
        worker=row.worker,
        due_at=row.due_at,
        created_at=row.created_at,
        changed_at=row.changed_at,
    )


def lane_name(destination: str, key: str) -> str:
    """A lane as people write it: `erp/order:4711`."""
    return f"{destination}/{key}"


def deliveries_of(connection: Connection, messages: Sequence[int], *, limit: int) -> list[DeliveryLine]:
    """The deliveries of these messages, oldest first, at most `limit`."""
    d = t.delivery.c
    found: list[DeliveryLine] = []
    for part in chunks(messages):
        query = select_deliveries().where(d.message.in_(part)).order_by(d.id).limit(limit - len(found))
        found += [delivery_line(row) for row in connection.execute(query)]
        if len(found) >= limit:
            break
    return sorted(found, key=lambda line: line.number)


def attempts_of(connection: Connection, deliveries: Collection[int], *, limit: int) -> list[AttemptLine]:
    """The newest attempts of these deliveries, at most `limit`, oldest first."""
    a = t.attempt.c
    found: list[Any] = []
    for part in chunks(sorted(deliveries)):
        found += connection.execute(select(t.attempt).where(a.delivery.in_(part)).order_by(a.id.desc()).limit(limit))
    found = sorted(found, key=lambda row: int(row.id))[-limit:]
    return [_attempt_line(row) for row in found]


def newest_try_of(connection: Connection, delivery: int) -> AttemptLine | None:
    """The newest attempt of a delivery that was no probe."""
    a = t.attempt.c
    tried = select(t.attempt).where(a.delivery == delivery, a.outcome.not_like(f"{PROBE}%"))
    row = connection.execute(tried.order_by(a.id.desc()).limit(1)).one_or_none()
    return None if row is None else _attempt_line(row)


def _attempt_line(row: Any) -> AttemptLine:
    return AttemptLine(
        delivery=row.delivery,
        number=row.number,
        stage=row.stage,
        began_at=row.began_at,
        ended_at=row.ended_at,
        outcome=row.outcome,
        cause=row.cause,
        detail=row.detail,
        document=row.document,
        worker=row.worker,
        digests=row.digests,
        late=bool(row.late),
        sent=bytes(row.sent),
        received=bytes(row.received),
    )


def journal_of(connection: Connection, deliveries: Collection[int], *, limit: int) -> list[JournalLine]:
    """The newest rows of the journal about these deliveries, at most `limit`, oldest first."""
    j = t.journal.c
    found: list[Any] = []
    for part in chunks(sorted(deliveries)):
        found += connection.execute(select(t.journal).where(j.delivery.in_(part)).order_by(j.id.desc()).limit(limit))
    found = sorted(found, key=lambda row: int(row.id))[-limit:]
    names = ("at", "actor", "login", "act", "reason", "delivery", "old", "new", "cause", "detail")
    return [JournalLine(**{name: row._mapping[name] for name in names}) for row in found]


def count_up_to(connection: Connection, query: Select[Any], limit: int) -> int:
    """How many rows the query has, counted no further than the limit."""
    return int(connection.execute(select(func.count()).select_from(query.limit(limit).subquery())).scalar_one())
