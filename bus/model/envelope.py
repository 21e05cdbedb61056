"""The Envelope: a message on the wire; opened into a Message, or refused with the reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bus.errors import MessageInvalid, MessageRefused, Violation
from bus.model.contract import Contract, Contracts
from bus.model.message import Message, Opened, derived_id
from bus.model.message_class import MessageClass
from bus.model.stated import LONGEST_NAME, StatedFields, read_fields
from bus.model.system import Site, System

EXCHANGE = "bus.in"
"""Where every publisher publishes."""

PERSISTENT = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """A message as it came over AMQP, nothing decoded. Property names are those of AMQP 0-9-1 basic."""

    routing_key: str
    body: bytes
    exchange: str = EXCHANGE
    properties: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, Any] = field(default_factory=dict)
    redelivered: bool = False
    delivery_tag: int = 0
    generation: int = 0
    """Which opening of the consumer's AMQP channel the tag belongs to: tags start again with every one."""
    unreadable: str = ""
    """Why properties and headers could not be read (bytes that are no text, impossible times); both are empty then."""


@dataclass(frozen=True, slots=True)
class Address:
    """A routing key in parts: `<site>.<system>.<type>`; only a type has dots."""

    site: str
    system: str
    type: str

    def __str__(self) -> str:
        return f"{self.site}.{self.system}.{self.type}"


def read_address(routing_key: str) -> Address:
    """The parts of a routing key.

    Raises:
        MessageInvalid: routing-key.malformed.
    """
    parts = routing_key.split(".", 2)
    if len(parts) != 3 or not all(parts) or not routing_key.isprintable():
        raise MessageInvalid(
            "routing-key.malformed", Violation("routing key", f"{routing_key!r} is not <site>.<system>.<type>")
        )
    return Address(*parts)


def claimed_sender(routing_key: str) -> tuple[str, str]:
    """(system, type) of a routing key, well-formed or not: the broker let the sender write it.

    Properties say what their sender likes, another system's name included.
    """
    site, _, rest = routing_key.partition(".")
    system, _, type_name = rest.partition(".")
    return system, type_name or site


def open_envelope(
    envelope: Envelope,
    *,
    contracts: Contracts,
    systems: Mapping[str, System],
    sites: Mapping[str, Site],
    max_bytes: int,
    message_class: MessageClass | None = None,
) -> Opened:
    """Check an envelope from the outside in, and make a message of it: size, identity, right, contract.

    `message_class` is that of the queue it was read from; None: the queue takes every class. Inbound `x-*` headers are
    dropped. CloudEvents 1.0 is taken in both modes (AMQP protocol binding 1.0.2).

    Raises:
        MessageInvalid: it cannot be taken as it is; cause and violations say why.
        MessageRefused: the sender may not say this.
    """
    if len(envelope.body) > max_bytes:
        raise MessageInvalid(
            "body.too-large", Violation("body", f"{len(envelope.body)} bytes, at most {max_bytes} are taken")
        )
    if envelope.unreadable:
        raise MessageInvalid("properties.unreadable", Violation("properties", envelope.unreadable))
    address = read_address(envelope.routing_key)
    fields = read_fields(envelope.properties, envelope.headers, envelope.body)
    _refuse_contradictions(fields, address)
    system = _known_sender(address, systems, sites)
    _check_user(fields.user_id, system, systems)
    contract = contracts.of(address.type)
    _check_right(address, system)
    _check_queue(envelope.headers, contract, message_class)
    return _open_body(fields, address, contract)


def to_properties(message: Message) -> tuple[dict[str, Any], dict[str, Any]]:
    """(basic properties, headers) of a message in the native form; empty fields are left out."""
    properties = {
        "message_id": message.id,
        "type": message.type,
        "app_id": message.system,
        "correlation_id": message.correlation_id,
        "content_type": message.content_type,
        "delivery_mode": PERSISTENT,
    }
    headers = {
        "site": message.site,
        "subject": message.subject,
        "time": message.time.isoformat() if message.time else "",
        "causation_id": message.causation_id,
        "sequence": message.sequence if message.sequence is not None else "",
        "business_date": message.business_date.isoformat() if message.business_date else "",
        "dataschema": message.dataschema,
        "traceparent": message.traceparent,
    }
    return _without_empty(properties), _without_empty(headers)


def routing_key_of(message: Message) -> str:
    return str(Address(message.site, message.system, message.type))


def _without_empty(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value != ""}


