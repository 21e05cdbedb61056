"""Where the peers keep messages and steps: two tables in PostgreSQL, and the statements of each hop."""

from __future__ import annotations

import psycopg

TABLES = """
CREATE TABLE message (
    id text PRIMARY KEY, type text NOT NULL, site text NOT NULL, subject text NOT NULL, body bytea NOT NULL,
    route text NOT NULL, accepted_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE TABLE step (
    message text NOT NULL, step text NOT NULL, body bytea, at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (message, step)
);
"""

# One statement is one transaction on a connection with autocommit: BEGIN and COMMIT cost no round trips of their own.
# Acknowledged late, a message may come twice: it is kept once.
ACCEPT = """
WITH kept AS (
    INSERT INTO message (id, type, site, subject, body, route) VALUES (%s, 'order.release.v1', %s, %s, %s, %s)
    ON CONFLICT DO NOTHING RETURNING id
)
INSERT INTO step (message, step) SELECT id, 'received' FROM kept
"""
RECORD = "INSERT INTO step (message, step, body) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING"

ACCEPT_MANY = """
WITH kept AS (
    INSERT INTO message (id, type, site, subject, body, route)
    SELECT id, 'order.release.v1', site, subject, body, route
    FROM unnest(%s::text[], %s::text[], %s::text[], %s::bytea[], %s::text[]) AS given (id, site, subject, body, route)
    ON CONFLICT DO NOTHING RETURNING id
)
INSERT INTO step (message, step) SELECT id, 'received' FROM kept
"""
RECORD_MANY = """
INSERT INTO step (message, step, body) SELECT id, %s, body FROM unnest(%s::text[], %s::bytea[]) AS given (id, body)
ON CONFLICT DO NOTHING
"""


class Ledger:
    """What the peers recorded; for whoever counts it."""

    def __init__(self, url: str) -> None:
        self._connection = psycopg.connect(url, autocommit=True)

    def create(self) -> None:
        self._connection.execute(TABLES)

    def ends(self) -> int:
        """Orders whose sending was recorded."""
        return int(self._one("SELECT count(*) FROM step WHERE step = 'sent'"))

    def clock(self) -> float:
        """Now, by the database's clock: seconds since 1970."""
        return float(self._one("SELECT extract(epoch FROM clock_timestamp())"))

    def last_end(self) -> float:
        """When the last one was recorded, by the same clock."""
        return float(self._one("SELECT extract(epoch FROM max(at)) FROM step WHERE step = 'sent'"))

    def complaint(self, published: int) -> str:
        """What is missing of the record of so many orders; empty: nothing."""
        counts = dict(self._connection.execute("SELECT step, count(*) FROM step GROUP BY step").fetchall())
        counts["stored"] = self._one("SELECT count(*) FROM message")
        steps = ("stored", "received", "transformed", "sent")
        wrong = [f"{counts.get(step, 0):,} {step}" for step in steps if counts.get(step, 0) != published]
        return f"of {published:,} orders {', '.join(wrong)}" if wrong else ""

    def close(self) -> None:
        self._connection.close()

    def _one(self, query: str) -> float:
        row = self._connection.execute(query).fetchone()
        assert row is not None
        value: float = row[0]
        return value
