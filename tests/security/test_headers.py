"""Letters that end a header, a property or a line of a log: refused where they come in, and written nowhere."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from bus.connectors.http import HttpConnector
from bus.connectors.http_credentials import bearer
from bus.errors import EndpointDown, MessageInvalid, MessageRefused
from bus.model.secret import Secret
from tests.conformance.scripted_server import Raw, ScriptedServer
from tests.security.hostile import obeyed
from tests.unit.test_envelope import opened

HOSTILE = ["a\r\nx-evil: 1", "a\n", "\na", "a\rb", "a\x00b", "\x1b[2J", "a\u2028b", "\u202ea", "a\x85b", "\ud800"]

PROPERTIES = ("message_id", "correlation_id", "type", "app_id", "user_id", "content_type", "content_encoding")
HEADERS = (
    *("site", "subject", "time", "causation_id", "sequence", "business_date", "dataschema", "traceparent"),
    *(f"cloudEvents:{name}" for name in ("id", "source", "type", "subject", "time", "dataschema", "traceparent")),
)
EVENT = {"cloudEvents:specversion": "1.0", "cloudEvents:id": "1", "cloudEvents:source": "/x", "cloudEvents:type": ""}


@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.parametrize("name", PROPERTIES)
def test_a_property_with_a_letter_that_ends_a_line_makes_no_message(name: str, hostile: str) -> None:
    with pytest.raises((MessageInvalid, MessageRefused)):
        opened(properties={name: hostile})


@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.parametrize("name", HEADERS)
def test_a_header_with_a_letter_that_ends_a_line_makes_no_message(name: str, hostile: str) -> None:
    event = {key: value for key, value in EVENT.items() if value} if name.startswith("cloudEvents:") else {}
    event |= {"cloudEvents:type": "order.release.v1"} if event else {}
    with pytest.raises((MessageInvalid, MessageRefused)):
        opened(headers={**event, name: hostile})


@pytest.mark.parametrize("hostile", HOSTILE[:-1])
@pytest.mark.parametrize("field", [("order", "id"), ("id",)])
def test_an_id_in_a_document_brings_no_such_letter_into_a_message(field: tuple[str, ...], hostile: str) -> None:
    document: dict[str, Any] = {"id": "7", "order": {"id": "4711"}, "quantity": {"value": "1"}}
    part: Any = document
    for step in field[:-1]:
        part = part[step]
    part[field[-1]] = hostile

    try:
        message = opened(json.dumps(document).encode()).message
    except (MessageInvalid, MessageRefused):
        return
    fields = {name: getattr(message, name) for name in message.__slots__ if name != "body"}
    assert obeyed("".join(str(value) for value in fields.values()).replace("\n", "\r").replace("\t", "\r")) == []


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as server:
        yield server


def connector(server: ScriptedServer, token: str) -> HttpConnector:
    return HttpConnector(
        server.url,
        timeout=timedelta(seconds=30),
        credentials=bearer(lambda: Secret("file:secrets/token", token)),
        connections=1,
    )


@pytest.mark.parametrize(
    "token", ["tok-of-the-mes\r\nx-evil: 1", "tok-of-the-mes\n", " tok-of-the-mes", "tok\x00-of-mes"]
)
def test_a_token_that_no_header_takes_holds_the_endpoint_and_kills_no_message(
    server: ScriptedServer, token: str
) -> None:
    line = connector(server, token)

    with pytest.raises(EndpointDown) as caught:
        line.post("/", b"{}", headers={"content-type": "application/json"}, deadline=line.deadline())

    line.close()
    assert caught.value.cause == "endpoint.credentials-missing"
    assert "file:secrets/token" in str(caught.value)
    assert token.strip() not in str(caught.value)
    assert server.received("POST") == []


@pytest.mark.parametrize("token", ["first-token", "t\u00f6k\u00e9n-of-the-mes", "token-\u20ac\u20ac"])
def test_a_token_that_the_target_repeats_in_its_status_line_is_masked(server: ScriptedServer, token: str) -> None:
    server.play("POST", Raw(b"HTTP/1.1 400 no " + token.encode() + b" here\r\nContent-Length: 0\r\n\r\n"))
    line = connector(server, token)

    reply = line.post("/", b"{}", headers={}, deadline=line.deadline())

    line.close()
    assert reply.reason == "no *** here"
    assert reply.exchange.received.startswith(b"HTTP/1.1 400 no *** here\r\n")
