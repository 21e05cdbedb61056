"""Find receipts: what was received and did not become a message, kept raw with the reason."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, select

from bus.ports import ReceiptKind
from bus.store import tables as t
from bus.store.engine import Database
from bus.store.retired import refuse_retired
from bus.store.views import COUNTED, Page, count_up_to

LOOK_AT = 50_000
"""Receipts of one kind that the other filters are tried on for one page."""

_R = t.receipt.c
_LINE = [column for column in t.receipt.c if column.name not in ("body", "properties")]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiptLine:
    """A receipt without its body."""

    receipt: int
    at: datetime
    kind: str
    cause: str
    detail: str
    system: str
    type: str
    id: str
    """The message id it came with, if any."""
    routing_key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiptDetail:
    """A receipt with everything it came with."""

    line: ReceiptLine
    properties: Mapping[str, Any]
    body: bytes


def list_receipts(
    database: Database,
    kind: ReceiptKind,
    *,
    limit: int,
    type_name: str = "",
    system: str = "",
    since: datetime | None = None,
    until: datetime | None = None,
    before: int | None = None,
) -> Page[ReceiptLine]:
    """The newest receipts of a kind, newest first; the filters are tried on at most LOOK_AT of them."""
    newest = select(_R.id).where(_R.kind == str(kind)).order_by(_R.id.desc()).limit(LOOK_AT)
    if before is not None:
        newest = newest.where(_R.id < before)
    window = newest.subquery("window")
    query = select(*_LINE).select_from(window.join(t.receipt, _R.id == window.c.id)).order_by(_R.id.desc())
    for column, wanted in ((_R.type, type_name), (_R.system, system)):
        if wanted:
            query = query.where(column == wanted)
    if since is not None:
        query = query.where(_R.at >= since)
    if until is not None:
        query = query.where(_R.at <= until)
    with database.history() as connection:
        lines = [_line(row) for row in connection.execute(query.limit(limit))]
        if len(lines) == limit:
            more = count_up_to(connection, query, limit + COUNTED) - limit
            return Page(lines, more, more < COUNTED, lines[-1].receipt)
        seen = select(func.count().label("rows"), func.min(window.c.id).label("oldest")).select_from(window)
        rows, oldest = connection.execute(seen).one()
        return Page(lines, goes_on_at=oldest, looked_at=LOOK_AT) if rows == LOOK_AT else Page(lines)


def receipt_detail(database: Database, number: int) -> ReceiptDetail | None:
    """A receipt by its number; None: there is none.

    Raises:
        NotFound: it was dropped with its month.
    """
    with database.history() as connection:
        row = connection.execute(select(t.receipt).where(_R.id == number)).one_or_none()
        if row is None:
            refuse_retired(connection, t.receipt, number)
            return None
    return ReceiptDetail(line=_line(row), properties=json.loads(row.properties), body=bytes(row.body))


def _line(row: Any) -> ReceiptLine:
    return ReceiptLine(
        receipt=row.id,
        at=row.at,
        kind=row.kind,
        cause=row.cause,
        detail=row.detail,
        system=row.system,
        type=row.type,
        id=row.message_id,
        routing_key=row.routing_key,
    )
