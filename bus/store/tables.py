"""The tables, as SQLAlchemy Core declares them; bus/store/migrations makes them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Date,
    DateTime,
    Dialect,
    ForeignKey,
    Identity,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.types import TypeDecorator, TypeEngine


def sqlite_instant(value: datetime) -> str:
    """An instant in UTC as SQLite keeps it: text that sorts."""
    # Not strftime: it writes the year 1 as "1", which neither sorts nor can be read back.
    return value.isoformat(timespec="microseconds").replace("+00:00", "Z")


class Instant(TypeDecorator[datetime]):
    """An aware datetime in UTC: timestamptz on PostgreSQL, sortable text with microseconds on SQLite."""

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name == "postgresql":
            return dialect.type_descriptor(DateTime(timezone=True))
        return dialect.type_descriptor(Text())

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value}: an instant needs a zone")
        value = value.astimezone(UTC)
        if dialect.name == "postgresql":
            return value
        return sqlite_instant(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        if value is None or isinstance(value, datetime):
            return value.astimezone(UTC) if value else None
        return datetime.fromisoformat(value)


class Bytewise(TypeDecorator[str]):
    """Text compared byte by byte on every database, so that everybody sorts lanes alike."""

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(Text(collation="C") if dialect.name == "postgresql" else Text())


metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

_Id = BigInteger().with_variant(Integer(), "sqlite")


def _row_id() -> Column[int]:
    return Column("id", _Id, Identity(), primary_key=True)


def _rising_id(table: str) -> Column[int]:
    """A number from a sequence that no month's table owns; see bus/store/migrations/versions/0003_months.py."""
    default = text(f"nextval('{table}_id_seq'::regclass)")
    return Column("id", _Id, primary_key=True, autoincrement=True, server_default=default)


def _period() -> Column[int]:
    """Which period a row lies in; PostgreSQL: the default of the live tables is the open one's number."""
    return Column("period", Integer, nullable=False, server_default="1")


