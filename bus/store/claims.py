"""Claims: which worker may run which deliveries; the decision a hint only asks for."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import BindParameter, Connection, FromClause, Integer, Select, Text, bindparam, select, text, update

from bus.model.delivery import MAX_DEATHS, Stage, State, is_laned_now
from bus.model.lane import LaneKey, claimable
from bus.ports import Batch, Claimed, Doubt
from bus.store import tables as t
from bus.store.bodies import MESSAGE, OUTPUT, kept_in, largest_carried, output_in
from bus.store.bulk import NUMBERS, one_of
from bus.store.clock import store_clock
from bus.store.engine import Database
from bus.store.lanes import is_alone
from bus.store.states import HELD, in_state, takes_turns
from bus.store.transaction import SqlTransaction
from bus.store.work import chunks

_TRIALS = 1_000
"""The oldest READY looked at for the head of a lane that was tried least."""

_D = t.delivery.c
_QUEUE: BindParameter[str] = bindparam("of_queue", type_=Text())
_ENDPOINT: BindParameter[str] = bindparam("of_endpoint", type_=Text())
_NOW: BindParameter[datetime] = bindparam("now", type_=t.Instant())


def _oldest() -> Select[Any]:
    """The oldest READY ones of lanes in which nothing runs; their rows locked, those of other claims skipped.

    None where an endpoint is named that is not open.
    """
    other = t.delivery.alias("other")
    runs = select(other.c.id).where(
        other.c.lane == _D.lane,
        in_state(other.c.state, *HELD),
        other.c.stands,
        takes_turns(other.c),
    )
    shut = select(t.endpoint.c.name).where(t.endpoint.c.name == _ENDPOINT, t.endpoint.c.state != "open")
    return (
        select(_D.id, _D.lane, _D.destination, _D.stage, _D.deaths, is_alone())
        .where(
            ~shut.exists(),
            _D.queue == _QUEUE,
            in_state(_D.state, State.READY),
            ~takes_turns(_D) | ~runs.exists(),
        )
        .order_by(_D.id)
        .limit(bindparam("at_most", type_=Integer()))
        .with_for_update(skip_locked=True, of=t.delivery)
    )


_DELIVERY = (
    _D.id,
    _D.token,
    _D.stage,
    _D.state,
    _D.route,
    _D.destination,
    _D.queue,
    _D.key,
    _D.place,
    _D.part,
    _D.attempts,
    _D.deaths,
    _D.trips,
    _D.blocks,
    _D.replay,
    _D.cause,
)
"""What a claim reads of a delivery, in the order in which `_claimed` takes it; its lane's names come behind."""

_LANE_AT = len(_DELIVERY)
_MESSAGE_AT = _LANE_AT + 2
_OUTPUT_AT = _MESSAGE_AT + len(MESSAGE)


def _load(delivery: FromClause) -> Select[Any]:
    """Deliveries with their lanes, messages and outputs."""
    d = delivery.c
    joined = (
        delivery.join(t.message, t.message.c.id == d.message)
        .outerjoin(t.lane, t.lane.c.id == d.lane)
        .outerjoin(t.output, t.output.c.delivery == d.id)
    )
    of_delivery = (d[column.name] for column in _DELIVERY)
    return select(*of_delivery, t.lane.c.destination, t.lane.c.key, *MESSAGE, *OUTPUT).select_from(joined)


_OLDEST = _oldest()
_LOAD = _load(t.delivery).where(one_of(_D.id, NUMBERS))
_STILL_READY = (
    select(_D.id, _D.deaths)
    .where(one_of(_D.id, NUMBERS), in_state(_D.state, State.READY))
    .with_for_update(skip_locked=True)
)
_HAS_READY = select(_D.id).where(_D.queue == _QUEUE, in_state(_D.state, State.READY)).order_by(_D.changed_at).limit(1)
_LAST_CHANCE = MAX_DEATHS - 1
_LOCK_LAST_CHANCES = text("SELECT pg_advisory_xact_lock(7226291034)")
_LAST_CHANCE_TAKEN = select(_D.id).where(in_state(_D.state, *HELD), _D.deaths >= _LAST_CHANCE).limit(1)
_TAKE = (
    update(t.delivery)
    .where(one_of(_D.id, NUMBERS))
    .values(
        state=str(State.CLAIMED), worker=bindparam("by_worker"), token=bindparam("by_token"), changed_at=store_clock()
    )
)
_TAKE_AND_LOAD = _load(_TAKE.returning(*_DELIVERY, _D.message, _D.lane).cte("taken"))
"""PostgreSQL: both in one statement."""
_MARK_SENDING = (
    update(t.delivery)
    .where(_D.id == bindparam("number"), _D.token == bindparam("of_token"), _D.state == str(State.CLAIMED))
    .values(state=str(State.SENDING), changed_at=store_clock())
)
_DUE_DOUBTS = (
    select(_D.id, _D.changed_at)
    .where(_D.queue == _QUEUE, in_state(_D.state, State.IN_DOUBT), _D.due_at <= _NOW)
    .order_by(_D.due_at)
)


