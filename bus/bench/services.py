"""The services a run is measured on: a private RabbitMQ, PostgreSQL, folders; started when first needed."""

from __future__ import annotations

import secrets
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import psycopg
from psycopg import sql
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from bus.bench.frame import BenchFailure, Tell
from bus.bench.job import USER
from bus.bench.load import rabbitmq_version
from bus.bench.postgresql import private_postgresql
from bus.broker.node import PrivateNode
from bus.broker.passwords import HASHING_ALGORITHM, hash_password
from bus.errors import ConfigurationError, NotAvailable
from bus.store.engine import Database

STAGES = 24
"""Vhosts of the private node: each contender gets one that nobody used before."""


class Databases(Protocol):
    """A PostgreSQL server on which databases can be made."""

    def fresh_database(self) -> AbstractContextManager[str]:
        """The SQLAlchemy URL of an empty database, dropped afterwards."""


@dataclass(frozen=True)
class GivenPostgreSQL:
    """A server somebody named by the URL of one of its databases; its user may create databases."""

    url: str

    @contextmanager
    def fresh_database(self) -> Iterator[str]:
        url = make_url(self.url)
        name = f"plantbus_bench_{secrets.token_hex(4)}"
        quoted = sql.Identifier(name)
        with self._administrator() as administrator:
            administrator.execute(sql.SQL("CREATE DATABASE {}").format(quoted))
        try:
            yield url.set(database=name, drivername="postgresql+psycopg").render_as_string(hide_password=False)
        finally:
            with self._administrator() as administrator:
                administrator.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(quoted))

    @contextmanager
    def _administrator(self) -> Iterator[psycopg.Connection]:
        url = make_url(self.url).set(drivername="postgresql").render_as_string(hide_password=False)
        try:
            with psycopg.connect(url, autocommit=True, connect_timeout=5) as connection:
                yield connection
        except psycopg.Error as error:
            # Without its cause: that may quote the URL with its password.
            line = str(error).strip().partition("\n")[0]
            raise NotAvailable(f"PostgreSQL as --postgresql names it: {line}") from None


@dataclass(frozen=True)
class Stage:
    """What one contender may use alone."""

    broker_url: str
    folder: Path
    """Its own; empty at first."""
    services: Services

    def postgresql(self) -> AbstractContextManager[str]:
        """The SQLAlchemy URL of an empty database."""
        return self.services.databases.fresh_database()


class Services:
    """Everything it started is gone when its block ends. Raises NotAvailable for what this machine does not have."""

    def __init__(self, *, postgresql: str = "", tell: Tell) -> None:
        """`postgresql`: the URL of a server to use; else one is started."""
        self._given = _checked(postgresql) if postgresql else ""
        self._tell = tell
        self._stack = ExitStack()
        self._stages = iter(range(STAGES))
        self._password = secrets.token_urlsafe(12)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @contextmanager
    def stage(self) -> Iterator[Stage]:
        """A vhost and a folder that nobody used before."""
        number = next(self._stages, STAGES)
        if number == STAGES:
            raise BenchFailure(f"more than {STAGES} stages: start other services")
        folder = self._folder / f"stage-{number}"
        folder.mkdir(mode=0o700)
        login = f"{USER}:{self._password}@127.0.0.1:{self._node.amqp_port}"
        try:
            yield Stage(f"amqp://{login}/stage-{number}", folder, self)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    @property
    def broker_pid(self) -> int:
        """The process of the RabbitMQ."""
        return self._node.pid

    def versions(self) -> dict[str, str]:
        """Of the services that were started, with the settings that durability hangs on."""
        found = {}
        if "_node" in vars(self):
            url = f"amqp://{USER}:{self._password}@127.0.0.1:{self._node.amqp_port}/stage-0"
            found["rabbitmq"] = rabbitmq_version(url)
        if "databases" in vars(self):
            with suppress(NotAvailable):  # a server that was named and is not there
                found["postgresql"] = self._postgresql_version()
        return found

    def _postgresql_version(self) -> str:
        with self.databases.fresh_database() as url, closing(Database(url)) as database, database.read() as asked:
            names = ("server_version", "fsync", "synchronous_commit")
            version, fsync, commit = (asked.exec_driver_sql(f"SHOW {name}").scalar_one() for name in names)
        return f"{version} (fsync {fsync}, synchronous_commit {commit})"

    @cached_property
    def databases(self) -> Databases:
        if self._given:
            return GivenPostgreSQL(self._given)
        self._tell("starting PostgreSQL …")
        return self._stack.enter_context(private_postgresql())

    @cached_property
    def _folder(self) -> Path:
        return Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="plantbus-bench-")))

    @cached_property
    def _node(self) -> PrivateNode:
        self._tell("starting RabbitMQ …")
        hashed = hash_password(self._password)
        vhosts = [f"stage-{number}" for number in range(STAGES)]
        user = {"name": USER, "password_hash": hashed, "hashing_algorithm": HASHING_ALGORITHM, "tags": ""}
        everything = {"user": USER, "configure": ".*", "write": ".*", "read": ".*"}
        definitions = {
            "vhosts": [{"name": name} for name in vhosts],
            "users": [user],
            "permissions": [everything | {"vhost": name} for name in vhosts],
        }
        node = self._stack.enter_context(PrivateNode(self._folder / "rabbitmq", definitions=definitions))
        self._stack.callback(node.kill)  # nothing in it is needed any more, and a clean stop takes seconds
        return node


def unwind_on_sigterm() -> None:
    """Let SIGTERM (of `timeout`, say) end this process as Ctrl-C does: what it started is ended and removed first."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


def _checked(url: str) -> str:
    try:
        backend = make_url(url).get_backend_name()
    except (ArgumentError, ValueError):
        backend = ""
    if backend != "postgresql":
        # Without its text and cause: they may bear a password.
        raise ConfigurationError("--postgresql: postgresql://user:password@host:port/database is expected") from None
    return url