# --- who says it, and may they ----------------------------------------------------------------------------------------


def _refuse_contradictions(fields: StatedFields, address: Address) -> None:
    for name, stated, routed in (
        ("type", fields.type, address.type),
        ("app_id", fields.app_id, address.system),
        ("site", fields.site, address.site),
    ):
        if stated and stated != routed:
            raise MessageRefused(
                "properties.contradict-routing-key", f"{name} is {stated!r}, the routing key says {routed!r}"
            )


def _known_sender(address: Address, systems: Mapping[str, System], sites: Mapping[str, Site]) -> System:
    system = systems.get(address.system)
    if system is None:
        raise MessageRefused("sender.unknown-system", f"{address.system!r} is not a system of bus.toml")
    if address.site not in sites:
        raise MessageRefused("sender.unknown-site", f"{address.site!r} is not a site of bus.toml")
    if address.site not in system.sites:
        raise MessageRefused(
            "sender.foreign-site",
            f"{system.name} works at {', '.join(system.sites) or 'no site'}, not at {address.site}",
        )
    return system


def _check_user(user: str, system: System, systems: Mapping[str, System]) -> None:
    if not user or user == system.user:
        return
    if any(other.user == user and system.name in other.speaks_for for other in systems.values()):
        return
    raise MessageRefused("sender.foreign-system", f"user {user!r} does not speak for {system.name}")


def _check_right(address: Address, system: System) -> None:
    if address.type not in system.publishes:
        raise MessageRefused(
            "sender.not-allowed-type",
            f"{system.name} may publish {', '.join(sorted(system.publishes)) or 'nothing'}, not {address.type}",
        )


def _check_queue(headers: Mapping[str, Any], contract: Contract, message_class: MessageClass | None) -> None:
    """RabbitMQ routes by CC and BCC too, for which it checks no right, and takes BCC out of what it delivers."""
    copied = [name for name in ("CC", "BCC") if name in headers]
    if copied:
        raise MessageRefused("class.wrong-queue", f"header {copied[0]}: a message has one routing key, no copies")
    if message_class is not None and contract.message_class is not message_class:
        raise MessageRefused(
            "class.wrong-queue",
            f"{contract.type} is of class {contract.message_class}, the queue of class {message_class}",
        )


# --- what it says -----------------------------------------------------------------------------------------------------


def _open_body(fields: StatedFields, address: Address, contract: Contract) -> Opened:
    content_type = _check_content_type(fields, contract)
    document = _read(contract, fields.body)
    subject = contract.subject_of(document, stated=fields.subject)
    if not subject.isprintable() or len(subject) > LONGEST_NAME:
        place = contract.key.path if contract.key else "subject"
        raise MessageInvalid(
            "key.malformed", Violation(place, f"an ordering key has at most {LONGEST_NAME} printable letters")
        )
    message_id = fields.message_id or derived_id(address.system, address.type, *contract.identity_of(document))
    message = Message(
        id=message_id,
        type=address.type,
        system=address.system,
        site=address.site,
        subject=subject,
        content_type=content_type,
        body=fields.body,
        time=fields.time,
        correlation_id=fields.correlation_id or message_id,
        causation_id=fields.causation_id,
        sequence=fields.sequence,
        business_date=fields.business_date,
        dataschema=fields.dataschema,
        traceparent=fields.traceparent,
    )
    return Opened(message, document)


def _check_content_type(fields: StatedFields, contract: Contract) -> str:
    media_type = fields.content_type or contract.content_types[0]
    if media_type not in contract.content_types:
        raise MessageInvalid(
            "content-type.unexpected",
            Violation("content_type", f"{media_type} is not one of {', '.join(contract.content_types)}"),
        )
    if fields.charset not in ("", "utf-8", "utf8"):
        kind = "xml" if "xml" in media_type else "json" if "json" in media_type else "text"
        raise MessageInvalid(
            f"{kind}.charset", Violation("content_type", f"charset {fields.charset}: utf-8 is expected")
        )
    return media_type


def _read(contract: Contract, body: bytes) -> Mapping[str, Any]:
    try:
        return contract.read(body)
    except MessageInvalid:
        raise
    except (Exception, SystemExit) as error:  # a contract's own reader stumbled: recorded, and nobody else is held up
        raise MessageInvalid(
            "reader.raised",
            Violation("body", f"the reader of {contract.type} raised {type(error).__name__}: {error}"),
        ) from error