def claim(database: Database, queue: str, *, worker: str, token: str, limit: int) -> Batch:
    """See MessageStore.claim."""
    with database.write() as connection:
        oldest = connection.execute(
            _OLDEST, {"of_queue": queue, "of_endpoint": endpoint_of(queue), "at_most": limit}
        ).all()
        numbers = _batch(database, connection, oldest)
        taken = _take(connection, numbers, worker=worker, token=token)
        return Batch(taken, leaves=len(oldest) == limit or len(numbers) < len(oldest))


def _batch(database: Database, connection: Connection, oldest: Sequence[Any]) -> list[int]:
    """Of the oldest candidates those that run now, lane by lane in order of place; suspects alone."""
    batch: list[int] = []
    suspects = {row.id: row.deaths for row in oldest if row.deaths}
    for run in _runs(database, connection, oldest, suspects):
        if not batch and run[0] in suspects and _may_run(connection, suspects[run[0]]):
            return run[:1]
        batch += itertools.takewhile(lambda number: number not in suspects, run)
    return batch


def _may_run(connection: Connection, deaths: int) -> bool:
    """One more death and it is dead: of those that this is true of one runs at a time, in whatever queue and process.

    Else one that kills its workers would take along whatever else each of these workers was at.
    """
    if deaths < _LAST_CHANCE:
        return True
    if connection.dialect.name == "postgresql":
        connection.execute(_LOCK_LAST_CHANCES)  # on SQLite one transaction writes at a time
    return connection.execute(_LAST_CHANCE_TAKEN).first() is None


def _runs(
    database: Database, connection: Connection, oldest: Sequence[Any], suspects: dict[int, int]
) -> Iterator[list[int]]:
    """What may run of each lane, at most as many as it has candidates; an unlaned candidate is a run of its own.

    A younger number may stand before an older one (parts of a split, a replay at the tail): what is missing at the
    head is fetched, else candidates that wait for it would fill the batch for ever.
    """
    lanes: dict[int, list[int]] = {}
    for row in oldest:
        if _has_to_queue_up(row):
            lanes.setdefault(row.lane, []).append(row.id)
    standing = SqlTransaction(database, connection).standing({lane: len(wanted) for lane, wanted in lanes.items()})
    heads = {lane: [row.id for row in standing.get(lane, [])][: len(wanted)] for lane, wanted in lanes.items()}
    missing = {number for head in heads.values() for number in head} - {row.id for row in oldest}
    free = {number for wanted in lanes.values() for number in wanted}
    for part in chunks(sorted(missing)):
        for row in connection.execute(_STILL_READY, {"numbers": part}):
            free.add(row.id)
            suspects.update({row.id: row.deaths} if row.deaths else {})
    for row in oldest:
        if not _has_to_queue_up(row):
            yield [row.id]
        elif run := claimable(free, heads.pop(row.lane, [])):
            yield run


def _has_to_queue_up(row: Any) -> bool:
    return not row.alone and _is_laned(row)


def _is_laned(row: Any) -> bool:
    return row.lane is not None and is_laned_now(row.destination, Stage(row.stage))


