"""What the relay asks of the store: due retries, unattended work, the dead workers' deliveries, folded totals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import replace
from datetime import timedelta

from sqlalchemy import delete, func, insert, or_, select, tuple_

from bus.model.delivery import Event, State, worker_died
from bus.model.lane import LaneKey
from bus.ports import Actor, Settled
from bus.store import tables as t
from bus.store.claims import load
from bus.store.engine import Database
from bus.store.states import HELD, in_state
from bus.store.transaction import SqlTransaction

_D = t.delivery.c
_BURY = 256
"""Deliveries of a dead worker settled in one transaction."""


def wake_due(database: Database, *, limit: int) -> set[str]:
    """See MessageStore.wake_due."""
    with database.read() as connection:
        now = database.now(connection)
        query = (
            select(_D.id).where(in_state(_D.state, State.RETRYING), _D.due_at <= now).order_by(_D.due_at).limit(limit)
        )
        due = list(connection.execute(query).scalars())
    if not due:
        return set()
    with database.write() as connection:
        transaction = SqlTransaction(database, connection)
        moved = transaction.move(due, Event.DUE, expected=State.RETRYING)
        transaction.finish()
        return moved.queues


def queues_with_work(database: Database, *, queues: Collection[str], older_than: timedelta) -> set[str]:
    """See MessageStore.queues_with_work."""
    with database.read() as connection:
        now = database.now(connection)
        shut = set(connection.execute(select(t.endpoint.c.name).where(t.endpoint.c.state != "open")).scalars())
        found: set[str] = set()
        for queue in queues:
            oldest = connection.execute(
                select(_D.changed_at)
                .where(_D.queue == queue, in_state(_D.state, State.READY))
                .order_by(_D.changed_at)
                .limit(1)
            ).scalar()
            # Later than now: the clock was set back. Nobody waits for it to get there again.
            if oldest is not None and not now - older_than < oldest <= now + older_than:
                found.add(queue)
        doubts = select(_D.queue).where(in_state(_D.state, State.IN_DOUBT), _D.due_at <= now).distinct()
        found.update(connection.execute(doubts).scalars())
        checks = select(t.endpoint.c.name).where(
            t.endpoint.c.state == "tripped", or_(t.endpoint.c.check_at.is_(None), t.endpoint.c.check_at <= now)
        )
        due_checks = {f"send.{name}" for name in connection.execute(checks).scalars()}
        shut_queues = {f"send.{name}" for name in shut}
        return (found - shut_queues | due_checks) & set(queues)


def workers_without_lease(database: Database) -> set[str]:
    """See MessageStore.workers_without_lease."""
    held = in_state(_D.state, *HELD)
    query = select(_D.worker).where(held, _D.worker.not_in(select(t.lease.c.name))).distinct()
    with database.read() as connection:
        return set(connection.execute(query).scalars())


def claims_of(database: Database, worker: str) -> set[str]:
    """See MessageStore.claims_of."""
    query = select(_D.token).where(_D.worker == worker, in_state(_D.state, *HELD)).distinct()
    with database.read() as connection:
        return set(connection.execute(query).scalars())


def bury_worker(
    database: Database, worker: str, *, actor: Actor, claims: Collection[str] | None = None, died: bool = True
) -> set[str]:
    """See MessageStore.bury_worker."""
    queues: set[str] = set()
    held = in_state(_D.state, *HELD)
    query = select(_D.id).where(_D.worker == worker, held).limit(_BURY)
    if claims is not None:
        query = query.where(_D.token.in_(list(claims)))
    while True:
        with database.read() as connection:
            numbers = list(connection.execute(query).scalars())
        if not numbers:
            return queues
        with database.write() as connection:
            transaction = SqlTransaction(database, connection)
            claimed = list(load(connection, numbers))
            lanes: set[LaneKey] = {c.lane for c in claimed if c.lane is not None}
            transaction.lock_known_lanes(lanes)
            owned = transaction.own([(c.id, c.token) for c in claimed])
            settled = []
            for c in claimed:
                found = owned.get(c.id)
                if found is not None and found.state in (State.CLAIMED, State.SENDING):
                    deaths = c.deaths + 1 if died else c.deaths
                    outcome = worker_died(found.state, deaths=deaths)
                    settled.append(Settled(claimed=replace(c, deaths=deaths), outcome=outcome))
            transaction.settle(settled, owned=owned, actor=actor)
            queues |= {s.claimed.queue for s in settled} | transaction.advance(lanes)
            transaction.finish()


def fold_totals(database: Database) -> None:
    """Replace the deltas of each total by their sum."""
    total = t.total.c
    with database.write() as connection:
        several = select(total.measure, total.route).group_by(total.measure, total.route).having(func.count() > 1)
        # What is deleted is what is summed: rows that others commit or fold meanwhile are not ours to count.
        folded = (
            delete(t.total)
            .where(tuple_(total.measure, total.route).in_(several))
            .returning(total.measure, total.route, total.amount)
        )
        sums: Counter[tuple[str, str]] = Counter()
        for row in connection.execute(folded):
            sums[row.measure, row.route] += row.amount
        if sums:
            connection.execute(
                insert(t.total), [{"measure": m, "route": r, "amount": amount} for (m, r), amount in sums.items()]
            )
