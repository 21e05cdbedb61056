"""Deliveries that wait in queues nobody works on: their endpoint went away from bus.toml."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import func, select

from bus.model.delivery import State
from bus.store import tables as t
from bus.store.engine import Database

_D = t.delivery.c

# As the partial indexes have it: WAITING is in lanes, where it stands.
_WAITS = (_D.state == State.READY.value, (_D.state == State.WAITING.value) & _D.stands)


@dataclass(frozen=True, slots=True)
class Unserved:
    """A queue with READY or WAITING deliveries, how many, and the oldest of them."""

    queue: str
    deliveries: int
    oldest: int


def unserved(database: Database, *, served: Collection[str]) -> list[Unserved]:
    """The queues beside `served` in which deliveries are to be claimed; nobody will."""
    found: dict[str, Unserved] = {}
    with database.history() as connection:
        for waits in _WAITS:
            query = select(_D.queue, func.count().label("deliveries"), func.min(_D.id).label("oldest"))
            for row in connection.execute(query.where(waits, _D.queue.not_in(list(served))).group_by(_D.queue)):
                other = found.get(row.queue, Unserved(row.queue, 0, row.oldest))
                found[row.queue] = Unserved(row.queue, other.deliveries + row.deliveries, min(other.oldest, row.oldest))
    return sorted(found.values(), key=lambda each: each.queue)
