"""The ERP's book: the orders it knows and the documents it booked, one for every posting it took."""

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.plant.book import Book, Row, order_key, stamp
from tests.plant.odata import Refusal, edm_datetime, edm_time
from tests.plant.postings import CONFIRMATION, MATERIAL_DOCUMENT, UNITS, Posting

SCHEMA = """
CREATE TABLE IF NOT EXISTS known_order (
  number TEXT PRIMARY KEY, site TEXT NOT NULL, unit TEXT NOT NULL, operations TEXT NOT NULL,
  seed INTEGER NOT NULL, created TEXT NOT NULL, revision INTEGER NOT NULL, locked INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS document (
  n INTEGER PRIMARY KEY,
  entity TEXT NOT NULL, external_id TEXT NOT NULL, order_number TEXT NOT NULL, operation TEXT NOT NULL,
  number TEXT NOT NULL UNIQUE, year TEXT NOT NULL, quantities TEXT NOT NULL, movements TEXT NOT NULL,
  content TEXT NOT NULL, booked_at TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS document_external_id ON document (entity, external_id);
CREATE TABLE IF NOT EXISTS confirmation_group (
  order_number TEXT NOT NULL, operation TEXT NOT NULL, number INTEGER PRIMARY KEY, confirmations INTEGER NOT NULL,
  UNIQUE (order_number, operation)
);
CREATE TABLE IF NOT EXISTS material_number (n INTEGER PRIMARY KEY);
"""

FIRST_MATERIAL_DOCUMENT = 4_900_000_000


@dataclass(frozen=True)
class KnownOrder:
    number: str
    site: str
    unit: str
    operations: Sequence[str]
    seed: int = 0
    created: str = ""
    revision: int = 0


