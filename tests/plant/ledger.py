"""What the bus's store says at one moment: flows, endpoints, lanes that are blocked, what is dead."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, func, select

from bus.model.delivery import State
from bus.model.ledger import equations
from bus.store import tables as t
from bus.store.engine import Database

_D = t.delivery.c
_AT_WORK = (State.READY, State.CLAIMED, State.SENDING, State.RETRYING, State.IN_DOUBT)


@dataclass(frozen=True, kw_only=True)
class EndpointState:
    """An endpoint and its deliveries by state. `checks`: how often it was asked whether it is back."""

    name: str
    state: str
    cause: str
    checks: int
    deliveries: Mapping[str, int]

    @property
    def is_open(self) -> bool:
        return self.state == "open"

    def count(self, *states: State) -> int:
        return sum(self.deliveries.get(state, 0) for state in states)


@dataclass(frozen=True, kw_only=True)
class BlockedLane:
    """A lane whose head is dead or in doubt, and how many wait behind it."""

    name: str
    state: str
    cause: str
    behind: int


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """One look; `at` is monotonic, before it began. Bus deliveries (re-entry) stand under the destination `bus`."""

    at: float
    totals: Mapping[tuple[str, str], int]
    states: Mapping[tuple[str, str], int]
    endpoints: Mapping[str, EndpointState]
    blocked: Sequence[BlockedLane]
    dead: Mapping[str, int]

    def total(self, measure: str) -> int:
        return sum(amount for (name, _), amount in self.totals.items() if name == measure)

    def of_route(self, route: str, measure: str) -> int:
        return self.totals.get((measure, route), 0)

    def count(self, *states: State) -> int:
        return sum(many for (_, state), many in self.states.items() if state in states)

    @property
    def sums(self) -> list[str]:
        """The three sums of the ledger, written out."""
        totals: Counter[str] = Counter()
        for (measure, _), amount in self.totals.items():
            totals[measure] += amount
        return [str(equation) for equation in equations(totals)]

    @property
    def is_at_rest(self) -> bool:
        """Nothing can happen by itself: what still waits stands behind something dead."""
        return not self.count(*_AT_WORK) and self.count(State.WAITING) == self.stuck

    @property
    def stuck(self) -> int:
        return sum(lane.behind for lane in self.blocked)

    def __str__(self) -> str:
        states = Counter[str]()
        for (_, state), many in self.states.items():
            states[state] += many
        held = " ".join(f"{state}={many}" for state, many in sorted(states.items())) or "nothing open"
        shut = " ".join(f"{e.name} {e.state}: {e.cause}" for e in self.endpoints.values() if not e.is_open)
        return f"received {self.total('received')}, delivered {self.total('delivered')}, {held} {shut}".strip()


class Ledger:
    """Reads the store; writes nothing."""

    def __init__(self, database: Database, endpoints: Sequence[str]) -> None:
        self.database = database
        self._endpoints = endpoints

    def look(self) -> Snapshot:
        """Everything from one snapshot of the database."""
        at = time.monotonic()
        with self.database.read() as connection:
            states = _states(connection)
            return Snapshot(
                at=at,
                totals=_totals(connection),
                states=states,
                endpoints=_endpoints(connection, self._endpoints, states),
                blocked=_blocked(connection),
                dead=_dead(connection),
            )

    def rows(self, query: Any) -> list[dict[str, Any]]:
        """The rows of a SELECT, by column name."""
        with self.database.read() as connection:
            return [dict(row._mapping) for row in connection.execute(query)]


def _totals(connection: Connection) -> dict[tuple[str, str], int]:
    c = t.total.c
    query = select(c.measure, c.route, func.sum(c.amount).label("amount")).group_by(c.measure, c.route)
    return {(row.measure, row.route): int(row.amount) for row in connection.execute(query)}


def _states(connection: Connection) -> dict[tuple[str, str], int]:
    """(destination, state) → how many, of those that are not final."""
    final = (str(State.DELIVERED), str(State.DISCARDED))
    query = select(_D.destination, _D.state, func.count().label("many")).where(_D.state.not_in(final))
    rows = connection.execute(query.group_by(_D.destination, _D.state))
    return {(row.destination, row.state): row.many for row in rows}


def _endpoints(
    connection: Connection, names: Sequence[str], states: Mapping[tuple[str, str], int]
) -> dict[str, EndpointState]:
    """An endpoint without a row in the store is open."""
    rows = {row.name: row for row in connection.execute(select(t.endpoint))}
    return {
        name: EndpointState(
            name=name,
            state=rows[name].state if name in rows else "open",
            cause=rows[name].cause if name in rows else "",
            checks=rows[name].checks if name in rows else 0,
            deliveries={state: many for (destination, state), many in states.items() if destination == name},
        )
        for name in names
    }


def _blocked(connection: Connection) -> list[BlockedLane]:
    behind = t.delivery.alias("behind")
    waiting = (
        select(func.count())
        .where(behind.c.lane == _D.lane, behind.c.stands, behind.c.state == str(State.WAITING))
        .scalar_subquery()
    )
    query = (
        select(t.lane.c.destination, t.lane.c.key, _D.state, _D.cause, waiting.label("behind"))
        .join(t.lane, t.lane.c.id == _D.lane)
        .where(_D.state.in_([str(State.DEAD), str(State.IN_DOUBT)]), _D.stands)
        .order_by(_D.id)
    )
    return [
        BlockedLane(name=f"{row.destination}/{row.key}", state=row.state, cause=row.cause, behind=row.behind)
        for row in connection.execute(query)
    ]


def _dead(connection: Connection) -> dict[str, int]:
    query = select(_D.cause, func.count().label("many")).where(_D.state == str(State.DEAD)).group_by(_D.cause)
    return {row.cause: row.many for row in connection.execute(query)}
