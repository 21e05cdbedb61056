"""The services a run is measured on: a private RabbitMQ, PostgreSQL, folders; started when first needed."""

from __future__ import annotations

import contextlib
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import psycopg
from psycopg import sql
from sqlalchemy.engine import make_url

from bus.bench.frame import Tell
from bus.bench.job import USER
from bus.bench.postgresql import private_postgresql
from bus.broker.node import PrivateNode
from bus.broker.passwords import HASHING_ALGORITHM, hash_password
from bus.errors import ConfigurationError, NotAvailable

STAGES = 24
"""Vhosts of the private node: each contender gets one that nobody used before."""


class Databases(Protocol):
    """A PostgreSQL server on which databases can be made."""

    def fresh_database(self) -> contextlib.AbstractContextManager[str]:
        """The SQLAlchemy URL of an empty database, dropped afterwards."""


@dataclass(frozen=True)
class GivenPostgreSQL:
    """A server somebody named by the URL of one of its databases; its user may create databases."""

    url: str

    @contextlib.contextmanager
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

    @contextlib.contextmanager
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

    def postgresql(self) -> contextlib.AbstractContextManager[str]:
        """The SQLAlchemy URL of an empty database."""
        return self.services.databases.fresh_database()


class Services:
    """Everything it started is gone when its block ends. Raises NotAvailable for what this machine does not have."""

    def __init__(self, *, postgresql: str = "", tell: Tell) -> None:
        """`postgresql`: the URL of a server to use; else one is started."""
        if postgresql and not postgresql.startswith(("postgresql://", "postgresql+psycopg://")):
            raise ConfigurationError("--postgresql: postgresql://user:password@host:port/database is expected")
        self._given = postgresql
        self._tell = tell
        self._stack = contextlib.ExitStack()
        self._stages = iter(range(STAGES))
        self._password = secrets.token_urlsafe(12)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @contextlib.contextmanager
    def stage(self) -> Iterator[Stage]:
        """A vhost and a folder that nobody used before."""
        number = next(self._stages)
        folder = self._folder / f"stage-{number}"
        folder.mkdir(mode=0o700)
        login = f"{USER}:{self._password}@127.0.0.1:{self._node.amqp_port}"
        try:
            yield Stage(f"amqp://{login}/stage-{number}", folder, self)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

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
