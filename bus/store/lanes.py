"""Lanes in the store: locked in one order, their places given out, exactly their head runs READY."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Integer,
    Select,
    Text,
    bindparam,
    case,
    func,
    literal,
    select,
    true,
    update,
)

from bus.model.delivery import RUNNING, Stage, State
from bus.model.lane import RUN, LaneKey, Standing, head_run, tail_room
from bus.ports import TailRoom
from bus.store import tables as t
from bus.store.bulk import NUMBERS, Listed, as_lists, from_lists, one_of
from bus.store.clock import store_clock
from bus.store.engine import Database
from bus.store.states import in_state, takes_turns
from bus.store.work import UnitOfWork, chunks, insert_into

_D = t.delivery.c
_RUNNING = sorted(RUNNING)
_STANDING = (_D.id, _D.lane, _D.stage, _D.state, _D.queue, _D.destination, _D.place, _D.part)
_NUMBER, _LIMIT = bindparam("number", type_=BigInteger), bindparam("at_most", type_=Integer)


def _standing_in(lane: ColumnElement[int], limit: ColumnElement[int]) -> Select[Any]:
    """The first standing deliveries of a lane, in order of place."""
    return (
        select(*_STANDING)
        .where(_D.lane == lane, _D.stands)
        .order_by(_D.place, _D.part)
        .limit(limit)
        .correlate_except(t.delivery)
    )


def is_alone() -> Any:
    """Of a delivery: nothing else stands in its lane, or it has none."""
    other = t.delivery.alias("other")
    others = select(other.c.id).where(other.c.lane == _D.lane, other.c.stands, other.c.id != _D.id)
    return (~others.exists()).label("alone")


def _notable_in(lane: ColumnElement[int]) -> Select[Any]:
    """Of the first RUN standing deliveries those that say what moves: the head, what does not run, and what is behind
    something that stops the lane.

    Most of a deep lane is ready and stays so: the database skips it, instead of handing it over to be skipped.
    """
    first = _standing_in(lane, literal(RUN)).subquery("first_run")
    position = func.row_number().over(order_by=(first.c.place, first.c.part))
    numbered = select(first, position.label("position")).subquery("numbered")
    n = numbered.c
    laned = takes_turns(n)
    runs = laned & in_state(n.state, *_RUNNING)
    stops = ~(laned & in_state(n.state, *_RUNNING, State.WAITING))
    first_stop = func.min(case((stops, n.position))).over()
    judged = select(numbered, runs.label("runs"), first_stop.label("first_stop")).subquery("judged")
    j = judged.c
    notable = (j.position == 1) | ~j.runs | (j.position > j.first_stop)
    return select(*(j[c.name] for c in _STANDING)).where(notable).order_by(j.position)


def _at(name: str, *, from_end: bool = False, after: int = 0) -> tuple[Any, Any]:
    """An alias of `delivery`, and the condition that it is the row there in the lane of `lane`, of what stands."""
    row, other = t.delivery.alias(name), t.delivery.alias(f"{name}_of")
    order = (other.c.place.desc(), other.c.part.desc()) if from_end else (other.c.place, other.c.part)
    place = select(other.c.id).where(other.c.lane == t.lane.c.id, other.c.stands).order_by(*order)
    return row, row.c.id == place.offset(after).limit(1).scalar_subquery()


def _runs(row: Any) -> Any:
    return takes_turns(row.c) & in_state(row.c.state, *_RUNNING)


def _outlines() -> Select[Any]:
    """Of each lane head, last, and the one in the middle of a run: whether they run; NULL where there is none."""
    head, is_head = _at("head")
    middle, is_middle = _at("middle", after=RUN // 2 - 1)
    last, is_last = _at("last", from_end=True)
    return select(
        t.lane.c.id.label("number"),
        head.c.queue,
        head.c.state,
        _runs(head).label("head_runs"),
        _runs(middle).label("middle_runs"),
        _runs(last).label("last_runs"),
    ).select_from(t.lane.outerjoin(head, is_head).outerjoin(middle, is_middle).outerjoin(last, is_last))


def _tails() -> Select[Any]:
    """Of each lane what stands last, and how many stand in it, counted up to RUN."""
    last, is_last = _at("last", from_end=True)
    counted = select(_D.id).where(_D.lane == t.lane.c.id, _D.stands).limit(RUN).correlate(t.lane).subquery("counted")
    return select(
        t.lane.c.id.label("number"),
        last.c.id,
        last.c.stage,
        last.c.state,
        select(func.count()).select_from(counted).scalar_subquery().label("standing"),
    ).select_from(t.lane.outerjoin(last, is_last))


_OUTLINES = _outlines().where(one_of(t.lane.c.id, NUMBERS))
_TAILS = _tails().where(one_of(t.lane.c.id, NUMBERS))
_LOCK_KNOWN = (
    select(t.lane.c.id, t.lane.c.key)
    .where(
        t.lane.c.destination == bindparam("of_destination"),
        one_of(t.lane.c.key, bindparam("keys", type_=Listed(Text))),
    )
    .order_by(t.lane.c.key)
    .with_for_update()
)
_MOVE = (
    update(t.delivery)
    .where(one_of(_D.id, NUMBERS), _D.state == bindparam("old_state"))
    .values(state=bindparam("new_state"), changed_at=store_clock())
)


def _of_each_lane(query: Callable[[ColumnElement[int]], Select[Any]]) -> Select[Any]:
    """PostgreSQL: the rows of a query for each of the lanes, in order of place within one."""
    lane = select(t.lane.c.id).where(one_of(t.lane.c.id, NUMBERS)).subquery()
    each = query(lane.c.id).lateral("each_lane")
    return select(each).select_from(lane.join(each, true())).order_by(each.c.place, each.c.part)


_STANDING_IN_LANE = _standing_in(_NUMBER, _LIMIT)
_STANDING_IN_EACH = _of_each_lane(lambda lane: _standing_in(lane, _LIMIT))
_NOTABLE_IN_LANE = _notable_in(_NUMBER)
_NOTABLE_IN_EACH = _of_each_lane(_notable_in)


@cache
def _lock_lanes(*, is_sqlite: bool) -> Any:
    if is_sqlite:
        statement = insert_into(t.lane, is_sqlite=True)
    else:
        statement = from_lists(t.lane, "destination", "key", "tail")
    return statement.on_conflict_do_update(
        index_elements=["destination", "key"], set_={"tail": t.lane.c.tail + statement.excluded.tail}
    ).returning(t.lane.c.id, t.lane.c.destination, t.lane.c.key, t.lane.c.tail)


class Lanes(UnitOfWork):
    """Lanes that this transaction locked, and what stands in them."""

    def __init__(self, database: Database, connection: Connection) -> None:
        super().__init__(database, connection)
        self.lanes: dict[LaneKey, int] = {}

    def lock_lanes(self, lanes: Mapping[LaneKey, int]) -> dict[LaneKey, int]:
        ordered = sorted(lanes, key=lambda lane: lane.lock_order)
        before: dict[LaneKey, int] = {}
        statement = _lock_lanes(is_sqlite=self.database.is_sqlite)
        for part in chunks(ordered):
            values = [{"destination": lane.destination, "key": lane.key, "tail": lanes[lane]} for lane in part]
            given = values if self.database.is_sqlite else as_lists(values)
            for row in self.connection.execute(statement, given):
                key = LaneKey(row.destination, row.key)
                self.lanes[key] = row.id
                before[key] = row.tail - lanes[key]
        return before

    def lock_known_lanes(self, lanes: Collection[LaneKey]) -> None:
        ordered = sorted(lanes, key=lambda lane: lane.lock_order)
        for destination, of_one in itertools.groupby(ordered, key=lambda lane: lane.destination):
            for part in chunks([lane.key for lane in of_one]):
                for row in self.connection.execute(_LOCK_KNOWN, {"of_destination": destination, "keys": part}):
                    self.lanes[LaneKey(destination, row.key)] = row.id

    def tail_rooms(self, lanes: Collection[LaneKey]) -> dict[LaneKey, TailRoom]:
        names = {self.lanes[lane]: lane for lane in lanes}
        rooms: dict[LaneKey, TailRoom] = {}
        for part in chunks(list(names)):
            for row in self.connection.execute(_TAILS, {"numbers": part}):
                lane = names[row.number]
                last = None if row.id is None else Standing(row.id, Stage(row.stage), State(row.state))
                rooms[lane] = TailRoom(last is not None, tail_room(lane.destination, last, row.standing))
        return rooms

    def advance(self, lanes: Collection[LaneKey]) -> set[str]:
        numbers = {self.lanes[lane]: lane for lane in lanes}
        queues, short = self._short(list(numbers))
        ready: list[int] = []
        waiting: list[int] = []
        for number, rows in self._notable(short).items():
            moves = head_run(
                numbers[number].destination, [Standing(row.id, Stage(row.stage), State(row.state)) for row in rows]
            )
            ready += moves.ready
            waiting += moves.waiting
            moved = set(moves.ready)
            queues.update(row.queue for row in rows if row.id in moved or row.state == State.READY)
        for old, new, moved_now in ((State.WAITING, State.READY, ready), (State.READY, State.WAITING, waiting)):
            for part in chunks(sorted(moved_now)):
                states = {"old_state": str(old), "new_state": str(new)}
                self.connection.execute(_MOVE, {"numbers": part, **states})
        return queues

    def _short(self, lanes: Sequence[int]) -> tuple[set[str], list[int]]:
        """The queues of lanes in which enough runs, and the other lanes: in them something may have to move.

        Enough runs where the head does, and with it everything up to the end of the lane or to the middle of a run:
        whatever stops a lane does so at its head, since nothing is settled before what stands before it.
        """
        queues: set[str] = set()
        short: list[int] = []
        for part in chunks(lanes):
            for row in self.connection.execute(_OUTLINES, {"numbers": part}):
                if row.head_runs and (row.last_runs or row.middle_runs):
                    queues.update([row.queue] if row.state == State.READY else [])
                elif row.head_runs is not None:
                    short.append(row.number)
        return queues, short

    def standing(self, lanes: Mapping[int, int]) -> dict[int, list[Any]]:
        """The first standing deliveries of each lane, in order of place; lane → how many at the most."""
        if self.database.is_sqlite:
            return {
                number: list(self.connection.execute(_STANDING_IN_LANE, {"number": number, "at_most": limit}))
                for number, limit in lanes.items()
            }
        return self._by_lane(_STANDING_IN_EACH, lanes, at_most=max(lanes.values(), default=0))

    def _notable(self, lanes: Sequence[int]) -> dict[int, list[Any]]:
        """See `_notable_in`, for each lane."""
        if self.database.is_sqlite:
            return {number: list(self.connection.execute(_NOTABLE_IN_LANE, {"number": number})) for number in lanes}
        return self._by_lane(_NOTABLE_IN_EACH, lanes)

    def _by_lane(self, statement: Select[Any], lanes: Collection[int], **given: int) -> dict[int, list[Any]]:
        found: dict[int, list[Any]] = {}
        for part in chunks(list(lanes)):
            for row in self.connection.execute(statement, {"numbers": part, **given}):
                found.setdefault(row.lane, []).append(row)
        return found
