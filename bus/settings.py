"""bus.toml and the environment, read and validated; every refusal names the place."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from bus.crash_points import VARIABLE, arm
from bus.errors import ConfigurationError
from bus.model.lease import LEASE
from bus.model.message_class import MOST_PARTITIONS, MessageClass
from bus.model.system import NAME, Endpoint, Site, System

PRIVATE = "private"
"""`broker = "private"`: a RabbitMQ node of the project's own, in its folder."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What bus.toml says, with the environment's BUS_FOLDER, BUS_STORE, BUS_BROKER, BUS_MANAGEMENT applied."""

    root: Path
    folder: Path
    """Where the bus keeps what it makes itself: store, private node, generated secrets; BUS_FOLDER, or `.bus`."""
    name: str
    store: str
    broker: str
    management: str
    password: str
    """Reference to the password of the engine's own broker user."""
    max_bytes: int
    lease: timedelta = LEASE
    """How long a worker or relay may stay silent before it is held to be dead; the same for all processes."""
    partitions: Mapping[MessageClass, int]
    sites: Mapping[str, Site]
    systems: Mapping[str, System]
    endpoints: Mapping[str, Endpoint]


class _Table:
    """One table of bus.toml; tells what is missing, of another type or unknown, with its place."""

    def __init__(self, values: object, place: str) -> None:
        if not isinstance(values, dict):
            raise ConfigurationError(f"bus.toml [{place}]: a table is expected, found {values!r}")
        self._values: dict[str, Any] = dict(values)
        self._place = place
        self._read: set[str] = set()

    def take(self, name: str, kind: type | tuple[type, ...], default: Any = ...) -> Any:
        self._read.add(name)
        if name not in self._values:
            if default is ...:
                raise ConfigurationError(f"bus.toml [{self._place}]: {name!r} is missing")
            return default
        value = self._values[name]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            kinds = kind if isinstance(kind, tuple) else (kind,)
            words = " or ".join(each.__name__ for each in kinds)
            raise ConfigurationError(f"bus.toml [{self._place}]: {name} must be of type {words}, found {value!r}")
        return value

    def words(self, name: str, default: tuple[str, ...] | None = None) -> tuple[str, ...]:
        values = self.take(name, list, ... if default is None else list(default))
        if not all(isinstance(value, str) for value in values):
            raise ConfigurationError(f"bus.toml [{self._place}]: {name} must be a list of texts, found {values!r}")
        return tuple(values)

    def seconds(self, name: str, default: float, *, least: float = 0.001, most: float = 86_400) -> timedelta:
        value = self.take(name, (int, float), default)
        if not least <= value <= most:
            raise ConfigurationError(
                f"bus.toml [{self._place}]: {name} is seconds between {least} and {most}, found {value!r}"
            )
        return timedelta(seconds=value)

    def count(self, name: str, default: int, *, most: int) -> int:
        value = self.take(name, int, default)
        if not 1 <= value <= most:
            raise ConfigurationError(f"bus.toml [{self._place}]: {name} is between 1 and {most}, found {value!r}")
        return int(value)

    def tables(self, name: str) -> Mapping[str, _Table]:
        self._read.add(name)
        tables = self._values.get(name, {})
        if not isinstance(tables, dict):
            raise ConfigurationError(f"bus.toml: [{name}.NAME] tables are expected, found {tables!r}")
        for key in tables:
            if not NAME.fullmatch(key):
                raise ConfigurationError(
                    f"bus.toml [{name}.{key}]: a name has letters, digits and single hyphens (no dots), found {key!r}"
                )
        return {key: _Table(value, f"{name}.{key}") for key, value in tables.items()}

    def finish(self) -> None:
        unknown = sorted(set(self._values) - self._read)
        if unknown:
            found, known = ", ".join(map(repr, unknown)), ", ".join(sorted(self._read)) or "none"
            raise ConfigurationError(f"bus.toml [{self._place}]: unknown {found}; known: {known}")


def load_settings(root: Path, environ: Mapping[str, str] = os.environ) -> Settings:
    """Read `root/bus.toml`.

    Raises:
        ConfigurationError: what was found, what was expected, and where.
    """
    arm(environ.get(VARIABLE, ""))
    path = root / "bus.toml"
    try:
        top = _Table(tomllib.loads(path.read_text(encoding="utf-8")), "top level")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path} is not TOML: {error}") from error
    general = _Table(top.take("bus", dict, {}), "bus")
    folder = root / (environ.get("BUS_FOLDER") or ".bus")
    settings = Settings(
        root=root,
        folder=folder,
        name=general.take("name", str, root.name),
        store=_absolute(environ.get("BUS_STORE") or general.take("store", str, f"sqlite:///{folder / 'bus.db'}"), root),
        broker=environ.get("BUS_BROKER") or general.take("broker", str, PRIVATE),
        management=environ.get("BUS_MANAGEMENT") or general.take("management", str, ""),
        password=general.take("password", str, f"file:{folder / 'secrets' / 'bus'}"),
        max_bytes=general.count("max_bytes", 1_048_576, most=64 * 1_048_576),
        lease=general.seconds("lease", LEASE.total_seconds(), least=2, most=600),
        partitions={
            MessageClass.TRANSACTION: general.count("partitions", 1, most=MOST_PARTITIONS),
            MessageClass.EVENT: general.count("event_partitions", 1, most=MOST_PARTITIONS),
        },
        sites={name: _site(name, table) for name, table in top.tables("sites").items()},
        systems={name: _system(name, table, folder) for name, table in top.tables("systems").items()},
        endpoints={name: _endpoint(name, table) for name, table in top.tables("endpoints").items()},
    )
    for name in ("store", "broker", "management"):
        general.take(name, str, "")
    general.finish()
    top.finish()
    return settings


def _absolute(store: str, root: Path) -> str:
    """A relative SQLite path is relative to the project, not to wherever the command was typed."""
    prefix = "sqlite:///"
    if store.startswith(prefix) and not store.startswith(prefix + "/"):
        return f"{prefix}{root / store.removeprefix(prefix)}"
    return store


def _site(name: str, table: _Table) -> Site:
    table.finish()
    return Site(name=name)


def _system(name: str, table: _Table, folder: Path) -> System:
    system = System(
        name=name,
        role=table.take("role", str),
        sites=table.words("sites"),
        user=table.take("user", str, name),
        publishes=table.words("publishes", ()),
        owner=table.take("owner", str),
        support=table.take("support", str),
        password=table.take("password", str, f"file:{folder / 'secrets' / name}"),
        speaks_for=table.words("speaks_for", ()),
    )
    table.finish()
    return system


def _endpoint(name: str, table: _Table) -> Endpoint:
    timeout = table.seconds("timeout", 30)
    endpoint = Endpoint(
        name=name,
        system=table.take("system", str),
        adapter=table.take("adapter", str),
        address=table.take("address", str),
        options=table.take("options", dict, {}),
        concurrency=table.count("concurrency", 2, most=64),
        timeout=timeout,
        visible_after=table.seconds("visible_after", max(60.0, timeout.total_seconds())),
        batch=table.count("batch", 128, most=128),
    )
    table.finish()
    return endpoint