class ErpBook(Book):
    """Remembers no idempotency keys: what is posted twice is booked twice, with two documents."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, schema=SCHEMA)

    def know_order(self, order: KnownOrder) -> None:
        with self.transaction() as connection:
            connection.execute(
                "INSERT INTO known_order (number, site, unit, operations, seed, created, revision)"
                " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (number) DO UPDATE SET revision = excluded.revision",
                (
                    order_key(order.number),
                    order.site,
                    order.unit,
                    json.dumps(list(order.operations)),
                    order.seed,
                    order.created,
                    order.revision,
                ),
            )

    def known_order(self, number: str) -> KnownOrder | None:
        rows = self.rows("SELECT * FROM known_order WHERE number = ?", order_key(number))
        if not rows:
            return None
        row = rows[0]
        return KnownOrder(
            row["number"], row["site"], row["unit"], json.loads(row["operations"]), row["seed"], row["created"],
            row["revision"],
        )  # fmt: skip

    def next_order_number(self) -> int:
        rows = self.rows("SELECT max(CAST(number AS INTEGER)) AS last FROM known_order")
        return int(rows[0]["last"] or 1_000_000) + 1

    def lock_order(self, number: str, *, locked: bool) -> None:
        with self.transaction() as connection:
            connection.execute("UPDATE known_order SET locked = ? WHERE number = ?", (int(locked), order_key(number)))

    def book_posting(self, posting: Posting) -> dict[str, Any]:
        """Book it and give the entity SAP would answer with.

        Raises:
            Refusal: the order is unknown, locked, or does not take this unit or operation.
        """
        now = datetime.now(UTC)
        with self.transaction() as connection:
            self._check_orders(posting)
            entity = dict(posting.fields) | {"__metadata": {"type": posting.entity + "Type"}}
            if posting.entity == CONFIRMATION:
                number = _number_confirmation(connection, entity, posting, now)
            else:
                number = _number_material_document(connection, entity, posting, now)
            connection.execute(
                "INSERT INTO document (entity, external_id, order_number, operation, number, year, quantities,"
                " movements, content, booked_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    posting.entity,
                    posting.external_id,
                    posting.orders[0] if posting.orders else "",
                    posting.operation,
                    number,
                    str(now.year),
                    json.dumps(posting.quantities),
                    json.dumps(posting.movements),
                    json.dumps(entity),
                    stamp(now),
                ),
            )
        return entity

    def find_documents(self, entity: str, external_id: str) -> list[dict[str, Any]]:
        wanted = external_id.lower() if entity == CONFIRMATION else external_id
        rows = self.rows("SELECT content FROM document WHERE entity = ? AND external_id = ? ORDER BY n", entity, wanted)
        return [json.loads(row["content"]) for row in rows]

    def documents(self) -> list[Row]:
        """Every document in booking order, with how often its external id was posted."""
        rows = self.rows(
            "SELECT d.n, d.entity, d.external_id, d.order_number, d.operation, d.number, d.year, d.quantities,"
            " d.movements, d.booked_at, (SELECT count(*) FROM request r WHERE r.method = 'POST' AND"
            " r.entity = d.entity AND r.external_id = d.external_id) AS requests FROM document d ORDER BY d.n"
        )
        return [row | {name: json.loads(row[name]) for name in ("quantities", "movements")} for row in rows]

    def _check_orders(self, posting: Posting) -> None:
        for number in posting.orders:
            rows = self.rows("SELECT * FROM known_order WHERE number = ?", number)
            if not rows:
                raise Refusal(400, "CO/017", f"Order {number} does not exist")
            if rows[0]["locked"]:
                raise Refusal(423, "CO/469", f"Order {number} is already being processed by MILLER")
            operations = json.loads(rows[0]["operations"])
            if posting.operation and operations and posting.operation not in operations:
                raise Refusal(400, "RU/014", f"Operation {posting.operation} of order {number} does not exist")
            order_unit = rows[0]["unit"]
            for unit in posting.units:
                if UNITS[unit] != UNITS[order_unit]:
                    raise Refusal(400, "RU/100", f"Unit {unit} cannot be converted into {order_unit} of the order")


def _number_confirmation(
    connection: sqlite3.Connection, entity: dict[str, Any], posting: Posting, now: datetime
) -> str:
    connection.execute(
        "INSERT INTO confirmation_group (order_number, operation, confirmations) VALUES (?, ?, 1)"
        " ON CONFLICT (order_number, operation) DO UPDATE SET confirmations = confirmations + 1",
        (posting.orders[0], posting.operation),
    )
    group, confirmations = connection.execute(
        "SELECT number, confirmations FROM confirmation_group WHERE order_number = ? AND operation = ?",
        (posting.orders[0], posting.operation),
    ).fetchone()
    entity["__metadata"]["type"] = f"API_PROD_ORDER_CONFIRMATION_2_SRV.{CONFIRMATION}Type"
    entity["ConfirmationGroup"] = str(group)
    entity["ConfirmationCount"] = str(confirmations)
    entity["ConfirmationEntryDate"] = edm_datetime(now.replace(hour=0, minute=0, second=0, microsecond=0))
    entity["ConfirmationEntryTime"] = edm_time(now)
    entity["to_ProdnOrdConfMatlDocItm"] = {"results": _numbered_items(connection, posting, now)}
    return f"{group}/{confirmations}"


def _number_material_document(
    connection: sqlite3.Connection, entity: dict[str, Any], posting: Posting, now: datetime
) -> str:
    items = _numbered_items(connection, posting, now)
    entity["__metadata"]["type"] = f"API_MATERIAL_DOCUMENT_SRV.{MATERIAL_DOCUMENT}Type"
    entity["MaterialDocument"] = items[0]["MaterialDocument"]
    entity["MaterialDocumentYear"] = items[0]["MaterialDocumentYear"]
    entity["CreationDate"] = edm_datetime(now.replace(hour=0, minute=0, second=0, microsecond=0))
    entity["CreationTime"] = edm_time(now)
    entity["to_MaterialDocumentItem"] = {"results": items}
    return str(entity["MaterialDocument"])


def _numbered_items(connection: sqlite3.Connection, posting: Posting, now: datetime) -> list[dict[str, Any]]:
    if not posting.movements:
        return []
    drawn = connection.execute("INSERT INTO material_number DEFAULT VALUES").lastrowid or 0
    number = str(FIRST_MATERIAL_DOCUMENT + drawn)
    return [
        {
            **movement,
            "MaterialDocument": number,
            "MaterialDocumentYear": str(now.year),
            "MaterialDocumentItem": str(position),
        }
        for position, movement in enumerate(posting.movements, start=1)
    ]
