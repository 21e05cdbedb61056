"""Counts a store again from its rows, and says what does not add up: the tests' own bookkeeping."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import Table, select

from bus.model.delivery import FINAL, Stage, State
from bus.model.lane import Standing, head_run
from bus.model.ledger import bucket, disposition, equations
from bus.model.message import BUS
from bus.pipeline.plan import REENTRY
from bus.store import tables as t
from bus.store.sqlstore import SqlStore
from bus.store.verify import verify


def rows(store: SqlStore, table: Table) -> Sequence[Any]:
    """Every row of a table, of all months, oldest first where it has an id."""
    query = select(table)
    if "id" in table.c:
        query = query.order_by(table.c.id)
    with store.database.history() as connection:
        return connection.execute(query).all()


def states(store: SqlStore) -> list[State]:
    """The state of every delivery, oldest first."""
    return [State(row.state) for row in rows(store, t.delivery)]


def totals(store: SqlStore) -> Counter[tuple[str, str]]:
    """(measure, route) → what the ledger says; zeros are left out."""
    sums: Counter[tuple[str, str]] = Counter()
    for row in rows(store, t.total):
        sums[row.measure, row.route] += row.amount
    return Counter({key: amount for key, amount in sums.items() if amount})


def recount(store: SqlStore) -> Counter[tuple[str, str]]:
    """The same, counted from receipts, messages and deliveries themselves."""
    counted: Counter[tuple[str, str]] = Counter()
    for receipt in rows(store, t.receipt):
        counted["received", ""] += 1
        counted[receipt.kind, ""] += 1
    planned: Counter[int] = Counter()
    entering: Counter[int] = Counter()
    for d in rows(store, t.delivery):
        planned[d.message] += d.route != REENTRY
        if d.destination == BUS and State(d.state) not in FINAL:
            entering[d.message] += 1
        else:
            counted["planned", d.route] += 1
            counted[bucket(State(d.state)), d.route] += 1
    for m in rows(store, t.message):
        if m.parent is None:
            counted["received", ""] += 1
            counted["accepted", ""] += 1
        else:
            counted["produced", ""] += 1
        counted[disposition(planned[m.id], entering[m.id]), ""] += 1
    return counted


def discrepancies(store: SqlStore) -> Iterator[str]:
    """Everything that contradicts promise 2, or a lane that would never move again; the bus's own proof included."""
    yield from unbalanced(store)
    yield from (f"verify: {one.text}" for one in verify(store.database))


def unbalanced(store: SqlStore) -> Iterator[str]:
    """The same by the tests' own count alone, which is quicker."""
    said, counted = totals(store), recount(store)
    for key in sorted(said.keys() | counted.keys()):
        if said[key] != counted[key]:
            yield f"the ledger says {key} {said[key]}, the rows {counted[key]}"
    measures: Counter[str] = Counter()
    for (measure, _), amount in said.items():
        measures[measure] += amount
    yield from (str(equation) for equation in equations(measures) if not equation.balances)
    yield from _wrong_numbers(store)
    yield from _stuck_lanes(store)


def _wrong_numbers(store: SqlStore) -> Iterator[str]:
    deliveries = rows(store, t.delivery)
    planned = Counter(d.message for d in deliveries if d.route != REENTRY)
    produced = Counter(m.parent for m in rows(store, t.message) if m.parent is not None)
    for m in rows(store, t.message):
        if m.planned != planned[m.id]:
            yield f"message {m.id} notes {m.planned} planned deliveries and has {planned[m.id]}"
    for d in deliveries:
        if (d.produced or 0) != produced[d.id]:
            yield f"delivery {d.id} notes {d.produced} produced messages and has {produced[d.id]}"


def _stuck_lanes(store: SqlStore) -> Iterator[str]:
    destinations = {lane.id: lane.destination for lane in rows(store, t.lane)}
    lanes: dict[int, list[Any]] = defaultdict(list)
    for d in rows(store, t.delivery):
        if d.stands:
            lanes[d.lane].append(d)
        elif d.state == State.WAITING:
            yield f"delivery {d.id} waits and stands in no lane"
    for number, standing in lanes.items():
        standing.sort(key=lambda d: (d.place, d.part))
        places = [(d.place, d.part) for d in standing]
        if len(set(places)) != len(places):
            yield f"lane {number}: two deliveries have one place"
        moves = head_run(destinations[number], [Standing(d.id, Stage(d.stage), State(d.state)) for d in standing])
        if moves.ready or moves.waiting:
            yield f"lane {number}: {moves.ready} should be READY, {moves.waiting} should wait"


def steps(bodies: Sequence[bytes], order: str) -> list[int]:
    """The steps of one order, in the order of the bodies."""
    return [document["step"] for document in map(json.loads, bodies) if document["order"] == order]
