"""Reads what the broker put aside: messages no queue took, and dead letters; each is recorded, none is lost."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from loguru import logger as log

from bus.broker.consumer import Consumer
from bus.broker.router import run_router
from bus.model.envelope import Envelope, claimed_sender
from bus.ports import Receipt, ReceiptKind

_HINTS = ("transform.", "send.")
"""How the queues of hints begin."""

Record = Callable[[Sequence[Receipt]], None]
"""Keeps receipts; returns after the commit. May raise StoreUnavailable: they are offered again."""


def run_dead_letters(consumer: Consumer, record: Record, stop: threading.Event) -> None:
    """Record the dead letters of the bus's own queues as receipts, until `stop` is set.

    `bus.unrouted` needs no reader of its own: give its queue to `run_router` with the same `receive`, which records an
    unknown type with the known ones, and takes a type whose binding was not declared yet.
    """

    def receive(batch: Sequence[Envelope]) -> Collection[str]:
        receipts = [receipt_of_dead_letter(envelope) for envelope in batch if not _is_hint(envelope)]
        if receipts:
            record(receipts)
        return ()

    run_router(consumer, receive, lambda _: None, stop)


def receipt_of_dead_letter(envelope: Envelope) -> Receipt:
    """INVALID(dead-lettered.<reason>), raw, with the queue it died in; the reason is RabbitMQ's own word."""
    death = _own_death(envelope)
    reason = str(death.get("reason", "unknown"))
    system, type_name = claimed_sender(envelope.routing_key)
    return Receipt(
        kind=ReceiptKind.INVALID,
        cause=f"dead-lettered.{reason}",
        detail=f"RabbitMQ dead-lettered it from queue {death.get('queue', 'unknown')}",
        routing_key=envelope.routing_key,
        properties={**envelope.properties, "headers": dict(envelope.headers)},
        body=envelope.body,
        message_id=str(envelope.properties.get("message_id", "")),
        system=system,
        type=type_name,
    )


def _is_hint(envelope: Envelope) -> bool:
    """A dead hint is no message: the store knows the work, and the relay sends another hint."""
    queue = str(_own_death(envelope).get("queue", ""))
    if not queue.startswith(_HINTS):
        return False
    log.warning("hint dead-lettered", queue=queue)
    return True


def _own_death(envelope: Envelope) -> Mapping[str, Any]:
    """What RabbitMQ wrote when it put the message aside; it stands before whatever the publisher wrote there."""
    deaths = envelope.headers.get("x-death")
    latest = deaths[0] if isinstance(deaths, list) and deaths else {}
    return latest if isinstance(latest, Mapping) else {}
