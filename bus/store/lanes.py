"""Lanes in the store: locked in one order, their places given out, exactly their head runs READY."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, bindparam, select, true, update

from bus.model.delivery import Stage, State
from bus.model.lane import RUN, LaneKey, Standing, head_run
from bus.store import tables as t
from bus.store.engine import Database
from bus.store.work import UnitOfWork, chunks

_D = t.delivery.c
_STANDING = (_D.id, _D.lane, _D.stage, _D.state, _D.queue, _D.place, _D.part)
_STANDING_IN_LANE = (
    select(*_STANDING).where(_D.lane == bindparam("number"), _D.stands).order_by(_D.place, _D.part).limit(RUN)
)


class Lanes(UnitOfWork):
    """Lanes that this transaction locked, and what stands in them."""

    def __init__(self, database: Database, connection: Connection) -> None:
        super().__init__(database, connection)
        self.lanes: dict[LaneKey, int] = {}

    def lock_lanes(self, lanes: Mapping[LaneKey, int]) -> dict[LaneKey, int]:
        ordered = sorted(lanes, key=lambda lane: lane.lock_order)
        before: dict[LaneKey, int] = {}
        for part in chunks(ordered):
            statement = self.insert(t.lane)
            values = [{"destination": lane.destination, "key": lane.key, "tail": lanes[lane]} for lane in part]
            statement = statement.on_conflict_do_update(
                index_elements=["destination", "key"], set_={"tail": t.lane.c.tail + statement.excluded.tail}
            ).returning(t.lane.c.id, t.lane.c.destination, t.lane.c.key, t.lane.c.tail)
            for row in self.connection.execute(statement, values):
                key = LaneKey(row.destination, row.key)
                self.lanes[key] = row.id
                before[key] = row.tail - lanes[key]
        return before

    def lanes_standing(self, lanes: Collection[LaneKey]) -> set[LaneKey]:
        names = {self.lanes[lane]: lane for lane in lanes}
        found: set[LaneKey] = set()
        d = t.delivery.c
        for part in chunks(list(names)):
            standing = select(d.id).where(d.lane == t.lane.c.id, d.stands)
            query = select(t.lane.c.id).where(t.lane.c.id.in_(part), standing.exists())
            found.update(names[number] for number in self.connection.execute(query).scalars())
        return found

    def advance(self, lanes: Collection[LaneKey]) -> set[str]:
        numbers = {self.lanes[lane]: lane for lane in lanes}
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
                self.connection.execute(
                    update(t.delivery)
                    .where(d.id.in_(part), d.state == str(old))
                    .values(state=str(new), changed_at=self.now)
                )
        return queues

    def standing(self, lanes: Sequence[int]) -> dict[int, list[Any]]:
        """The first RUN standing deliveries of each lane, in order of place."""
        d = t.delivery.c
        found: dict[int, list[Any]] = {}
        if self.database.is_sqlite:
            for number in lanes:
                found[number] = list(self.connection.execute(_STANDING_IN_LANE, {"number": number}))
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
            for row in self.connection.execute(select(first).select_from(lane.join(first, true()))):
                found.setdefault(row.lane, []).append(row)
        for rows in found.values():
            rows.sort(key=lambda row: (row.place, row.part))
        return found
