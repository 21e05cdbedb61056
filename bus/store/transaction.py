"""One unit of work on the store: receive, plan and settle are made of these steps."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any, TypeVar

from sqlalchemy import Connection, bindparam, insert, select, true, update
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from bus.model import ledger
from bus.model.delivery import ENDED, FINAL, Event, Stage, State, after, is_laned_now, stands
from bus.model.lane import RUN, LaneKey, Standing, head_run
from bus.model.message import BUS, Message
from bus.ports import Actor, AttemptRecord, Kept, NewDelivery, Output, Receipt, Settled, Taken
from bus.store import tables as t
from bus.store.engine import Database

T = TypeVar("T")

CHUNK = 400
"""Rows per statement where a list of values goes into one (SQLite allows 32,766 parameters)."""


_D = t.delivery.c
_STANDING = (_D.id, _D.lane, _D.stage, _D.state, _D.queue, _D.place, _D.part)
_STANDING_IN_LANE = (
    select(*_STANDING).where(_D.lane == bindparam("number"), _D.stands).order_by(_D.place, _D.part).limit(RUN)
)


def chunks(items: Sequence[T], size: int = CHUNK) -> Iterable[Sequence[T]]:
    """The items in slices of at most `size`."""
    return (items[start : start + size] for start in range(0, len(items), size))


@dataclass
class Moved:
    """What a move changed: deliveries, their messages and lanes, and the queues that have work now."""

    deliveries: list[int] = field(default_factory=list)
    messages: list[int] = field(default_factory=list)
    entered: list[int] = field(default_factory=list)
    lanes: set[LaneKey] = field(default_factory=set)
    queues: set[str] = field(default_factory=set)


class SqlTransaction:
    """See bus.ports.Transaction for what each step promises."""

    def __init__(self, database: Database, connection: Connection) -> None:
        self._database = database
        self._connection = connection
        self._lanes: dict[LaneKey, int] = {}
        self._deltas: ledger.Deltas = Counter()

    @cached_property
    def now(self) -> datetime:
        return self._database.now(self._connection)

    def insert(self, table: Any) -> Any:
        return (sqlite_insert if self._database.is_sqlite else postgresql_insert)(table)

    # -- receiving ----------------------------------------------------------------------------------------------------

    def take_ids(self, messages: Sequence[Message]) -> list[Taken]:
        rows = {(m.system, m.id): m.digest for m in messages}
        ordered = sorted(rows, key=lambda key: (key[0].encode(), key[1].encode()))
        new: set[tuple[str, str]] = set()
        standing: dict[tuple[str, str], bytes] = {}
        key = t.message_key.c
        for part in chunks(ordered):
            statement = self.insert(t.message_key).on_conflict_do_nothing().returning(key.system, key.message_id)
            values = [{"system": s, "message_id": i, "digest": rows[s, i], "at": self.now} for s, i in part]
            new.update((row.system, row.message_id) for row in self._connection.execute(statement, values))
            known = [pair for pair in part if pair not in new]
            if known:
                by_system: dict[str, list[str]] = {}
                for system, message_id in known:
                    by_system.setdefault(system, []).append(message_id)
                for system, ids in by_system.items():
                    query = select(key.system, key.message_id, key.digest).where(
                        key.system == system, key.message_id.in_(ids)
                    )
                    standing.update(
                        {(row.system, row.message_id): bytes(row.digest) for row in self._connection.execute(query)}
                    )
        return [
            Taken((m.system, m.id) in new, m.digest if (m.system, m.id) in new else standing[m.system, m.id])
            for m in messages
        ]

    def add_receipts(self, receipts: Sequence[Receipt]) -> None:
        if not receipts:
            return
        rows = [
            {
                "at": self.now,
                "kind": str(receipt.kind),
                "cause": receipt.cause,
                "detail": storable(receipt.detail, 20_000),
                "routing_key": storable(receipt.routing_key),
                "properties": json.dumps(receipt.properties, default=str, ensure_ascii=True),
                "body": receipt.body,
                "message_id": storable(receipt.message_id),
                "system": storable(receipt.system),
                "type": storable(receipt.type),
            }
            for receipt in receipts
        ]
        self._connection.execute(insert(t.receipt), rows)
        self._deltas.update(Counter(("received", "") for _ in receipts))
        self._deltas.update(Counter((str(receipt.kind), "") for receipt in receipts))

    def add_messages(
        self,
        messages: Sequence[Message],
        *,
        searchable: Sequence[Sequence[tuple[str, str]]],
        parents: Sequence[int] = (),
    ) -> list[Kept]:
        if not messages:
            return []
        rows = [
            {
                "message_id": m.id,
                "system": m.system,
                "type": m.type,
                "site": m.site,
                "subject": m.subject,
                "correlation_id": m.correlation_id,
                "causation_id": m.causation_id,
                "content_type": m.content_type,
                "time": m.time,
                "sequence": m.sequence,
                "business_date": m.business_date,
                "dataschema": m.dataschema,
                "traceparent": m.traceparent,
                "digest": m.digest,
                "body": m.body,
                "accepted_at": self.now,
                "parent": parents[index] if parents else None,
                "planned": 0,
                "entering": 0,
            }
            for index, m in enumerate(messages)
        ]
        statement = insert(t.message).returning(t.message.c.id, sort_by_parameter_order=True)
        numbers = list(self._connection.execute(statement, rows).scalars())
        found = {
            (path, value[:500], number): None
            for number, pairs in zip(numbers, searchable, strict=True)
            for path, value in pairs
        }
        if found:
            self._connection.execute(
                insert(t.search_value), [{"path": p, "value": v, "message": number} for p, v, number in found]
            )
        if parents:
            self._deltas["produced", ""] += len(messages)
        else:
            self._deltas["received", ""] += len(messages)
            self._deltas["accepted", ""] += len(messages)
        self._deltas["unrouted", ""] += len(messages)
        return [Kept(number, message) for number, message in zip(numbers, messages, strict=True)]

    def forget_openings(self, digests: Sequence[bytes]) -> None:
        for part in chunks(digests):
            self._connection.execute(t.opening.delete().where(t.opening.c.digest.in_(part)))

    # -- planning -----------------------------------------------------------------------------------------------------

    def lock_lanes(self, lanes: Mapping[LaneKey, int]) -> dict[LaneKey, int]:
        ordered = sorted(lanes, key=lambda lane: lane.lock_order)
        before: dict[LaneKey, int] = {}
        for part in chunks(ordered):
            statement = self.insert(t.lane)
            values = [{"destination": lane.destination, "key": lane.key, "tail": lanes[lane]} for lane in part]
            statement = statement.on_conflict_do_update(
                index_elements=["destination", "key"], set_={"tail": t.lane.c.tail + statement.excluded.tail}
            ).returning(t.lane.c.id, t.lane.c.destination, t.lane.c.key, t.lane.c.tail)
            for row in self._connection.execute(statement, values):
                key = LaneKey(row.destination, row.key)
                self._lanes[key] = row.id
                before[key] = row.tail - lanes[key]
        return before

    def lanes_standing(self, lanes: Collection[LaneKey], *, besides: Collection[int] = ()) -> set[LaneKey]:
        names = {self._lanes[lane]: lane for lane in lanes}
        found: set[LaneKey] = set()
        d = t.delivery.c
        for part in chunks(list(names)):
            standing = select(d.id).where(d.lane == t.lane.c.id, d.stands)
            if besides:
                standing = standing.where(d.id.not_in(list(besides)))
            query = select(t.lane.c.id).where(t.lane.c.id.in_(part), standing.exists())
            found.update(names[number] for number in self._connection.execute(query).scalars())
        return found

    def add_deliveries(self, deliveries: Sequence[NewDelivery]) -> None:
        if not deliveries:
            return
        rows = [
            {
                "message": d.message,
                "route": d.route,
                "destination": d.destination,
                "queue": d.queue,
                "lane": self._lanes[d.lane] if d.lane else None,
                "place": d.place,
                "part": d.part,
                "stage": str(d.stage),
                "state": str(d.state),
                "stands": d.lane is not None and stands(d.state, blocks=d.blocks),
                "blocks": d.blocks,
                "key": d.key,
                "replay": d.replay,
                "cause": d.cause,
                "detail": storable(d.detail, 20_000),
                "created_at": self.now,
                "changed_at": self.now,
            }
            for d in deliveries
        ]
        with_output = [(index, d.output) for index, d in enumerate(deliveries) if d.output is not None]
        if with_output:
            statement = insert(t.delivery).returning(t.delivery.c.id, sort_by_parameter_order=True)
            numbers = list(self._connection.execute(statement, rows).scalars())
            self._add_outputs([(numbers[index], output) for index, output in with_output])
        else:
            self._connection.execute(insert(t.delivery), rows)
        for d in deliveries:
            self._deltas.update(ledger.planned_delivery(d.destination, d.route, d.state))

    def _add_outputs(self, outputs: Sequence[tuple[int, Output]]) -> None:
        statement = self.insert(t.output)
        columns = ("type", "content_type", "body", "digest")
        statement = statement.on_conflict_do_update(
            index_elements=["delivery"], set_={name: statement.excluded[name] for name in columns}
        )
        self._connection.execute(
            statement,
            [
                {"delivery": number, "type": o.type, "content_type": o.content_type, "body": o.body, "digest": o.digest}
                for number, o in outputs
            ],
        )

    def note_planned(self, planned: Mapping[int, tuple[int, int]]) -> None:
        m = t.message.c
        for part in chunks(sorted(planned)):
            rows = self._connection.execute(
                select(m.id, m.planned, m.entering).where(m.id.in_(part)).order_by(m.id).with_for_update()
            ).all()
            changes = []
            for row in rows:
                more, entering = planned[row.id]
                old = ledger.disposition(row.planned, row.entering)
                new = ledger.disposition(row.planned + more, row.entering + entering)
                if old != new:
                    self._deltas[old, ""] -= 1
                    self._deltas[new, ""] += 1
                if more or entering:
                    changes.append({"row": row.id, "more": more, "entering": entering})
            if changes:
                self._connection.execute(
                    update(t.message)
                    .where(m.id == bindparam("row"))
                    .values(planned=m.planned + bindparam("more"), entering=m.entering + bindparam("entering")),
                    changes,
                )

    def advance(self, lanes: Collection[LaneKey]) -> set[str]:
        numbers = {self._lanes[lane]: lane for lane in lanes}
        ready: list[int] = []
        waiting: list[int] = []
        queues: set[str] = set()
        for number, rows in self.standing(list(numbers)).items():
            moves = head_run(
                numbers[number].destination, [Standing(row.id, Stage(row.stage), State(row.state)) for row in rows]
            )
            ready += moves.ready
            waiting += moves.waiting
            queues.update(row.queue for row in rows if row.id in set(moves.ready) or row.state == State.READY)
        d = t.delivery.c
        for old, new, moved in ((State.WAITING, State.READY, ready), (State.READY, State.WAITING, waiting)):
            for part in chunks(sorted(moved)):
                self._connection.execute(
                    update(t.delivery)
                    .where(d.id.in_(part), d.state == str(old))
                    .values(state=str(new), changed_at=self.now)
                )
        return queues

    def standing(self, lanes: Sequence[int]) -> dict[int, list[Any]]:
        """The first RUN standing deliveries of each lane, in order of place."""
        d = t.delivery.c
        found: dict[int, list[Any]] = {}
        if self._database.is_sqlite:
            for number in lanes:
                found[number] = list(self._connection.execute(_STANDING_IN_LANE, {"number": number}))
            return found
        for part in chunks(lanes):
            lane = select(t.lane.c.id).where(t.lane.c.id.in_(part)).subquery()
            first = (
                select(*_STANDING)
                .where(d.lane == lane.c.id, d.stands)
                .order_by(d.place, d.part)
                .limit(RUN)
                .lateral("first")
            )
            for row in self._connection.execute(select(first).select_from(lane.join(first, true()))):
                found.setdefault(row.lane, []).append(row)
        for rows in found.values():
            rows.sort(key=lambda row: (row.place, row.part))
        return found

    # -- settling -----------------------------------------------------------------------------------------------------

    def own(self, claims: Sequence[tuple[int, str]]) -> dict[int, State]:
        tokens = dict(claims)
        held = [str(State.CLAIMED), str(State.SENDING), str(State.IN_DOUBT)]
        d = t.delivery.c
        found: dict[int, State] = {}
        for part in chunks(sorted(tokens)):
            query = select(d.id, d.token, d.state).where(d.id.in_(part)).order_by(d.id).with_for_update()
            found.update(
                {
                    row.id: State(row.state)
                    for row in self._connection.execute(query)
                    if row.token == tokens[row.id] and row.state in held
                }
            )
        return found

    def settle(self, settled: Sequence[Settled], *, states: Mapping[int, State], actor: Actor) -> None:
        rows, outputs, journal = [], [], []
        for s in settled:
            old = states[s.claimed.id]
            new = _resting(s, after(old, s.outcome.event))
            rows.append(self._settled_row(s, new))
            if s.output is not None:
                outputs.append((s.claimed.id, s.output))
            self._deltas.update(ledger.changed_delivery(s.claimed.destination, s.claimed.route, old, new))
            if new in ENDED:
                journal.append(
                    self._journal_row(
                        actor, "settle", s.claimed.id, s.claimed.kept.row, old, new, s.outcome.cause, s.outcome.detail
                    )
                )
        self._write_settled(rows)
        if outputs:
            self._add_outputs(outputs)
        self.add_attempts([s.attempt for s in settled if s.attempt is not None])
        if journal:
            self._connection.execute(insert(t.journal), journal)

    def _settled_row(self, s: Settled, new: State) -> dict[str, Any]:
        claimed, outcome = s.claimed, s.outcome
        goes_on = outcome.event is Event.TRANSFORMED
        due = self.now + outcome.due_in if outcome.due_in is not None else None
        keeps_cause = outcome.event is Event.RELEASE and not outcome.cause  # nothing new is known about it
        return {
            "row": claimed.id,
            "state": str(new),
            "stands": claimed.lane is not None and stands(new, blocks=claimed.blocks),
            "stage": str(Stage.SEND if goes_on else claimed.stage),
            "queue": s.queue if goes_on else claimed.queue,
            "attempts": 0 if goes_on else claimed.attempts + (1 if outcome.spends_attempt else 0),
            "trips": claimed.trips + (1 if outcome.blames else 0),
            "deaths": claimed.deaths,
            "due_at": due,
            **({} if keeps_cause else {"cause": storable(outcome.cause), "detail": storable(outcome.detail, 20_000)}),
            "document": storable(outcome.document),
            "produced": s.produced,
            "changed_at": self.now,
            "token": claimed.token if new is State.IN_DOUBT else "",
            "worker": "",
        }

    def _write_settled(self, rows: Sequence[dict[str, Any]]) -> None:
        by_columns: dict[tuple[str, ...], list[dict[str, Any]]] = {}
        for row in rows:
            by_columns.setdefault(tuple(name for name in row if name != "row"), []).append(row)
        for columns, alike in by_columns.items():
            self._connection.execute(
                update(t.delivery)
                .where(t.delivery.c.id == bindparam("row"))
                .values({name: bindparam(f"new_{name}", type_=t.delivery.c[name].type) for name in columns}),
                [{"row": row["row"], **{f"new_{name}": row[name] for name in columns}} for row in alike],
            )

    def add_attempts(self, attempts: Sequence[AttemptRecord], *, late: bool = False) -> None:
        if attempts:
            self._connection.execute(
                insert(t.attempt),
                [
                    {
                        "delivery": a.delivery,
                        "stage": str(a.stage),
                        "number": a.number,
                        "began_at": self.now - a.began,
                        "ended_at": self.now - a.ended,
                        "outcome": a.outcome,
                        "cause": storable(a.cause),
                        "detail": storable(a.detail, 20_000),
                        "sent": a.exchange.sent,
                        "received": a.exchange.received,
                        "document": storable(a.document),
                        "worker": a.worker,
                        "digests": a.digests,
                        "late": late,
                    }
                    for a in attempts
                ],
            )

    def record_late(self, attempts: Sequence[AttemptRecord]) -> None:
        self.add_attempts(attempts, late=True)

    def _journal_row(
        self,
        actor: Actor,
        act: str,
        delivery: int | None,
        message: int | None,
        old: str,
        new: str,
        cause: str,
        detail: str = "",
        endpoint: str = "",
    ) -> dict[str, Any]:
        return {
            "at": self.now,
            "actor": actor.name,
            "reason": actor.reason,
            "act": act,
            "delivery": delivery,
            "message": message,
            "endpoint": endpoint,
            "old": str(old),
            "new": str(new),
            "cause": storable(cause),
            "detail": storable(detail, 20_000),
        }

    def move(
        self, numbers: Sequence[int], event: Event, *, expected: State, actor: Actor | None = None, **values: Any
    ) -> Moved:
        """Let an event happen to the deliveries that are in the expected state; others are left alone.

        With an actor it is a deed and stands in the journal. `values` are columns to set besides.
        """
        d = t.delivery.c
        columns = (
            d.id,
            d.message,
            d.destination,
            d.route,
            d.queue,
            d.stage,
            d.state,
            d.stands,
            d.blocks,
            d.place,
            d.part,
        )
        lanes: dict[int, LaneKey] = {}
        for part in chunks(sorted(numbers)):
            query = select(d.id, t.lane.c.destination, t.lane.c.key).join(t.lane, t.lane.c.id == d.lane)
            for found in self._connection.execute(query.where(d.id.in_(part))):
                lanes[found.id] = LaneKey(found.destination, found.key)
        # Whoever had left its lane comes back at the tail; places that stay unused do no harm.
        tails = self.lock_lanes(Counter(lanes.values()))
        moved = Moved()
        changes, journal = [], []
        for part in chunks(sorted(numbers)):
            query = select(*columns).where(d.id.in_(part), d.state == str(expected)).order_by(d.id).with_for_update()
            for row in self._connection.execute(query):
                lane = lanes.get(row.id)
                laned = lane is not None and is_laned_now(row.destination, Stage(values.get("stage", row.stage)))
                new = after(expected, event)
                if new is State.WAITING and not laned:
                    new = State.READY
                    moved.queues.add(str(values.get("queue", row.queue)))
                moved.deliveries.append(row.id)
                moved.messages.append(row.message)
                place = row.place
                if lane is not None:
                    moved.lanes.add(lane)
                    tails[lane] += 1
                    place = row.place if row.stands else tails[lane]
                holds = lane is not None and stands(new, blocks=row.blocks)
                changes.append({"row": row.id, "new_state": str(new), "new_stands": holds, "new_place": place})
                self._deltas.update(ledger.changed_delivery(row.destination, row.route, expected, new))
                if row.destination == BUS and new in FINAL:
                    moved.entered.append(row.message)
                if actor is not None:
                    cause, detail = str(values.get("cause", "")), str(values.get("detail", ""))
                    journal.append(
                        self._journal_row(actor, event.name.lower(), row.id, row.message, expected, new, cause, detail)
                    )
        if changes:
            statement = update(t.delivery).where(d.id == bindparam("row"))
            fixed = {"changed_at": self.now, "due_at": None} | values
            self._connection.execute(
                statement.values(
                    state=bindparam("new_state"), stands=bindparam("new_stands"), place=bindparam("new_place"), **fixed
                ),
                changes,
            )
        if journal:
            self._connection.execute(insert(t.journal), journal)
        self.note_planned({message: (0, -count) for message, count in Counter(moved.entered).items()})
        moved.queues |= self.advance(moved.lanes)
        return moved

    def write_journal(self, actor: Actor, act: str, **what: Any) -> None:
        """One row of the journal: who did what, when, why, old and new."""
        row = {"delivery": None, "message": None, "old": "", "new": "", "cause": ""} | what
        self._connection.execute(insert(t.journal), [self._journal_row(actor, act, **row)])

    def execute(self, statement: Any) -> Any:
        """Run one statement inside the transaction."""
        return self._connection.execute(statement)

    def finish(self) -> None:
        """Write the totals; the last step before the commit."""
        rows = [
            {"measure": measure, "route": route, "amount": amount}
            for (measure, route), amount in sorted(self._deltas.items())
            if amount
        ]
        if rows:
            self._connection.execute(insert(t.total), rows)


def _resting(settled: Settled, state: State) -> State:
    """WAITING is for lanes: whoever needs no turn is READY at once."""
    if state is not State.WAITING:
        return state
    stage = Stage.SEND if settled.outcome.event is Event.TRANSFORMED else settled.claimed.stage
    laned = settled.claimed.lane is not None and is_laned_now(settled.claimed.destination, stage)
    return State.WAITING if laned else State.READY


def storable(value: str, limit: int = 500) -> str:
    """Text any database keeps: no NUL, no half surrogates, bounded."""
    cleaned = value.replace("\x00", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode("utf-8")
    return cleaned[:limit]
