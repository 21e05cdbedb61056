"""A store of each kind, with its tables made."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bus.store.engine import Database
from bus.store.schema import upgrade
from bus.store.sqlstore import SqlStore


@pytest.fixture
def store(store_url: str) -> Iterator[SqlStore]:
    """An empty store, on SQLite and on PostgreSQL."""
    database = Database(store_url, pool_size=16)
    upgrade(database)
    yield SqlStore(database)
    database.close()
