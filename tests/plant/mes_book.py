"""A MES's book: the orders it took in arrival order, the keys it answered, how far each job is."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tests.plant.book import Book, Publication, Row, order_key, stamp
from tests.plant.shopfloor import WorkOrder, as_record, from_record

SCHEMA = """
CREATE TABLE IF NOT EXISTS job (
  n INTEGER PRIMARY KEY,
  job_id TEXT NOT NULL UNIQUE, order_number TEXT NOT NULL, idempotency_key TEXT NOT NULL, work TEXT NOT NULL,
  received_at TEXT NOT NULL, changed_at TEXT NOT NULL, steps INTEGER NOT NULL, steps_done INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS job_order ON job (order_number);
CREATE TABLE IF NOT EXISTS remembered (
  key TEXT PRIMARY KEY, digest TEXT NOT NULL, job_id TEXT NOT NULL, requests INTEGER NOT NULL DEFAULT 1
);
CREATE TABLE IF NOT EXISTS counter (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
"""


@dataclass(frozen=True)
class Job:
    """An order taken. A later revision of an order is a job without steps: it is recorded, not carried out again."""

    n: int
    job_id: str
    work: WorkOrder
    steps: int
    steps_done: int
    changed_at: datetime


@dataclass(frozen=True)
class Remembered:
    job_id: str
    digest: str


class MesBook(Book):
    def __init__(self, path: Path) -> None:
        super().__init__(path, schema=SCHEMA)

    def remembered(self, key: str) -> Remembered | None:
        """What this key got before; counts the request."""
        with self.transaction() as connection:
            connection.execute("UPDATE remembered SET requests = requests + 1 WHERE key = ?", (key,))
            rows = self.rows("SELECT job_id, digest FROM remembered WHERE key = ?", key)
        return Remembered(**rows[0]) if rows else None

    def take_order(self, work: WorkOrder, *, key: str, digest: str, steps: int) -> str:
        """Book an order and remember its key; gives the job id."""
        now = stamp(datetime.now(UTC))
        order = order_key(work.order)
        with self.transaction() as connection:
            is_revision = bool(self.rows("SELECT 1 FROM job WHERE order_number = ? LIMIT 1", order))
            number = connection.execute("SELECT coalesce(max(n), 0) + 1 FROM job").fetchone()[0]
            job_id = f"JOB-{number:08d}"
            connection.execute(
                "INSERT INTO job (n, job_id, order_number, idempotency_key, work, received_at, changed_at, steps)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (number, job_id, order, key, json.dumps(as_record(work)), now, now, 0 if is_revision else steps),
            )
            if key:
                connection.execute(
                    "INSERT INTO remembered (key, digest, job_id) VALUES (?, ?, ?)", (key, digest, job_id)
                )
        return job_id

    def open_jobs(self, after: int = 0) -> list[Job]:
        rows = self.rows("SELECT * FROM job WHERE steps_done < steps AND n > ? ORDER BY n", after)
        return [
            Job(
                row["n"],
                row["job_id"],
                from_record(json.loads(row["work"])),
                row["steps"],
                row["steps_done"],
                datetime.fromisoformat(row["changed_at"]),
            )
            for row in rows
        ]

    def finish_step(self, job: Job, *, at: datetime, publications: Sequence[Publication]) -> None:
        """The step and what it has to say are booked together."""
        with self.transaction() as connection:
            connection.execute(
                "UPDATE job SET steps_done = ?, changed_at = ? WHERE n = ?", (job.steps_done + 1, stamp(at), job.n)
            )
            self.write_publications(*publications)

    def count_up(self, name: str) -> int:
        with self.transaction() as connection:
            connection.execute(
                "INSERT INTO counter (name, value) VALUES (?, 1) ON CONFLICT (name) DO UPDATE SET value = value + 1",
                (name,),
            )
            value: int = connection.execute("SELECT value FROM counter WHERE name = ?", (name,)).fetchone()[0]
        return value

    def jobs(self) -> list[Row]:
        """Every order taken, in arrival order."""
        rows = self.rows(
            "SELECT j.n, j.job_id, j.order_number, j.idempotency_key, j.received_at, j.steps, j.steps_done, j.work,"
            " coalesce(r.requests, 1) AS requests FROM job j LEFT JOIN remembered r ON r.job_id = j.job_id ORDER BY j.n"
        )
        for row in rows:
            work = json.loads(row.pop("work"))
            row |= {name: work[name] for name in ("material", "quantity", "unit", "site")}
        return rows