message = Table(
    "message",
    metadata,
    _rising_id("message"),
    Column("message_id", Text, nullable=False),
    Column("system", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("site", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("correlation_id", Text, nullable=False),
    Column("causation_id", Text, nullable=False),
    Column("content_type", Text, nullable=False),
    Column("time", Instant),
    Column("sequence", BigInteger),
    Column("business_date", Date),
    Column("dataschema", Text, nullable=False),
    Column("traceparent", Text, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("accepted_at", Instant, nullable=False),
    Column("parent", BigInteger),  # the delivery whose transform made it; null: received
    Column("planned", Integer, nullable=False),  # deliveries planned for it
    Column("entering", Integer, nullable=False),  # of these, to=BUS and not ended
    _period(),
    sqlite_autoincrement=True,
)

message_key = Table(
    "message_key",
    metadata,
    Column("system", Bytewise, primary_key=True),
    Column("message_id", Bytewise, primary_key=True),
    Column("digest", LargeBinary, nullable=False),
    Column("at", Instant, nullable=False),
)

search_value = Table(
    "search_value",
    metadata,
    Column("path", Text, primary_key=True),
    Column("value", Text, primary_key=True),
    Column("message", _Id, ForeignKey("message.id"), primary_key=True),
    _period(),
)

receipt = Table(
    "receipt",
    metadata,
    _rising_id("receipt"),
    Column("at", Instant, nullable=False),
    Column("kind", Text, nullable=False),
    Column("cause", Text, nullable=False),
    Column("detail", Text, nullable=False),
    Column("routing_key", Text, nullable=False),
    Column("properties", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("message_id", Text, nullable=False),
    Column("system", Text, nullable=False),
    Column("type", Text, nullable=False),
    _period(),
    sqlite_autoincrement=True,
)

lane = Table(
    "lane",
    metadata,
    _row_id(),
    Column("destination", Bytewise, nullable=False),
    Column("key", Bytewise, nullable=False),
    Column("tail", BigInteger, nullable=False),
    UniqueConstraint("destination", "key"),
    sqlite_autoincrement=True,
)

delivery = Table(
    "delivery",
    metadata,
    _rising_id("delivery"),
    Column("message", _Id, ForeignKey("message.id"), nullable=False),
    Column("route", Text, nullable=False),
    Column("destination", Text, nullable=False),
    Column("queue", Text, nullable=False),
    Column("lane", _Id, ForeignKey("lane.id")),
    Column("place", BigInteger, nullable=False),
    Column("part", Integer, nullable=False),
    Column("stage", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("stands", Boolean, nullable=False),
    Column("blocks", Boolean, nullable=False),
    Column("worker", Text, nullable=False, server_default=""),
    Column("token", Text, nullable=False, server_default=""),
    Column("due_at", Instant),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("deaths", Integer, nullable=False, server_default="0"),
    Column("trips", Integer, nullable=False, server_default="0"),
    Column("tries", Integer, nullable=False, server_default="0"),  # as a trial of a tripped endpoint
    Column("replay", Integer, nullable=False, server_default="0"),
    Column("key", Text, nullable=False),
    Column("produced", Integer),  # messages its transform made; null: none were to be made
    Column("cause", Text, nullable=False, server_default=""),
    Column("detail", Text, nullable=False, server_default=""),
    Column("document", Text, nullable=False, server_default=""),
    Column("created_at", Instant, nullable=False),
    Column("changed_at", Instant, nullable=False),
    _period(),
    UniqueConstraint("message", "route", "part", "replay"),  # finds a message's deliveries, too
    sqlite_autoincrement=True,
)


output = Table(
    "output",
    metadata,
    Column("delivery", _Id, ForeignKey("delivery.id"), primary_key=True, autoincrement=False),
    Column("type", Text, nullable=False),
    Column("content_type", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("digest", Text, nullable=False),
    Column("body_digest", LargeBinary),  # null: small, or made before revision 0002
    _period(),
)

attempt = Table(
    "attempt",
    metadata,
    _rising_id("attempt"),
    Column("delivery", _Id, ForeignKey("delivery.id"), nullable=False),
    Column("stage", Text, nullable=False),
    Column("number", Integer, nullable=False),
    Column("began_at", Instant, nullable=False),
    Column("ended_at", Instant, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("cause", Text, nullable=False),
    Column("detail", Text, nullable=False),
    Column("sent", LargeBinary, nullable=False),
    Column("received", LargeBinary, nullable=False),
    Column("document", Text, nullable=False),
    Column("worker", Text, nullable=False),
    Column("digests", Text, nullable=False),
    Column("late", Boolean, nullable=False),
    _period(),
    sqlite_autoincrement=True,
)

endpoint = Table(
    "endpoint",
    metadata,
    Column("name", Text, primary_key=True),
    Column("state", Text, nullable=False),
    Column("cause", Text, nullable=False),
    Column("detail", Text, nullable=False),
    Column("since", Instant, nullable=False),
    Column("check_at", Instant),
    Column("checks", Integer, nullable=False),
    Column("actor", Text, nullable=False),
)

journal = Table(
    "journal",
    metadata,
    _rising_id("journal"),
    Column("at", Instant, nullable=False),
    Column("login", Text, nullable=False, server_default=""),  # PostgreSQL: stamped by a trigger
    Column("actor", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("act", Text, nullable=False),
    Column("delivery", BigInteger),
    Column("message", BigInteger),
    Column("endpoint", Text, nullable=False, server_default=""),
    Column("old", Text, nullable=False),
    Column("new", Text, nullable=False),
    Column("cause", Text, nullable=False),
    Column("detail", Text, nullable=False),
    _period(),
    sqlite_autoincrement=True,
)

opening = Table(
    "opening",
    metadata,
    Column("digest", LargeBinary, primary_key=True),
    Column("count", Integer, nullable=False),
    Column("at", Instant, nullable=False),
)

lease = Table(
    "lease",
    metadata,
    Column("name", Text, primary_key=True),
    Column("holder", Text, nullable=False),
    Column("counter", BigInteger, nullable=False),
    Column("beat_at", Instant, nullable=False),
)

total = Table(
    "total",
    metadata,
    _row_id(),
    Column("measure", Text, nullable=False),
    Column("route", Text, nullable=False),
    Column("amount", BigInteger, nullable=False),
    sqlite_autoincrement=True,
)

period = Table(
    "period",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("began_at", Instant, nullable=False),
    Column("closed_at", Instant),  # null: the open one, in which the bus works
    Column("moved_along", BigInteger, nullable=False, server_default="0"),  # messages that were not ended then
    Column("retired_at", Instant),
    Column("actor", Text, nullable=False, server_default=""),
    Column("reason", Text, nullable=False, server_default=""),
    Column("rows", Text, nullable=False, server_default=""),  # JSON: table → rows that were dropped
    Column("ledger", Text, nullable=False, server_default=""),  # JSON: [measure, route, amount] of what was dropped
    Column("numbers", Text, nullable=False, server_default=""),  # JSON: table → lowest and highest number in it
)
