"""The whole at a glance: the ledger's sums, routes with their latency, endpoints, who is at work."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, func, select

from bus.model.delivery import State
from bus.model.ledger import DELIVERIES, Equation, equations
from bus.model.message import BUS
from bus.store import tables as t
from bus.store.bulk import NUMBERS, one_of
from bus.store.engine import Database
from bus.store.states import in_state
from bus.store.views import COUNTED, count_up_to
from bus.store.work import chunks

MEASURED = 2_000
"""The newest deliveries whose latency is measured."""

MAKINGS = 2
"""How often a message may have been made of another between the received one and the delivered one."""

_D = t.delivery.c
_M = t.message.c
_T = t.total.c
_E = t.endpoint.c


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """From the acceptance of the received message to its delivery, by the store's clock."""

    measured: int
    p50: timedelta
    p99: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteLine:
    """A route's deliveries by outcome, since ever; latency of the recent ones."""

    route: str
    planned: int
    delivered: int
    dead: int
    in_doubt: int
    discarded: int
    open: int
    latency: Latency | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointLine:
    """An endpoint as the store knows it; `held`: READY while it is not open."""

    name: str
    state: str
    cause: str
    detail: str
    since: datetime | None
    actor: str
    check_at: datetime | None
    checks: int
    ready: int
    ready_is_exact: bool
    oldest: datetime | None
    """Since when the oldest READY one waits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseLine:
    """A router, worker or relay that said it is alive, and how long ago."""

    name: str
    holder: str
    beat_at: datetime
    age: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """What `bus status` shows, from one snapshot."""

    at: datetime
    equations: tuple[Equation, Equation, Equation]
    routes: list[RouteLine]
    latency: Latency | None
    leases: list[LeaseLine]
    dead: int
    doubts: int
    re_entering_dead: int
    """Dead ones on their way into the bus: the ledger counts their messages as entering."""


def overview(database: Database) -> Overview:
    """The ledger, routes, latency and leases."""
    with database.history() as connection:
        now = database.now(connection)
        by_route = totals(connection)
        sums: dict[str, int] = defaultdict(int)
        for (measure, _), amount in by_route.items():
            sums[measure] += amount
        latencies = _latencies(connection)
        return Overview(
            at=now,
            equations=equations(sums),
            routes=_routes(by_route, latencies),
            latency=_latency([value for values in latencies.values() for value in values]),
            leases=_leases(connection, now),
            dead=sums["dead"],
            doubts=sums["in-doubt"],
            re_entering_dead=count_up_to(
                connection, select(_D.id).where(in_state(_D.state, State.DEAD), _D.destination == BUS), COUNTED
            ),
        )


def totals(connection: Connection) -> dict[tuple[str, str], int]:
    """(measure, route) → amount, of folded and unfolded rows."""
    query = select(_T.measure, _T.route, func.sum(_T.amount).label("amount")).group_by(_T.measure, _T.route)
    return {(row.measure, row.route): int(row.amount) for row in connection.execute(query)}


def _routes(by_route: Mapping[tuple[str, str], int], latencies: Mapping[str, Sequence[timedelta]]) -> list[RouteLine]:
    names = sorted({route for (_, route), amount in by_route.items() if route and amount})
    lines = []
    for name in names:
        counts = {measure.replace("-", "_"): by_route.get((measure, name), 0) for measure in ("planned", *DELIVERIES)}
        lines.append(RouteLine(route=name, latency=_latency(latencies.get(name, ())), **counts))
    return lines


def _latencies(connection: Connection) -> dict[str, list[timedelta]]:
    """Route → latencies among the newest MEASURED deliveries; up to two makings back to the received message.

    Rows by their ids, step by step: a join leaves a database without statistics room for a plan that takes minutes.
    """
    newest = select(_D.message, _D.route, _D.state, _D.destination, _D.replay, _D.changed_at)
    ended = [
        row
        for row in connection.execute(newest.order_by(_D.id.desc()).limit(MEASURED))
        if row.state == State.DELIVERED and row.destination != BUS and not row.replay
    ]
    first = {row.message: row.message for row in ended}
    accepted: dict[int, datetime] = {}
    for _ in range(MAKINGS + 1):
        messages = _by_id(connection, _M.id, set(first.values()), _M.accepted_at, _M.parent)
        accepted |= {number: row.accepted_at for number, row in messages.items()}
        makers = _by_id(connection, _D.id, {row.parent for row in messages.values() if row.parent}, _D.message)
        first = {
            last: makers[messages[number].parent].message if messages[number].parent in makers else number
            for last, number in first.items()
        }
    found: dict[str, list[timedelta]] = defaultdict(list)
    for row in ended:
        found[row.route].append(row.changed_at - accepted[first[row.message]])
    return found


def _by_id(connection: Connection, key: Any, numbers: Collection[int], *columns: Any) -> dict[int, Any]:
    query = select(key, *columns).where(one_of(key, NUMBERS))
    found: dict[int, Any] = {}
    for part in chunks(sorted(numbers)):
        found.update({row.id: row for row in connection.execute(query, {"numbers": part})})
    return found


def _latency(values: Sequence[timedelta]) -> Latency | None:
    if not values:
        return None
    ordered = sorted(values)
    return Latency(measured=len(ordered), p50=_at(ordered, 0.50), p99=_at(ordered, 0.99))


def _at(ordered: Sequence[timedelta], share: float) -> timedelta:
    """The nearest-rank percentile."""
    rank = -(-len(ordered) * share // 1)
    return ordered[max(int(rank), 1) - 1]


def _leases(connection: Connection, now: datetime) -> list[LeaseLine]:
    return [
        LeaseLine(name=row.name, holder=row.holder, beat_at=row.beat_at, age=now - row.beat_at)
        for row in connection.execute(select(t.lease).order_by(t.lease.c.name))
    ]


# --- endpoints -------------------------------------------------------------------------------------------------------


def endpoint_lines(database: Database, names: Collection[str]) -> list[EndpointLine]:
    """These endpoints, and any other the store has a row of; one without a row is open."""
    with database.history() as connection:
        rows = {row.name: row for row in connection.execute(select(t.endpoint).order_by(_E.name))}
        lines = []
        for name in sorted({*names, *rows}):
            row = rows.get(name)
            ready, oldest = _ready(connection, f"send.{name}")
            lines.append(
                EndpointLine(
                    name=name,
                    state=row.state if row else "open",
                    cause=row.cause if row else "",
                    detail=row.detail if row else "",
                    since=row.since if row else None,
                    actor=row.actor if row else "",
                    check_at=row.check_at if row else None,
                    checks=row.checks if row else 0,
                    ready=ready,
                    ready_is_exact=ready < COUNTED,
                    oldest=oldest,
                )
            )
        return lines


def _ready(connection: Connection, queue: str) -> tuple[int, datetime | None]:
    ready = (_D.queue == queue, in_state(_D.state, State.READY))
    count = count_up_to(connection, select(_D.id).where(*ready), COUNTED)
    oldest = connection.execute(select(_D.changed_at).where(*ready).order_by(_D.id).limit(1)).scalar()
    return count, oldest


def counts_by_route(database: Database) -> dict[str, dict[str, int]]:
    """Route → measure → amount, from the totals."""
    found: dict[str, dict[str, int]] = defaultdict(dict)
    with database.read() as connection:
        for (measure, route), amount in totals(connection).items():
            if route:
                found[route][measure] = amount
    return found
