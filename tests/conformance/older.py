"""A store of an earlier revision, with the rows of a present one."""

from __future__ import annotations

from importlib import resources

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, column, insert, inspect, select, table, text

from bus.store import tables as t
from bus.store.engine import Database
from bus.store.sqlstore import SqlStore


def as_of(revision: str, store: SqlStore, address: str) -> SqlStore:
    """Make the store of this revision at the address, and put everything into it that the other one has."""
    database = Database(address)
    config = Config()
    config.set_main_option("script_location", str(resources.files("bus.store") / "migrations"))
    config.attributes["database"] = database
    command.upgrade(config, revision)
    with store.database.read() as reading, database.write() as writing:
        _copy(reading, writing)
    return SqlStore(database)


def _copy(reading: Connection, writing: Connection) -> None:
    there = inspect(writing)
    for known in t.metadata.sorted_tables:
        if not there.has_table(known.name):
            continue
        names = {found["name"] for found in there.get_columns(known.name)}
        same = table(known.name, *(column(c.name, c.type) for c in known.c if c.name in names))
        rows = [dict(row._mapping) for row in reading.execute(select(*same.c))]
        if rows:
            writing.execute(insert(same), rows)
        if "id" in names and writing.dialect.name == "postgresql":
            last = f"SELECT setval(pg_get_serial_sequence('{known.name}', 'id'), max(id)) FROM {known.name}"
            writing.execute(text(last))
