"""A store of each kind, with its tables made."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from bus.pipeline import send
from bus.store.engine import Database
from bus.store.schema import upgrade
from bus.store.sqlstore import SqlStore
from bus.store.tables import metadata, period
from tests.services import PostgreSQL

# Making the tables takes longer than most tests: it is done once, and each test gets them empty.


@pytest.fixture(scope="session")
def sqlite_with_tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with the tables in it, to be copied."""
    path = tmp_path_factory.mktemp("store") / "empty.db"
    database = Database(f"sqlite:///{path}")
    upgrade(database)
    database.close()
    return path


@pytest.fixture(scope="session")
def postgresql_with_tables(postgresql: PostgreSQL) -> Iterator[str]:
    """The address of a PostgreSQL database with the tables in it, to be emptied."""
    with postgresql.fresh_database() as address:
        database = Database(address)
        upgrade(database)
        database.close()
        yield address


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SqlStore]:
    """An empty store, on SQLite and on PostgreSQL."""
    if request.param == "sqlite":
        shutil.copy(request.getfixturevalue("sqlite_with_tables"), tmp_path / "bus.db")
        database = Database(f"sqlite:///{tmp_path}/bus.db", pool_size=16)
    else:
        database = Database(request.getfixturevalue("postgresql_with_tables"), pool_size=16, plans_once=True)
        _empty(database)
    yield SqlStore(database)
    database.close()


def _empty(database: Database) -> None:
    """Delete every row, past the journal's trigger as only an administrator can, and number from 1 again."""
    with database.engine.begin() as connection:
        connection.execute(text("SET LOCAL session_replication_role = replica"))
        for table in reversed(metadata.sorted_tables):
            if table is not period:  # the open one is of the tables, as they were made
                connection.execute(table.delete())
        connection.execute(text("SELECT setval(sequencename::regclass, 1, false) FROM pg_sequences"))


@pytest.fixture
def address(store: SqlStore) -> str:
    """The address of the same store, for those who connect to it themselves."""
    return store.database.url.render_as_string(hide_password=False)


@pytest.fixture
def other_address(request: pytest.FixtureRequest, store: SqlStore, tmp_path: Path) -> str:
    """The address of an empty database of the same kind as the store."""
    if store.database.is_sqlite:
        return f"sqlite:///{tmp_path}/other.db"
    address: str = request.getfixturevalue("pg_database")
    return address


@pytest.fixture(autouse=True)
def _nothing_falls_due_by_itself(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checks and probes come when a test lets them, however long it takes to get there."""
    if request.node.get_closest_marker("real_pauses") is None:
        for pause in ("FIRST_CHECK", "LONGEST_CHECK", "FIRST_PROBE", "NEXT_PROBE"):
            monkeypatch.setattr(send, pause, timedelta(days=1))
