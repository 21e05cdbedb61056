"""Lanes as people look at them: what blocks one, how long it is, what stands in it in which order."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Select, func, select

from bus.errors import NotFound
from bus.model.delivery import State
from bus.store import tables as t
from bus.store.engine import Database
from bus.store.states import in_state
from bus.store.views import DeliveryLine, Page, delivery_line, lane_name, select_deliveries
from bus.store.work import chunks

LOOK_AT = 100_000
"""Standing deliveries that are counted by lane."""

BLOCKING = (State.DEAD, State.IN_DOUBT, State.RETRYING)
"""States in which a standing delivery lets nothing behind it pass."""

_D = t.delivery.c
_L = t.lane.c


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneLine:
    """A lane in which something stands: its head, and what blocks it where something does."""

    number: int
    lane: str
    standing: int
    blocked_by: str
    """State of the first delivery that lets nothing pass; empty: it moves."""
    delivery: int
    """The one that blocks, else the head."""
    endpoint_state: str
    """open, paused or tripped: one that is not open holds the lane though nothing in it blocks."""
    cause: str
    since: datetime
    """When that one came into its state."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneDetail:
    line: LaneLine | None
    """None: nothing stands in it."""
    lane: str
    standing: Page[DeliveryLine]


def list_lanes(database: Database, *, limit: int, endpoint: str = "", only_blocked: bool = False) -> Page[LaneLine]:
    """Blocked lanes first, then the longest; of each the one delivery to look at."""
    with database.history() as connection:
        blocked = _blocked(connection, endpoint)
        longest = {} if only_blocked else _longest(connection, endpoint, limit + len(blocked) + 1)
        numbers = [*blocked, *(number for number in longest if number not in blocked)]
        lengths = _lengths(connection, [number for number in blocked if number not in longest]) | longest
        numbers = sorted(numbers, key=lambda number: (number not in blocked, -lengths[number], number))
        lines = _lines(connection, numbers[:limit], blocked)
        return Page(lines, max(len(numbers) - limit, 0), only_blocked or len(longest) <= limit)


def lane_detail(database: Database, name: str, *, limit: int) -> LaneDetail:
    """A lane by its number or as `destination/key`, with what stands in it, in order.

    Raises:
        NotFound: there is no such lane.
    """
    destination, slash, key = name.partition("/")
    if slash:
        this = (_L.destination == destination, _L.key == key)
    elif name.isdecimal() and len(name) < 19:
        this = (_L.id == int(name), _L.id == int(name))
    else:
        raise NotFound(f"{name!r} is not the name of a lane: <endpoint>/<key>, erp/order:4711 say; see: bus lane list")
    with database.history() as connection:
        lane = connection.execute(select(t.lane).where(*this)).one_or_none()
        if lane is None:
            raise NotFound(f"there is no lane {name}; see: bus lane list")
        standing = select_deliveries().where(_D.lane == lane.id, _D.stands).order_by(_D.place, _D.part)
        lines = [delivery_line(row) for row in connection.execute(standing.limit(limit))]
        line = next(iter(_lines(connection, [lane.id], {lane.id})), None)
        more = line.standing - len(lines) if line is not None else 0
        return LaneDetail(
            line=line,
            lane=lane_name(lane.destination, lane.key),
            standing=Page(lines, more),
        )


def _of_endpoint(query: Select[Any], endpoint: str) -> Select[Any]:
    if not endpoint:
        return query
    return query.join(t.lane, _L.id == _D.lane).where(_L.destination == endpoint)


def _blocked(connection: Connection, endpoint: str) -> dict[int, None]:
    """Lanes with a dead, doubtful or retrying delivery that stands; those states have indexes of their own."""
    found: dict[int, None] = {}
    for state in BLOCKING:
        query = select(_D.lane).where(in_state(_D.state, state), _D.stands, _D.lane.is_not(None)).distinct()
        found |= dict.fromkeys(connection.execute(_of_endpoint(query, endpoint).limit(LOOK_AT)).scalars())
    return found


def _longest(connection: Connection, endpoint: str, limit: int) -> dict[int, int]:
    standing = _of_endpoint(select(_D.lane.label("lane")).where(_D.stands), endpoint).limit(LOOK_AT).subquery()
    count = func.count()
    query = select(standing.c.lane, count).group_by(standing.c.lane).order_by(count.desc(), standing.c.lane)
    return {row[0]: row[1] for row in connection.execute(query.limit(limit))}


def _lengths(connection: Connection, numbers: Sequence[int]) -> dict[int, int]:
    found: dict[int, int] = {}
    for part in chunks(numbers):
        query = select(_D.lane, func.count()).where(_D.lane.in_(part), _D.stands).group_by(_D.lane)
        found.update({row[0]: row[1] for row in connection.execute(query)})
    return found


def _lines(connection: Connection, numbers: Sequence[int], blocked: Collection[int]) -> list[LaneLine]:
    """The lanes with the one delivery to look at; `blocked`: those in which something may block."""
    lengths = _lengths(connection, numbers)
    endpoints = {row.name: row.state for row in connection.execute(select(t.endpoint.c.name, t.endpoint.c.state))}
    lines = []
    for number in numbers:
        standing = select_deliveries().where(_D.lane == number, _D.stands).order_by(_D.place, _D.part).limit(1)
        blocking = standing.where(_D.state.in_([str(state) for state in BLOCKING]))
        block = connection.execute(blocking).one_or_none() if number in blocked else None
        shown = connection.execute(standing).one_or_none() if block is None else block
        if shown is not None:
            lines.append(
                LaneLine(
                    number=number,
                    lane=lane_name(shown.lane_destination, shown.lane_key),
                    standing=lengths[number],
                    blocked_by="" if block is None else block.state,
                    delivery=shown.id,
                    endpoint_state=endpoints.get(shown.lane_destination, "open"),
                    cause=shown.cause,
                    since=shown.changed_at,
                )
            )
    return lines
