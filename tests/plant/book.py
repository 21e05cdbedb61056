"""The book every system keeps: what it wants published and what it was asked, in one SQLite file."""

import json
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

Row = dict[str, Any]

SCHEMA = """
CREATE TABLE IF NOT EXISTS publication (
  n INTEGER PRIMARY KEY,
  message_id TEXT, type TEXT, site TEXT, subject TEXT, order_number TEXT,
  exchange TEXT NOT NULL, routing_key TEXT NOT NULL, properties TEXT NOT NULL, body BLOB NOT NULL,
  state TEXT NOT NULL DEFAULT 'pending', attempts INTEGER NOT NULL DEFAULT 0, detail TEXT NOT NULL DEFAULT '',
  written_at TEXT NOT NULL, settled_at TEXT
);
CREATE INDEX IF NOT EXISTS pending_publication ON publication (n) WHERE state = 'pending';
CREATE TABLE IF NOT EXISTS request (
  n INTEGER PRIMARY KEY,
  at TEXT NOT NULL, method TEXT NOT NULL, path TEXT NOT NULL,
  entity TEXT, order_number TEXT, external_id TEXT,
  status INTEGER NOT NULL, note TEXT NOT NULL
);
"""


@dataclass(frozen=True)
class Publication:
    """A message as it will stand on the wire; `order_number` is for the book only."""

    routing_key: str
    properties: Mapping[str, Any]
    body: bytes
    exchange: str = "bus.in"
    order_number: str = ""


@dataclass
class Call:
    """A request as the book remembers it; the fields are filled in as they become known."""

    method: str
    path: str
    entity: str = ""
    order_number: str = ""
    external_id: str = ""
    note: str = ""
    at: str = field(default_factory=lambda: stamp(datetime.now(UTC)))


class Book:
    """One file, many threads. A method returns after its commit, so an answer never precedes the book."""

    def __init__(self, path: Path, *, schema: str = "") -> None:
        self._lock = threading.RLock()
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._connection.row_factory = sqlite3.Row
        self._connection.execute("PRAGMA journal_mode = WAL")
        # NORMAL: a commit outlives a killed process; outliving a power cut is not what the plant is for.
        self._connection.execute("PRAGMA synchronous = NORMAL")
        self._connection.executescript(SCHEMA + schema)

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Everything inside is booked together or not at all; nests inside an open transaction."""
        with self._lock:
            if self._connection.in_transaction:
                yield self._connection
                return
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    def rows(self, query: str, *values: object) -> list[Row]:
        with self._lock:
            return [dict(row) for row in self._connection.execute(query, values)]

    def write_publications(self, *publications: Publication) -> None:
        """Put messages into the outbox, in this order; the publisher sends them until they are settled."""
        now = stamp(datetime.now(UTC))
        with self.transaction() as connection:
            for each in publications:
                headers = each.properties.get("headers") or {}
                connection.execute(
                    "INSERT INTO publication (message_id, type, site, subject, order_number, exchange, routing_key,"
                    " properties, body, written_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        each.properties.get("message_id"),
                        each.properties.get("type"),
                        headers.get("site"),
                        headers.get("subject"),
                        each.order_number,
                        each.exchange,
                        each.routing_key,
                        json.dumps(each.properties),
                        each.body,
                        now,
                    ),
                )

    def pending_publications(self, limit: int = 100) -> list[tuple[int, Publication]]:
        rows = self.rows("SELECT * FROM publication WHERE state = 'pending' ORDER BY n LIMIT ?", limit)
        return [
            (
                row["n"],
                Publication(
                    routing_key=row["routing_key"],
                    properties=json.loads(row["properties"]),
                    body=row["body"],
                    exchange=row["exchange"],
                    order_number=row["order_number"],
                ),
            )
            for row in rows
        ]

    def settle_publication(self, n: int, state: str, detail: str = "") -> None:
        """State: confirmed, returned, refused, or pending (it will be published again)."""
        settled_at = None if state == "pending" else stamp(datetime.now(UTC))
        with self.transaction() as connection:
            connection.execute(
                "UPDATE publication SET state = ?, detail = ?, attempts = attempts + 1, settled_at = ? WHERE n = ?",
                (state, detail, settled_at, n),
            )

    def note_call(self, call: Call, status: int) -> None:
        """Status 0 means that the caller got no answer."""
        with self.transaction() as connection:
            connection.execute(
                "INSERT INTO request (at, method, path, entity, order_number, external_id, status, note)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (call.at, call.method, call.path, call.entity, call.order_number, call.external_id, status, call.note),
            )

    def published(self) -> list[Row]:
        """What was or will be sent, in order, without bodies."""
        return self.rows(
            "SELECT n, message_id, type, site, subject, order_number, routing_key, state, attempts, detail,"
            " written_at, settled_at FROM publication ORDER BY n"
        )

    def requests(self) -> list[Row]:
        return self.rows("SELECT * FROM request ORDER BY n")

    def publication_counts(self) -> dict[str, int]:
        rows = self.rows("SELECT state, count(*) AS many FROM publication GROUP BY state")
        return {row["state"]: row["many"] for row in rows}

    def close(self) -> None:
        with self._lock:
            self._connection.close()


def stamp(moment: datetime) -> str:
    """RFC 3339 in UTC with milliseconds."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def order_key(order: str) -> str:
    """One spelling for an order number: `000001000123` and `1000123` are the same order."""
    return order.strip().lstrip("0") or order.strip()
