"""The Message: one business fact, as the bus keeps it; immutable header and body bytes."""

from __future__ import annotations

import base64
import hashlib
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

NAMESPACE = uuid.UUID("6f0a1c1e-6f3b-5c0e-9d0c-0b9a2a7d5b11")
"""Root of every id the bus derives (uuid5): ids of facts without one, of children, of deliveries."""

BUS = "bus"
"""The destination of re-entry: a route `to=BUS` makes a native message canonical."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One business fact. Field names follow CloudEvents 1.0; on AMQP see bus.model.envelope."""

    id: str
    """Identity of the fact within its system; stable across resends (AMQP message_id)."""
    type: str
    system: str
    site: str
    subject: str
    """Ordering key with its kind, normalised by the contract: `order:4711`; empty: unordered."""
    content_type: str
    body: bytes
    time: datetime | None = None
    """When it happened on the floor, aware; not when it was sent."""
    correlation_id: str = ""
    causation_id: str = ""
    sequence: int | None = None
    """Which one it is, from 1, of all that its system said at its site about its subject; see bus.model.sequence."""
    business_date: date | None = None
    dataschema: str = ""
    traceparent: str = ""

    @property
    def digest(self) -> bytes:
        """SHA-256 of what may not change under one id: type, subject, content type, body."""
        return digest_of(self.type, self.subject, self.content_type, self.body)


def digest_of(*parts: str | bytes) -> bytes:
    """SHA-256 over length-prefixed parts, so that no two different lists collide."""
    hasher = hashlib.sha256()
    for part in parts:
        # AMQP text may hold half of a surrogate pair; what is refused for that has a digest too.
        raw = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        hasher.update(len(raw).to_bytes(8, "big"))
        hasher.update(raw)
    return hasher.digest()


@dataclass(frozen=True, slots=True)
class Opened:
    """A message with its document: the body as its contract read and checked it."""

    message: Message
    document: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """What a transformer makes: a body of a declared type; header fields left empty are inherited."""

    type: str
    body: bytes
    content_type: str = "application/json"
    time: datetime | None = None
    business_date: date | None = None


def derived_id(*parts: str | int) -> str:
    """uuid5 over the parts, for facts and deliveries whose id follows from others; no two lists have one id."""
    return str(uuid.uuid5(NAMESPACE, "\x1f".join(_without_separator(str(part)) for part in parts)))


def _without_separator(part: str) -> str:
    # Only what holds one of the two is changed: all other ids stay what they were.
    return part.replace("\x1b", "\x1b\x1b").replace("\x1f", "\x1bu")


def delivery_key(message: Message, *, route: str, replay: int) -> str:
    """Idempotency key of a delivery: the same for every retry, another one for a deliberate repeat."""
    return derived_id("delivery", message.system, message.id, route, replay)


def child_key(parent_key: str, index: int) -> str:
    """Id of the index-th child a transformer made; a child's delivery uses it as its idempotency key too."""
    return derived_id("child", parent_key, index)


_CROCKFORD = bytes.maketrans(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", b"0123456789ABCDEFGHJKMNPQRSTVWXYZ")


def short_key(key: str) -> str:
    """16 characters for a key where the target has no room for a UUID (SAP's ReferenceDocument).

    80 bits of SHA-256 in Crockford's base 32, upper case: among a thousand million keys two are alike with a
    probability of one in two million.
    """
    return base64.b32encode(hashlib.sha256(key.encode()).digest()[:10]).translate(_CROCKFORD).decode()
