"""How a system of the plant writes a message for the bus: routing key, AMQP properties, headers."""

import base64
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from tests.plant.book import Publication, stamp


def compose(
    body: bytes,
    *,
    type: str,  # noqa: A002 - the name of the AMQP property
    system: str,
    site: str,
    message_id: str,
    subject: str,
    time: datetime,
    content_type: str = "application/json",
    order_number: str = "",
) -> Publication:
    """A persistent message to `bus.in` under `<site>.<system>.<type>`, in the name of the system's broker user."""
    properties: dict[str, Any] = {
        "message_id": message_id,
        "type": type,
        "app_id": system,
        "user_id": system,
        "content_type": content_type,
        "delivery_mode": 2,
        "timestamp": int(time.timestamp()),
        "headers": {"site": site, "subject": subject, "time": stamp(time)},
    }
    return Publication(
        routing_key=f"{site}.{system}.{type}", properties=properties, body=body, order_number=order_number
    )


def compose_raw(command: Mapping[str, Any], *, system: str, site: str, now: datetime) -> Publication:
    """Whatever the command says, right or wrong: `properties` and `headers` override, null removes.

    Raises:
        KeyError: `type`, `message_id`, or both of `body_base64` and `body` are missing.
    """
    body = base64.b64decode(command["body_base64"]) if "body_base64" in command else str(command["body"]).encode()
    regular = compose(
        body,
        type=command["type"],
        system=system,
        site=command.get("site", site),
        message_id=command["message_id"],
        subject=command.get("subject", ""),
        time=now,
        content_type=command.get("content_type", "application/json"),
    )
    headers = _overridden(regular.properties["headers"], command.get("headers", {}))
    properties = _overridden({**regular.properties, "headers": headers}, command.get("properties", {}))
    return Publication(
        routing_key=command.get("routing_key", regular.routing_key),
        properties=properties,
        body=body,
        exchange=command.get("exchange", regular.exchange),
    )


def _overridden(values: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in {**values, **overrides}.items() if value is not None}
