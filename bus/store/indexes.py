"""The indexes of the tables; bus/store/migrations makes them.

Apart from the tables, which every command imports: SQLAlchemy imports both dialects to take a partial index.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Index, text

from bus.store import tables as t


def _partial(name: str, where: str, *columns: Any) -> None:
    Index(name, *columns, postgresql_where=text(where), sqlite_where=text(where))


Index("ix_message_accepted", t.message.c.accepted_at)
Index("ix_message_subject", t.message.c.subject, t.message.c.id)
Index("ix_message_correlation", t.message.c.correlation_id)
Index("ix_message_type", t.message.c.type, t.message.c.id)
Index("ix_message_system", t.message.c.system, t.message.c.id)
Index("ix_message_message_id", t.message.c.message_id)
Index(
    "ix_message_parent",
    t.message.c.parent,
    postgresql_where=t.message.c.parent.is_not(None),
    sqlite_where=t.message.c.parent.is_not(None),
)
# PostgreSQL alone: it costs next to nothing to keep, and serves whoever moves the values of few messages.
Index(
    "ix_search_value_message",
    t.search_value.c.message,
    postgresql_using="brin",
    postgresql_with={"pages_per_range": 32, "autosummarize": "on"},
).ddl_if(dialect="postgresql")
Index("ix_receipt_kind", t.receipt.c.kind, t.receipt.c.id)
Index(
    "ix_delivery_standing",
    t.delivery.c.lane,
    t.delivery.c.place,
    t.delivery.c.part,
    postgresql_where=text("stands"),
    sqlite_where=text("stands = 1"),  # SQLite uses the index only where a query spells it the same way
)
_partial("ix_delivery_ready", "state = 'READY'", t.delivery.c.queue, t.delivery.c.id)
_partial("ix_delivery_ready_since", "state = 'READY'", t.delivery.c.queue, t.delivery.c.changed_at)
_partial("ix_delivery_due", "state = 'RETRYING'", t.delivery.c.due_at)
_partial("ix_delivery_doubt", "state = 'IN_DOUBT'", t.delivery.c.queue, t.delivery.c.due_at)
_partial("ix_delivery_held", "state IN ('CLAIMED', 'SENDING')", t.delivery.c.worker)
_partial("ix_delivery_running", "state IN ('CLAIMED', 'SENDING')", t.delivery.c.lane)
_partial("ix_delivery_dead", "state = 'DEAD'", t.delivery.c.id)
_partial("ix_delivery_document", "document <> ''", t.delivery.c.document)
Index("ix_attempt_delivery", t.attempt.c.delivery)
_partial("ix_attempt_document", "document <> ''", t.attempt.c.document)
Index("ix_journal_delivery", t.journal.c.delivery)

SCHEMA = t.metadata
"""The tables with their indexes: what a store has to look like."""