def claim_trial(database: Database, queue: str, *, worker: str, token: str) -> list[Claimed]:
    """See MessageStore.claim_trial."""
    with database.write() as connection:
        d = t.delivery.c
        of_any_state = {"of_queue": queue, "of_endpoint": "", "at_most": _TRIALS}
        oldest = connection.execute(_OLDEST.add_columns(d.tries), of_any_state)
        one_of_each = {(row.lane if _is_laned(row) else -row.id): row for row in reversed(oldest.all())}
        by_tries = sorted(one_of_each.values(), key=lambda row: (row.tries, row.id))
        heads = (row.id for row in by_tries if _is_head(connection, row) and _may_run(connection, row.deaths))
        taken = list(itertools.islice(heads, 1))
        if taken:
            connection.execute(update(t.delivery).where(d.id.in_(taken)).values(tries=d.tries + 1))
        return _take(connection, taken, worker=worker, token=token)


def _is_head(connection: Connection, row: Any) -> bool:
    if not _is_laned(row):
        return True
    d = t.delivery.c
    head = select(d.id).where(d.lane == row.lane, d.stands).order_by(d.place, d.part).limit(1)
    return bool(connection.execute(head).scalar() == row.id)


def _take(connection: Connection, numbers: Sequence[int], *, worker: str, token: str) -> list[Claimed]:
    """Mark them; they come back in the order given."""
    taker = {"by_worker": worker, "by_token": token}
    carried = largest_carried(len(numbers))
    taken: dict[int, Claimed] = {}
    for part in chunks(sorted(numbers)):
        if connection.dialect.name == "sqlite":
            connection.execute(_TAKE, {"numbers": part, **taker})
            rows = connection.execute(_LOAD, {"numbers": part, "carried": carried})
        else:
            rows = connection.execute(_TAKE_AND_LOAD, {"numbers": part, "carried": carried, **taker})
        taken.update((row.id, _claimed(tuple(row))) for row in rows)
    return [taken[number] for number in numbers]


def endpoint_of(queue: str) -> str:
    """The endpoint that a queue belongs to; empty: to none."""
    kind, _, name = queue.partition(".")
    return name if kind == "send" else ""


def has_ready(database: Database, queue: str) -> bool:
    """See MessageStore.has_ready."""
    with database.look() as connection:
        return connection.execute(_HAS_READY, {"of_queue": queue}).first() is not None


def mark_sending(database: Database, delivery: int, token: str) -> bool:
    """See MessageStore.mark_sending."""
    with database.write() as connection:
        return connection.execute(_MARK_SENDING, {"number": delivery, "of_token": token}).rowcount == 1


def claim_doubts(database: Database, queue: str, *, limit: int, again_in: timedelta) -> list[Doubt]:
    """See MessageStore.claim_doubts."""
    d = t.delivery.c
    with database.write() as connection:
        now = database.now(connection)
        query = _DUE_DOUBTS.limit(limit).with_for_update(skip_locked=True)
        since = {row.id: row.changed_at for row in connection.execute(query, {"of_queue": queue, "now": now})}
        if since:
            connection.execute(update(t.delivery).where(d.id.in_(list(since))).values(due_at=now + again_in))
        return [Doubt(claimed=c, doubted_for=now - since[c.id]) for c in load(connection, list(since))]


def load(connection: Connection, numbers: Collection[int]) -> Iterable[Claimed]:
    """The deliveries with their messages and outputs; for a large body stands a ClaimCheck."""
    carried = largest_carried(len(numbers))
    for part in chunks(sorted(numbers)):
        for row in connection.execute(_LOAD, {"numbers": part, "carried": carried}):
            yield _claimed(tuple(row))


def _claimed(values: Sequence[Any]) -> Claimed:
    (
        number,
        token,
        stage,
        state,
        route,
        destination,
        queue,
        key,
        place,
        part,
        attempts,
        deaths,
        trips,
        blocks,
        replay,
        cause,
    ) = values[:_LANE_AT]
    lane_destination, lane_key = values[_LANE_AT:_MESSAGE_AT]
    return Claimed(
        id=number,
        token=token,
        stage=Stage(stage),
        state=State(state),
        route=route,
        destination=destination,
        queue=queue,
        key=key,
        lane=LaneKey(lane_destination, lane_key) if lane_key is not None else None,
        place=place,
        part=part,
        attempts=attempts,
        deaths=deaths,
        trips=trips,
        blocks=blocks,
        replay=replay,
        cause=cause,
        kept=kept_in(values[_MESSAGE_AT:_OUTPUT_AT]),
        output=output_in(values[_OUTPUT_AT:]),
    )
