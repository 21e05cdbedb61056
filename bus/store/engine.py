"""Engines: SQLite with a fair writer gate, PostgreSQL with jit off; third-party errors translated once."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import (
    ArgumentError,
    DataError,
    DBAPIError,
    IntegrityError,
    InvalidatePoolError,
    StatementError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import ConnectionPoolEntry

from bus.errors import BusError, ConfigurationError, DataRefused, StoreConflict, StoreRefuses, StoreUnavailable
from bus.model.shown_url import shown_url
from bus.store.clock import teach_the_clock
from bus.store.postgresql_tls import remedied, with_checked_tls

_RETRY_STATES = {"40001", "40P01", "55P03"}  # serialisation failure, deadlock, lock not available
_LIMIT_EXCEEDED = "54"  # class of SQLSTATE: a value longer than an index takes
_DATA = ("22", "23")  # classes: data exception, integrity constraint violation
_AWAY = ("08", "25", "40", "53", "55", "57", "58", "XX")
"""Classes that pass: connection, transaction (a standby, a time-out), resources, object, operator, system, internal."""
_OLD_TABLES = ("42P01", "42703", "3F000")  # no such table, column, schema
_SQLITE_LASTS = ("no such column", "has no column", "syntax error", "readonly database")
"""OperationalErrors of SQLite that waiting does not mend, by their text: most share its code 1."""


MONTHLY = ("message", "delivery", "output", "attempt", "search_value", "journal", "receipt")
"""The tables that PostgreSQL has for each month, below their parents in the schema `history`."""

_HOLD_MONTHS = text(f"LOCK TABLE {', '.join(f'ONLY history.{name}' for name in MONTHLY)} IN ACCESS SHARE MODE")
_ALL_MONTHS = text("SELECT set_config('search_path', 'history, ' || current_setting('search_path'), true)")


URGENT_FOR = 0.25  # seconds after its last write that somebody who is not of the background counts as at work
STEP_BACK = 6.0
"""While others are at work the background pauses after each transaction, for this many times as long as it took."""
LONGEST_STEP_BACK = 0.5  # seconds


LONGEST_LOG = 16_384
"""Pages of 4 kB that SQLite's log may have before a writer shortens it; the relay does so long before."""


RESTED = 1.0
"""Seconds after which a connection is tried before it is used again."""


CONNECTIONS = 8
"""Kept open by a process; twice as many at need."""


SILENCE = 30
"""Seconds after which PostgreSQL gives up a transaction whose process says nothing, and either side a silent line."""

