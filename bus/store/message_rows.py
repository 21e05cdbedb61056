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


def message_of(row: Any, prefix: str = "") -> Message:
    """The Message of a row that holds its columns under the prefix; without a body where that is NULL."""
    fields = row._mapping
    return Message(
        id=fields[f"{prefix}message_id"],
        body=bytes(fields[f"{prefix}body"] or b""),
        **{name: fields[f"{prefix}{name}"] for name in HEADER},
    )
