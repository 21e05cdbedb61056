"""A row of the table of messages as the Message it is."""

from __future__ import annotations

from typing import Any

from bus.model.message import Message

HEADER = (
    "type",
    "system",
    "site",
    "subject",
    "content_type",
    "time",
    "correlation_id",
    "causation_id",
    "sequence",
    "business_date",
    "dataschema",
    "traceparent",
)
"""Columns that are named as the Message's own fields."""


def message_of(row: Any) -> Message:
    """The Message of a row of the table."""
    fields = row._mapping
    return Message(id=row.message_id, body=bytes(row.body), **{name: fields[name] for name in HEADER})
