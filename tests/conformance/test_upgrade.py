"""Upgrades of the tables: refused while the release before works with them, and by a release that knows them not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import resources

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import text

from bus.errors import NotAvailable
from bus.store import schema
from bus.store.engine import Database
from bus.store.sqlstore import SqlStore

BEFORE = "0001"


@pytest.fixture
def old(store_url: str) -> Iterator[Database]:
    """A database with the tables of the revision before this release's."""
    database = Database(store_url)
    config = Config()
    config.set_main_option("script_location", str(resources.files("bus.store") / "migrations"))
    config.attributes["database"] = database
    command.upgrade(config, BEFORE)
    yield database
    database.close()


def test_a_process_refuses_the_tables_of_the_release_before_and_says_what_to_type(old: Database) -> None:
    with pytest.raises(NotAvailable, match=r"at revision 0001, this release needs .*; run: bus store upgrade"):
        schema.require_current(old)


def test_tables_that_somebody_works_with_are_not_upgraded(old: Database) -> None:
    store = SqlStore(old)
    store.take_lease("worker:of-before", "worker:of-before", instead_of=None)

    with pytest.raises(NotAvailable, match=r"in use: worker:of-before\. Stop every router, worker and relay"):
        schema.upgrade(old)
    assert schema.revisions(old)[0] == BEFORE

    store.drop_lease("worker:of-before", "worker:of-before")
    schema.upgrade(old)
    schema.require_current(old)


def test_an_upgrade_with_nothing_to_do_disturbs_nobody_at_work(old: Database) -> None:
    schema.upgrade(old)
    SqlStore(old).take_lease("worker:of-now", "worker:of-now", instead_of=None)

    schema.upgrade(old)

    schema.require_current(old)


@pytest.mark.parametrize("step", [schema.require_current, schema.upgrade])
def test_a_release_refuses_the_tables_of_a_newer_one(old: Database, step: Callable[[Database], None]) -> None:
    with old.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))

    with pytest.raises(NotAvailable, match="at revision 9999, made by a newer release"):
        step(old)
