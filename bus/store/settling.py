"""Settling in the store: outcomes by compare-and-set, attempts, the deeds of people and of the relay."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from sqlalchemy import Text, bindparam, func, select, update

from bus.model import ledger
from bus.model.delivery import ENDED, FINAL, Event, Stage, State, after, is_laned_now, stands
from bus.model.lane import LaneKey
from bus.model.message import BUS
from bus.ports import Actor, AttemptRecord, Owned, Settled
from bus.store import tables as t
from bus.store.bulk import NUMBERS, Listed, add_rows, one_of
from bus.store.clock import store_clock
from bus.store.lanes import is_alone
from bus.store.planning import Planning
from bus.store.revival import bring_back
from bus.store.work import chunks, storable

_D = t.delivery.c
_HELD = [str(State.CLAIMED), str(State.SENDING), str(State.IN_DOUBT)]
_OWN = (
    select(_D.id, _D.token, _D.state, is_alone(), store_clock().label("now"))
    .where(one_of(_D.id, NUMBERS))
    .order_by(_D.id)
    .with_for_update(of=t.delivery)
)

_KEYS = select(_D.id, _D.key).where(one_of(_D.id, NUMBERS))


def _new(name: str) -> Any:
    return bindparam(f"new_{name}", type_=_D[name].type)


@cache
def _settle_each(columns: tuple[str, ...]) -> Any:
    return update(t.delivery).where(_D.id == bindparam("row")).values({name: _new(name) for name in columns})


@cache
def _settle_alike(columns: tuple[str, ...]) -> Any:
    each = (
        func.unnest(bindparam("rows", type_=Listed()), bindparam("documents", type_=Listed(Text)))
        .table_valued("number", "document")
        .render_derived(name="each")
    )
    values = {name: _new(name) for name in columns}
    return update(t.delivery).where(_D.id == each.c.number).values({**values, "document": each.c.document})


@dataclass
class Moved:
    """What a move changed: deliveries, their messages and lanes, and the queues that have work now."""

    deliveries: list[int] = field(default_factory=list)
    messages: list[int] = field(default_factory=list)
    entered: list[int] = field(default_factory=list)
    lanes: set[LaneKey] = field(default_factory=set)
    queues: set[str] = field(default_factory=set)


class Settling(Planning):
    """What settle, resume and replay write."""

    def own(self, claims: Sequence[tuple[int, str]]) -> dict[int, Owned]:
        tokens = dict(claims)
        found: dict[int, Owned] = {}
        for part in chunks(sorted(tokens)):
            for row in self.connection.execute(_OWN, {"numbers": part}):
                self.learn_now(row.now)
                if row.token == tokens[row.id] and row.state in _HELD:
                    found[row.id] = Owned(State(row.state), bool(row.alone))
        return found

    def settle(self, settled: Sequence[Settled], *, owned: Mapping[int, Owned], actor: Actor) -> None:
        rows, outputs, journal = [], [], []
        for s in settled:
            old, alone = owned[s.claimed.id]
            new = _resting(s, after(old, s.outcome.event), alone=alone)
            rows.append(self._settled_row(s, new))
            if s.output is not None:
                outputs.append((s.claimed.id, s.output))
            self.deltas.update(ledger.changed_delivery(s.claimed.destination, s.claimed.route, old, new))
            if new in ENDED:
                journal.append(
                    self.journal_row(
                        actor, "settle", s.claimed.id, s.claimed.kept.row, old, new, s.outcome.cause, s.outcome.detail
                    )
                )
        self._write_settled(rows)
        # One made anew replaces what was made before.
        self.forget_outputs([s.claimed.id for s in settled if s.output is not None and s.claimed.output is not None])
        self.add_outputs(outputs)
        self.add_attempts([s.attempt for s in settled if s.attempt is not None])
        add_rows(self.connection, t.journal, journal)

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
            "deaths": 0 if goes_on else claimed.deaths,
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
            if self.database.is_sqlite or len(alike) == 1:
                renamed = [{"row": row["row"], **{f"new_{name}": row[name] for name in columns}} for row in alike]
                self.connection.execute(_settle_each(columns), renamed)
            else:
                self._write_together(columns, alike)

    def _write_together(self, columns: tuple[str, ...], rows: Sequence[dict[str, Any]]) -> None:
        """One statement for all rows that say the same but for the target's document number."""
        same = tuple(name for name in columns if name != "document")
        groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
        for row in rows:
            groups.setdefault(tuple(row[name] for name in same), []).append(row)
        for values, group in groups.items():
            documents = {"rows": [row["row"] for row in group], "documents": [row["document"] for row in group]}
            fixed = {f"new_{name}": value for name, value in zip(same, values, strict=True)}
            self.connection.execute(_settle_alike(same), documents | fixed)

    def add_attempts(self, attempts: Sequence[AttemptRecord], *, late: bool = False) -> None:
        rows = [
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
        ]
        add_rows(self.connection, t.attempt, rows)

    def record_late(self, late: Sequence[Settled]) -> None:
        told = [(s.claimed, s.attempt) for s in late if s.attempt is not None]
        if not told:
            return
        there = bring_back(self.connection, {claimed.id for claimed, _ in told})
        keys: dict[int, str] = {}
        for part in chunks(sorted(there)):
            keys.update({row.id: row.key for row in self.connection.execute(_KEYS, {"numbers": part})})
        self.add_attempts([attempt for claimed, attempt in told if keys.get(claimed.id) == claimed.key], late=True)

    def record(self, attempts: Sequence[AttemptRecord]) -> None:
        """Attempts of deliveries that may have ended meanwhile, and lie in a closed month."""
        there = bring_back(self.connection, {attempt.delivery for attempt in attempts})
        self.add_attempts([attempt for attempt in attempts if attempt.delivery in there])

    def move(
        self,
        numbers: Sequence[int],
        event: Event,
        *,
        expected: State,
        actor: Actor | None = None,
        of_claim: str | None = None,
        **values: Any,
    ) -> Moved:
        """Let an event happen to the deliveries that are in the expected state; others are left alone.

        `of_claim`: only to those that are in this state since the claim with this token.

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
            for found in self.connection.execute(query.where(d.id.in_(part))):
                lanes[found.id] = LaneKey(found.destination, found.key)
        # Whoever had left its lane comes back at the tail; places that stay unused do no harm.
        tails = self.lock_lanes(Counter(lanes.values()))
        moved = Moved()
        changes, journal = [], []
        fits = [d.state == str(expected), *([d.token == of_claim] if of_claim is not None else [])]
        for part in chunks(sorted(numbers)):
            query = select(*columns).where(d.id.in_(part), *fits).order_by(d.id).with_for_update()
            for row in self.connection.execute(query):
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
                self.deltas.update(ledger.changed_delivery(row.destination, row.route, expected, new))
                if row.destination == BUS and new in FINAL:
                    moved.entered.append(row.message)
                if actor is not None:
                    cause, detail = str(values.get("cause", "")), str(values.get("detail", ""))
                    journal.append(
                        self.journal_row(actor, event.name.lower(), row.id, row.message, expected, new, cause, detail)
                    )
        if changes:
            statement = update(t.delivery).where(d.id == bindparam("row"))
            fixed = {"changed_at": self.now, "due_at": None} | values
            self.connection.execute(
                statement.values(
                    state=bindparam("new_state"), stands=bindparam("new_stands"), place=bindparam("new_place"), **fixed
                ),
                changes,
            )
        add_rows(self.connection, t.journal, journal)
        self.note_planned({message: (0, -count) for message, count in Counter(moved.entered).items()})
        moved.queues |= self.advance(moved.lanes)
        return moved


def _resting(settled: Settled, state: State, *, alone: bool) -> State:
    """WAITING is for lanes in which others stand: whoever needs no turn is READY at once."""
    if state is not State.WAITING or alone:
        return State.READY if state is State.WAITING else state
    stage = Stage.SEND if settled.outcome.event is Event.TRANSFORMED else settled.claimed.stage
    laned = settled.claimed.lane is not None and is_laned_now(settled.claimed.destination, stage)
    return State.WAITING if laned else State.READY
