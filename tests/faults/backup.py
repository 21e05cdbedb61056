"""A backup of the store, made while the bus works; put back it is the store as it was then."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path

import psycopg
from psycopg import sql
from sqlalchemy.engine import make_url

from bus.store.engine import Database


def back_up(database: Database, folder: Path) -> Callable[[], None]:
    """Copy the store beside whoever writes to it; what is returned puts the copy in its place, once nobody uses it."""
    return _of_sqlite(database, folder) if database.is_sqlite else _of_postgresql(database, folder)


def _of_sqlite(database: Database, folder: Path) -> Callable[[], None]:
    copy = folder / "backup.db"
    with contextlib.closing(sqlite3.connect(database.path)) as connection:
        connection.execute("VACUUM INTO ?", (str(copy),))

    def put_back() -> None:
        database.close()
        # A log that belongs to another file than the one it lies beside would be taken for its own.
        for ending in ("-wal", "-shm", ""):
            database.path.with_name(database.path.name + ending).unlink(missing_ok=True)
        shutil.copy(copy, database.path)

    return put_back


def _of_postgresql(database: Database, folder: Path) -> Callable[[], None]:
    url = make_url(database.url)
    host, name = str(url.query["host"]), str(url.database)
    login = ("-h", host, "-U", str(url.username))
    programs = _programs_of(Path(host))
    copy = folder / "backup.dump"
    subprocess.run([programs / "pg_dump", *login, "-Fc", "-f", copy, name], check=True, capture_output=True)

    def put_back() -> None:
        database.close()
        with psycopg.connect(host=host, user=url.username, dbname="postgres", autocommit=True) as administrator:
            administrator.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
            administrator.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        subprocess.run([programs / "pg_restore", *login, "-d", name, copy], check=True, capture_output=True)

    return put_back


def _programs_of(server: Path) -> Path:
    """Where the server's own programs are, those for backups among them."""
    pid = (server / "data" / "postmaster.pid").read_text().split()[0]
    return Path(os.readlink(f"/proc/{pid}/exe")).parent
