"""The classes of messages: what has its own queues, routers and workers."""

from __future__ import annotations

from enum import StrEnum

MOST_PARTITIONS = 64
"""Inbound queues of a class at the most."""


class MessageClass(StrEnum):
    """Transactions and events have their own queues, routers and workers: a flood of one never delays the other."""

    TRANSACTION = "transaction"
    EVENT = "event"
