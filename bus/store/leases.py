"""Leases: counters that their holders keep moving; who sees one stand still may take it."""

from __future__ import annotations

from sqlalchemy import delete, select, update

from bus.store import tables as t
from bus.store.engine import Database
from bus.store.transaction import SqlTransaction

_L = t.lease.c


def beat(database: Database, name: str, holder: str) -> bool:
    """Count the holder's lease on; False: it is not (any more) this holder's."""
    with database.write() as connection:
        changed = connection.execute(
            update(t.lease)
            .where(_L.name == name, _L.holder == holder)
            .values(counter=_L.counter + 1, beat_at=database.now(connection))
        )
        return changed.rowcount == 1


def take_lease(database: Database, name: str, holder: str, *, instead_of: tuple[str, int] | None) -> bool:
    """Take a free lease, or the one last seen at (holder, counter)."""
    with database.write() as connection:
        now = database.now(connection)
        if instead_of is None:
            insert = SqlTransaction(database, connection).insert(t.lease).on_conflict_do_nothing()
            values = {"name": name, "holder": holder, "counter": 1, "beat_at": now}
            # Not rowcount: for an INSERT it says -1 on PostgreSQL.
            return connection.execute(insert.values(values).returning(_L.name)).first() is not None
        changed = connection.execute(
            update(t.lease)
            .where(_L.name == name, _L.holder == instead_of[0], _L.counter == instead_of[1])
            .values(holder=holder, counter=_L.counter + 1, beat_at=now)
        )
        return changed.rowcount == 1


def leases(database: Database) -> dict[str, tuple[str, int]]:
    """name → (holder, counter) of every lease."""
    with database.read() as connection:
        return {row.name: (row.holder, row.counter) for row in connection.execute(select(t.lease))}


def end_lease(database: Database, name: str, *, seen: tuple[str, int]) -> bool:
    """See MessageStore.end_lease."""
    holder, counter = seen
    with database.write() as connection:
        ended = connection.execute(
            delete(t.lease).where(_L.name == name, _L.holder == holder, _L.counter == counter).returning(_L.name)
        )
        return ended.first() is not None


def drop_lease(database: Database, name: str, holder: str) -> None:
    with database.write() as connection:
        connection.execute(delete(t.lease).where(_L.name == name, _L.holder == holder))
