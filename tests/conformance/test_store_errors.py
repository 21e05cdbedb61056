"""What an error of the database means: away for now, in conflict, refused for good."""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, OperationalError

from bus.errors import BusError, DataRefused, StoreConflict, StoreRefuses, StoreUnavailable
from bus.store.engine import Database, translated
from bus.store.sqlstore import SqlStore


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EIO])
def test_a_lock_that_cannot_be_had_means_that_the_store_is_away(
    code: int, sqlite_with_tables: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)

    with pytest.raises(StoreUnavailable, match="cannot be locked"), Database(f"sqlite:///{sqlite_with_tables}").write():
        pass


def test_missing_tables_are_refused_with_the_command_that_makes_them(store: SqlStore) -> None:
    with pytest.raises(StoreRefuses, match="run: bus store upgrade"), store.database.write() as connection:
        connection.execute(text("SELECT 1 FROM gone"))


@pytest.mark.parametrize("statement", ["SELEC 1", "SELECT gone FROM delivery"])
def test_a_statement_that_is_wrong_is_not_waited_for(store: SqlStore, statement: str) -> None:
    with pytest.raises(StoreRefuses), store.database.read() as connection:
        connection.execute(text(statement))


@pytest.mark.postgresql
def test_a_right_that_is_missing_is_not_waited_for(postgresql_with_tables: str) -> None:
    database = Database(postgresql_with_tables)
    as_reader = text("CREATE ROLE reader; SET LOCAL ROLE reader; DELETE FROM delivery")

    with pytest.raises(StoreRefuses, match="permission denied"), database.write() as connection:
        connection.execute(as_reader)

    database.close()


class _Told(Exception):
    """An error of the driver with this SQLSTATE."""

    def __init__(self, sqlstate: str | None) -> None:
        super().__init__("the server said so")
        self.sqlstate = sqlstate


@pytest.mark.parametrize(
    ("sqlstate", "meaning"),
    [
        (None, StoreUnavailable),  # the connection broke: nobody said anything
        ("08006", StoreUnavailable),
        ("25006", StoreUnavailable),  # a standby, just after a switch
        ("25P03", StoreUnavailable),
        ("53100", StoreUnavailable),  # disk full
        ("57P01", StoreUnavailable),
        ("58030", StoreUnavailable),
        ("XX000", StoreUnavailable),
        ("40001", StoreConflict),
        ("40P01", StoreConflict),
        ("22021", DataRefused),
        ("23505", DataRefused),
        ("54000", DataRefused),
        ("42501", StoreRefuses),
        ("42601", StoreRefuses),
        ("42P01", StoreRefuses),
        ("3D000", StoreRefuses),
        ("28P01", StoreRefuses),
    ],
)
def test_what_a_database_says_is_waited_for_only_where_that_helps(
    sqlstate: str | None, meaning: type[BusError]
) -> None:
    with pytest.raises(meaning), translated():
        raise DBAPIError("SELECT 1", None, _Told(sqlstate))


@pytest.mark.parametrize("said", ["database is locked", "disk I/O error", "unable to open database file"])
def test_a_busy_or_broken_disk_is_waited_for(said: str) -> None:
    with pytest.raises(StoreUnavailable, match=said), translated():
        raise OperationalError("COMMIT", None, sqlite3.OperationalError(said))


def test_a_sqlite_file_that_may_only_be_read_is_not_waited_for() -> None:
    with pytest.raises(StoreRefuses, match="readonly"), translated():
        raise OperationalError("COMMIT", None, sqlite3.OperationalError("attempt to write a readonly database"))