_PROBES = {"keepalives_idle": SILENCE // 3, "keepalives_interval": SILENCE // 3, "keepalives_count": 2}
_POSTGRESQL_SETTINGS = {
    "jit": "off",
    "timezone": "UTC",
    # Else a process that its machine stopped in mid-transaction, or one whose machine is gone, keeps its rows locked.
    "idle_in_transaction_session_timeout": f"{SILENCE}s",
    "tcp_user_timeout": f"{SILENCE}s",
    **{f"tcp_{name}": str(value) for name, value in _PROBES.items()},
}
_PLANNED_ONCE = {
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
}
_POSTGRESQL = {
    "connect_timeout": 5,
    # Else the kernel waits a quarter of an hour for an answer on a line that somebody dropped, and two without a call.
    "tcp_user_timeout": SILENCE * 1000,
    **_PROBES,
}


class Database:
    """One database: begins write transactions one after another fairly, reads beside them."""

    def __init__(
        self, address: str, *, pool_size: int = CONNECTIONS, background: bool = False, plans_once: bool = False
    ) -> None:
        """`address`: `sqlite:////absolute/path.db` or `postgresql://user:password@host/name`.

        `background`: of all such processes one at a time queues up to write, so that whoever else wants to waits for
        one of their transactions at the most. Matters to SQLite, where one writes and the others wait.

        `plans_once`: PostgreSQL plans a statement once for a connection, row by row through the indexes: a plan made
        while the tables are nearly empty does for full ones. For processes that say the same few statements again and
        again, each made for an index; to plan them anew was a third of the database's work for small batches.

        Raises:
            ConfigurationError: neither of these.
        """
        self._background = background
        self.url = _checked_url(address)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        if self.is_sqlite:
            self.path = Path(self.url.database or "")
            self.engine = _sqlite_engine(self.url, pool_size)
        else:
            self.engine = create_engine(
                self.url,
                pool_size=pool_size,
                max_overflow=pool_size,
                pool_timeout=10,
                isolation_level="READ COMMITTED",
                connect_args=_POSTGRESQL | {"options": _options(plans_once=plans_once)},
            )
            _test_rested_connections(self.engine)

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that commits at the end of the block, durably.

        Raises:
            StoreUnavailable, StoreConflict, DataRefused: see bus.errors; nothing was kept.
            StoreRefuses: for good (tables, rights); waiting does not help.
        """
        with translated():
            if self.is_sqlite:
                with _writer_gate(self.path, background=self._background), self.engine.connect() as connection:
                    connection.exec_driver_sql("BEGIN IMMEDIATE")
                    try:
                        yield connection
                    except BaseException:
                        connection.exec_driver_sql("ROLLBACK")
                        raise
                    connection.exec_driver_sql("COMMIT")
            else:
                with self.engine.begin() as connection:
                    yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """One snapshot to read from, of what the bus works on (PostgreSQL: the open month); nothing is written.

        PostgreSQL: who had to wait for the turn of the month sees nothing of the new one; the next look sees it all.
        """
        with translated():
            if self.is_sqlite:
                with self.engine.connect() as connection:
                    connection.exec_driver_sql("BEGIN")
                    try:
                        yield connection
                    finally:
                        connection.exec_driver_sql("ROLLBACK")
            else:
                with self.engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
                    yield connection

    @contextmanager
    def history(self) -> Iterator[Connection]:
        """One snapshot of all months, the closed ones and the open one: what people are shown comes from here.

        PostgreSQL: no month is dropped while it is read; who had to wait for a turn sees everything where it was.
        """
        with self.read() as connection:
            if not self.is_sqlite:
                # Before the snapshot, which comes with the first query: what it does not show must not be gone.
                connection.execute(_HOLD_MONTHS)
                connection.execute(_ALL_MONTHS)
            yield connection

    @contextmanager
    def look(self) -> Iterator[Connection]:
        """For one statement that reads: it needs no transaction around it."""
        if self.is_sqlite:
            with self.read() as connection:
                yield connection
        else:
            with translated(), self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                yield connection

    def checkpoint(self) -> None:
        """SQLite: copy the write-ahead log into the database file.

        Left to SQLite the writer whose commit makes the log long enough does it, and all others wait for its disk.
        """
        if self.is_sqlite:
            with translated(), self.engine.connect() as connection:
                connection.exec_driver_sql("PRAGMA wal_checkpoint(PASSIVE)")

    def now(self, connection: Connection) -> datetime:
        """The database's clock, the one all times in the store come from."""
        if self.is_sqlite:
            return datetime.now(UTC)
        moment: datetime = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
        return moment.astimezone(UTC)

    def close(self) -> None:
        self.engine.dispose()


def _options(*, plans_once: bool) -> str:
    """Settings of a PostgreSQL session, as its connection string takes them."""
    settings = _POSTGRESQL_SETTINGS | (_PLANNED_ONCE if plans_once else {})
    return " ".join(f"-c {name}={value}" for name, value in settings.items())


def _checked_url(address: str) -> URL:
    try:
        url = make_url(address)
    except (ArgumentError, ValueError):
        # Without text and cause: they may quote half of a password.
        raise ConfigurationError(
            f"store: {shown_url(address)!r} is not an address; sqlite:///… or postgresql://user:password@host:port/name"
        ) from None
    if url.get_backend_name() == "sqlite":
        if not url.database or url.database == ":memory:":
            raise ConfigurationError("store: SQLite needs a file (sqlite:///path), it runs in several processes")
        return url
    if url.get_backend_name() == "postgresql":
        if address.count("@") > 1 or not 0 <= (url.port or 0) < 65_536:
            raise ConfigurationError(
                f"store: host or port of {shown_url(address)!r} cannot be read; an @ in a password is written %40"
            )
        return with_checked_tls(url).set(drivername="postgresql+psycopg")
    raise ConfigurationError(f"store: {url.get_backend_name()!r} is not supported; sqlite:///… or postgresql://…")


def _sqlite_engine(url: URL, pool_size: int) -> Engine:
    engine = create_engine(
        url,
        pool_size=pool_size,
        max_overflow=-1,
        connect_args={"timeout": 30, "check_same_thread": False, "isolation_level": None},
    )

    @event.listens_for(engine, "connect")
    def configure(connection: sqlite3.Connection, _: object) -> None:
        teach_the_clock(connection)
        cursor = connection.cursor()
        settings = ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=30000")
        for pragma in (*settings, f"wal_autocheckpoint={LONGEST_LOG}"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    return engine


def _test_rested_connections(engine: Engine) -> None:
    """A connection that was not used for a while is tried before it is: a server, or a firewall, may have ended it.

    SQLAlchemy's own test comes before every transaction, and takes as long as a tenth of a small one.
    """
    import psycopg  # here: on SQLite every command would wait for it

    @event.listens_for(engine, "checkin")
    def note_use(_: object, record: ConnectionPoolEntry) -> None:
        record.info["used_at"] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def test(connection: DBAPIConnection, record: ConnectionPoolEntry, _: object) -> None:
        used_at = record.info.get("used_at")
        if used_at is None or time.monotonic() - used_at < RESTED:
            return
        try:
            engine.dialect.do_ping(connection)
        except psycopg.Error as error:
            raise InvalidatePoolError from error  # the pool takes a new one, and tries none of those older than this


@contextmanager
def _writer_gate(database: Path, *, background: bool) -> Iterator[None]:
    """Lets writers in one after another in the order they came, those of the background one by one among them.

    Whoever holds `gate` is next; it takes `writer` and opens the gate behind itself. SQLite's own busy handler
    sleeps and guesses: under load some writers wait half a second while others go twice.
    """
    gate, writer, behind, urgent = (
        database.with_name(f"{database.name}-{name}") for name in ("gate", "writer", "background", "urgent")
    )
    if not background:
        _touch(urgent)
        with _next_writer(gate, writer):
            yield
        return
    with _locked(behind):
        with _next_writer(gate, writer):
            began = time.monotonic()
            yield
        if _age(urgent) < URGENT_FOR:
            # Still holding the lock of the background: while others are at work it leaves them most of the machine.
            time.sleep(min((time.monotonic() - began) * STEP_BACK, LONGEST_STEP_BACK))


@contextmanager
def _next_writer(gate: Path, writer: Path) -> Iterator[None]:
    with contextlib.ExitStack() as held:
        open_gate = held.enter_context(_locked(gate))
        held.enter_context(_locked(writer))
        open_gate()
        yield


def _touch(path: Path) -> None:
    try:
        os.utime(path)
    except FileNotFoundError:
        with contextlib.suppress(OSError):  # whoever opens the database next says what is wrong with its folder
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError:
        return  # without it the background steps back less


def _age(path: Path) -> float:
    """Seconds since it was touched."""
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return URGENT_FOR


@contextmanager
def _locked(path: Path) -> Iterator[Any]:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreUnavailable(f"store: {path} cannot be opened: {error.strerror}; check folder and rights") from error
    is_open = True

    def unlock() -> None:
        nonlocal is_open
        if is_open:
            os.close(descriptor)  # closing releases the lock
            is_open = False

    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            raise StoreUnavailable(f"store: {path} cannot be locked: {error.strerror}; is the disk local?") from error
        yield unlock
    finally:
        unlock()


@contextmanager
def translated() -> Iterator[None]:
    """Make the bus's own errors of those of SQLAlchemy and the drivers."""
    try:
        yield
    except PoolTimeout as error:
        raise StoreUnavailable(f"store: {_first_line(error)}") from error
    except DBAPIError as error:
        raise _meaning(error) from error
    except StatementError as error:
        raise DataRefused(_first_line(error)) from error
    except (OverflowError, UnicodeEncodeError) as error:  # a number of more than 64 bits, half a surrogate pair
        raise DataRefused(str(error)) from error


def _meaning(error: DBAPIError) -> BusError:
    """Whether trying again helps, by the database's own code."""
    line = _first_line(error)
    state = getattr(error.orig, "sqlstate", None) or ""
    if state in _RETRY_STATES:
        return StoreConflict(line)
    unbindable = isinstance(error.orig, sqlite3.InterfaceError)
    if isinstance(error, DataError | IntegrityError) or unbindable or state.startswith((*_DATA, _LIMIT_EXCEEDED)):
        return DataRefused(line)
    if state in _OLD_TABLES or line.startswith("no such table"):
        return StoreRefuses(f"store: {line}: its tables are missing or old; run: bus store upgrade")
    if isinstance(error.orig, sqlite3.Error):
        lasts = not isinstance(error.orig, sqlite3.OperationalError) or any(each in line for each in _SQLITE_LASTS)
    else:
        lasts = bool(state) and not state.startswith(_AWAY)
    if not lasts:
        return StoreUnavailable(f"store: {remedied(line)}")
    return StoreRefuses(f"store: {line}; it will be refused again: look at its user's rights, and at bus doctor")


def _first_line(error: Exception) -> str:
    return str(getattr(error, "orig", None) or error).strip().splitlines()[0]
