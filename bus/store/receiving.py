"""Receiving in the store: ids taken once, receipts, messages."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any

from sqlalchemy import Text, bindparam, select

from bus.model import ledger
from bus.model.message import Message
from bus.ports import Kept, Receipt, Taken
from bus.store import tables as t
from bus.store.bulk import Listed, add_numbered, add_rows, as_lists, from_lists, one_of
from bus.store.clock import store_clock
from bus.store.work import UnitOfWork, chunks, insert_into, storable

_KEY = t.message_key.c
_STANDING_IDS = select(_KEY.system, _KEY.message_id, _KEY.digest).where(
    _KEY.system == bindparam("of_system"), one_of(_KEY.message_id, bindparam("ids", type_=Listed(Text)))
)


@cache
def _take_each(*, is_sqlite: bool) -> Any:
    if is_sqlite:
        statement = insert_into(t.message_key, is_sqlite=True)
    else:
        statement = from_lists(t.message_key, "system", "message_id", "digest", at=store_clock())
    return statement.on_conflict_do_nothing().returning(_KEY.system, _KEY.message_id, _KEY.at)


class Receiving(UnitOfWork):
    """What receive and settle write about messages."""

    def take_ids(self, messages: Sequence[Message]) -> list[Taken]:
        rows = {(m.system, m.id): m.digest for m in messages}
        ordered = sorted(rows, key=lambda key: (key[0].encode(), key[1].encode()))
        new: set[tuple[str, str]] = set()
        standing: dict[tuple[str, str], bytes] = {}
        statement = _take_each(is_sqlite=self.database.is_sqlite)
        for part in chunks(ordered):
            values: list[dict[str, Any]] = [{"system": s, "message_id": i, "digest": rows[s, i]} for s, i in part]
            given = [row | {"at": self.now} for row in values] if self.database.is_sqlite else as_lists(values)
            for row in self.connection.execute(statement, given):
                new.add((row.system, row.message_id))
                self.learn_now(row.at)
            known = [pair for pair in part if pair not in new]
            if known:
                by_system: dict[str, list[str]] = {}
                for system, message_id in known:
                    by_system.setdefault(system, []).append(message_id)
                for system, ids in by_system.items():
                    found = self.connection.execute(_STANDING_IDS, {"of_system": system, "ids": ids})
                    standing.update({(row.system, row.message_id): bytes(row.digest) for row in found})
        return [
            Taken((m.system, m.id) in new, m.digest if (m.system, m.id) in new else standing[m.system, m.id])
            for m in messages
        ]

    def add_receipts(self, receipts: Sequence[Receipt]) -> None:
        if not receipts:
            return
        rows = [
            {
                "at": self.now,
                "kind": str(receipt.kind),
                "cause": receipt.cause,
                "detail": storable(receipt.detail, 20_000),
                "routing_key": storable(receipt.routing_key),
                "properties": json.dumps(receipt.properties, default=str, ensure_ascii=True),
                "body": receipt.body,
                "message_id": storable(receipt.message_id),
                "system": storable(receipt.system),
                "type": storable(receipt.type),
            }
            for receipt in receipts
        ]
        add_rows(self.connection, t.receipt, rows)
        self.deltas.update(Counter(("received", "") for _ in receipts))
        self.deltas.update(Counter((str(receipt.kind), "") for receipt in receipts))

    def add_messages(
        self,
        messages: Sequence[Message],
        *,
        searchable: Sequence[Sequence[tuple[str, str]]],
        parents: Sequence[int | None],
        planned: Sequence[tuple[int, int]],
    ) -> list[Kept]:
        if not messages:
            return []
        rows = [
            {
                "message_id": m.id,
                "system": m.system,
                "type": m.type,
                "site": m.site,
                "subject": m.subject,
                "correlation_id": m.correlation_id,
                "causation_id": m.causation_id,
                "content_type": m.content_type,
                "time": m.time,
                "sequence": m.sequence,
                "business_date": m.business_date,
                "dataschema": m.dataschema,
                "traceparent": m.traceparent,
                "digest": m.digest,
                "body": m.body,
                "accepted_at": self.now,
                "parent": parent,
                "planned": deliveries,
                "entering": entering,
            }
            for m, parent, (deliveries, entering) in zip(messages, parents, planned, strict=True)
        ]
        numbers = add_numbered(self.connection, t.message, rows)
        found = {
            (path, value[:500], number): None
            for number, pairs in zip(numbers, searchable, strict=True)
            for path, value in pairs
        }
        add_rows(self.connection, t.search_value, [{"path": p, "value": v, "message": n} for p, v, n in found])
        for parent in parents:
            self.deltas.update({("received", ""): 1, ("accepted", ""): 1} if parent is None else {("produced", ""): 1})
        self.deltas.update((ledger.disposition(*counts), "") for counts in planned)
        return [Kept(number, message) for number, message in zip(numbers, messages, strict=True)]

    def forget_openings(self, digests: Sequence[bytes]) -> None:
        for part in chunks(digests):
            self.connection.execute(t.opening.delete().where(t.opening.c.digest.in_(part)))
