"""What an envelope must be to become a message; one test per rule, then anything at all."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from marshmallow import Schema, fields

from bus.errors import MessageInvalid, MessageRefused
from bus.model.contract import Contract, Contracts, OrderingKey, without_leading_zeros
from bus.model.document import read_xml
from bus.model.envelope import Envelope, claimed_sender, open_envelope, routing_key_of, to_properties
from bus.model.message import Message, Opened, derived_id
from bus.model.message_class import MessageClass
from bus.model.system import Site, System

RELEASE = "order.release.v1"
KEY = f"P100.erp.{RELEASE}"


class _Quantity(Schema):
    value = fields.Decimal(required=True)


class _Order(Schema):
    id = fields.String(required=True)


class _Release(Schema):
    order = fields.Nested(_Order, required=True)
    quantity = fields.Nested(_Quantity)


class _Anything(Schema):
    pass


def _text_of_xml(body: bytes) -> dict[str, Any]:
    return {"text": read_xml(body).text}


def _stumble(body: bytes) -> dict[str, Any]:
    raise KeyError("no such field")


def _contract(type_name: str, **overrides: Any) -> Contract:
    stated: dict[str, Any] = {"owner": "ERP", "support": "desk", "schema": _Anything}
    return Contract(type=type_name, **(stated | overrides))


CONTRACTS = Contracts(
    [
        _contract(
            RELEASE,
            schema=_Release,
            identity=("order.id",),
            key=OrderingKey("order", "order.id", without_leading_zeros),
        ),
        _contract("order.release.v2"),
        _contract("mes.report.v1", reader=_text_of_xml, content_types=("application/xml", "text/xml")),
        _contract("mes.odd.v1", reader=_stumble),
    ]
)


def a_system(name: str, **overrides: Any) -> System:
    stated = {"role": "MES", "sites": ("P100",), "user": name, "publishes": (), "owner": "it", "support": "desk"}
    return System(name=name, **(stated | overrides))


SYSTEMS = {
    system.name: system
    for system in (
        a_system("erp", publishes=(RELEASE, "mes.report.v1", "mes.odd.v1")),
        a_system("mes", sites=("P200",), publishes=()),
        a_system("gateway", user="gate", speaks_for=("erp",)),
    )
}
SITES = {name: Site(name=name) for name in ("P100", "P200")}
BODY = b'{"order":{"id":"00004711"},"quantity":{"value":3.2999999999999998}}'


def opened(
    body: bytes = BODY,
    *,
    key: str = KEY,
    properties: dict[str, Any] | None = None,
    headers: dict[str, Any] | None = None,
    unreadable: str = "",
    max_bytes: int = 10_000,
    message_class: MessageClass | None = None,
) -> Opened:
    envelope = Envelope(
        routing_key=key, body=body, properties=properties or {}, headers=headers or {}, unreadable=unreadable
    )
    return open_envelope(
        envelope,
        contracts=CONTRACTS,
        systems=SYSTEMS,
        sites=SITES,
        max_bytes=max_bytes,
        message_class=message_class,
    )


def test_a_message_carries_what_properties_and_headers_say() -> None:
    message = opened(
        properties={
            "message_id": "m-1",
            "type": RELEASE,
            "app_id": "erp",
            "user_id": "erp",
            "correlation_id": "c-1",
            "content_type": 'Application/JSON; charset="UTF-8"',
        },
        headers={
            "site": "P100",
            "subject": "order:4711",
            "time": "2026-03-01T06:30:00.1234567+01:00",
            "causation_id": "m-0",
            "sequence": 7,
            "business_date": "2026-03-01",
            "dataschema": "https://plant/order.json",
            "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        },
    ).message

    assert message == Message(
        id="m-1",
        type=RELEASE,
        system="erp",
        site="P100",
        subject="order:4711",
        content_type="application/json",
        body=BODY,
        time=datetime(2026, 3, 1, 6, 30, 0, 123456, tzinfo=timezone(timedelta(hours=1))),
        correlation_id="c-1",
        causation_id="m-0",
        sequence=7,
        business_date=date(2026, 3, 1),
        dataschema="https://plant/order.json",
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    )


def test_a_bare_message_gets_subject_and_identity_from_its_contract() -> None:
    message = opened().message

    assert message.subject == "order:4711"
    assert message.id == derived_id("erp", RELEASE, "00004711")
    assert message.correlation_id == message.id
    assert message.content_type == "application/json"


def test_no_digit_of_a_quantity_is_lost() -> None:
    assert opened().document["quantity"]["value"] == Decimal("3.2999999999999998")


def test_a_message_written_to_the_wire_and_read_again_is_the_same() -> None:
    first = opened(
        properties={"message_id": "m-1"}, headers={"time": "2026-03-01T06:30:00Z", "sequence": 0, "causation_id": "x"}
    ).message

    properties, headers = to_properties(first)
    again = opened(first.body, key=routing_key_of(first), properties=properties, headers=headers).message

    assert again == first


@pytest.mark.parametrize(
    ("cause", "send"),
    [
        ("body.too-large", lambda: opened(max_bytes=len(BODY) - 1)),
        ("properties.unreadable", lambda: opened(unreadable="UnicodeDecodeError")),
        ("routing-key.malformed", lambda: opened(key="P100.erp")),
        ("routing-key.malformed", lambda: opened(key="P100..order.release.v1")),
        ("routing-key.malformed", lambda: opened(key="P100.erp.order.\nrelease.v1")),
        ("type.unknown", lambda: opened(key="P100.erp.order.relaese.v1")),
        ("type.version-unknown", lambda: opened(key="P100.erp.order.release.v9")),
        ("content-encoding.unexpected", lambda: opened(properties={"content_encoding": "gzip"})),
        ("content-type.unexpected", lambda: opened(properties={"content_type": "application/xml"})),
        ("json.charset", lambda: opened(properties={"content_type": "application/json; charset=latin1"})),
        (
            "xml.charset",
            lambda: opened(
                b"<a/>", key="P100.erp.mes.report.v1", properties={"content_type": "text/xml;charset=iso-8859-1"}
            ),
        ),
        ("json.syntax", lambda: opened(b"{")),
        ("json.nan", lambda: opened(b'{"order":{"id":NaN}}')),
        ("json.duplicate-key", lambda: opened(b'{"order":1,"order":2}')),
        ("text.nul", lambda: opened(b'{"order":{"id":"a\\u0000"}}')),
        ("contract.violated", lambda: opened(b"{}")),
        ("reader.raised", lambda: opened(key="P100.erp.mes.odd.v1")),
        ("key.contradicts", lambda: opened(headers={"subject": "order:4712"})),
        ("key.missing", lambda: opened(b'{"order":{"id":""}}')),
        ("key.malformed", lambda: opened(json.dumps({"order": {"id": "4" * 300}}).encode())),
        ("identity.missing", lambda: opened(b"<a/>", key="P100.erp.mes.report.v1")),
        ("properties.malformed", lambda: opened(properties={"message_id": "m" * 201})),
        ("properties.malformed", lambda: opened(properties={"message_id": "a\tb"})),
        ("properties.malformed", lambda: opened(headers={"subject": 4711})),
        ("properties.malformed", lambda: opened(headers={"sequence": -1})),
        ("properties.malformed", lambda: opened(headers={"sequence": True})),
        ("properties.malformed", lambda: opened(headers={"business_date": "2026-02-30"})),
        ("time.no-zone", lambda: opened(headers={"time": "2026-03-01T06:30:00"})),
        ("time.syntax", lambda: opened(headers={"time": "1 March 2026"})),
        ("time.syntax", lambda: opened(headers={"time": "2026-02-30T00:00:00Z"})),
        ("time.syntax", lambda: opened(headers={"time": "0001-01-01T00:00:00+14:00"})),
    ],
)
def test_what_cannot_be_taken_is_invalid(cause: str, send: Callable[[], Opened]) -> None:
    with pytest.raises(MessageInvalid) as caught:
        send()

    assert caught.value.cause == cause


@pytest.mark.parametrize(
    ("cause", "send"),
    [
        ("properties.contradict-routing-key", lambda: opened(properties={"type": "order.release.v2"})),
        ("properties.contradict-routing-key", lambda: opened(properties={"app_id": "mes"})),
        ("properties.contradict-routing-key", lambda: opened(headers={"site": "P200"})),
        ("sender.unknown-system", lambda: opened(key=f"P100.scada.{RELEASE}")),
        ("sender.unknown-site", lambda: opened(key=f"P900.erp.{RELEASE}")),
        ("sender.foreign-site", lambda: opened(key=f"P200.erp.{RELEASE}")),
        ("sender.foreign-system", lambda: opened(properties={"user_id": "mes"})),
        ("sender.not-allowed-type", lambda: opened(key=f"P200.mes.{RELEASE}")),
    ],
)
def test_what_the_sender_may_not_say_is_refused(cause: str, send: Callable[[], Opened]) -> None:
    with pytest.raises(MessageRefused) as caught:
        send()

    assert caught.value.cause == cause


def test_an_unknown_type_is_told_the_known_ones() -> None:
    with pytest.raises(MessageInvalid, match=RELEASE):
        opened(key="P100.erp.order.relaese.v1")


def test_every_violated_field_is_named() -> None:
    with pytest.raises(MessageInvalid) as caught:
        opened(b'{"order":{},"quantity":{"value":"much"}}')

    assert [violation.place for violation in caught.value.violations] == ["order.id", "quantity.value"]


def test_a_bridge_speaks_for_the_systems_it_lists() -> None:
    assert opened(properties={"user_id": "gate"}).message.system == "erp"


def test_headers_for_brokers_are_dropped() -> None:
    assert opened(headers={"x-death": [{"queue": "q"}], "X-Anything": object()}).message.subject == "order:4711"


def test_an_amqp_timestamp_as_time_is_utc() -> None:
    # The naive datetime is what py-amqp reads of one.
    naive = datetime(2026, 3, 1, 6, 30)  # noqa: DTZ001

    assert opened(headers={"time": naive}).message.time == datetime(2026, 3, 1, 6, 30, tzinfo=UTC)


# --- CloudEvents -----------------------------------------------------------------------------------------------------


def an_event(**overrides: Any) -> dict[str, Any]:
    return {"specversion": "1.0", "id": "e-1", "source": "/plant/P100/erp", "type": RELEASE} | overrides


@pytest.mark.parametrize("prefix", ["cloudEvents:", "cloudEvents_"])
def test_a_cloud_event_in_binary_mode_is_a_message(prefix: str) -> None:
    event = an_event(subject="order:4711", time="2026-03-01T06:30:00Z", correlationid="c", sequence="3")

    message = opened(headers={prefix + name: value for name, value in event.items()}).message

    assert (message.id, message.correlation_id, message.sequence) == ("e-1", "c", 3)
    assert message.time == datetime(2026, 3, 1, 6, 30, tzinfo=UTC)


def test_a_cloud_event_in_structured_mode_keeps_the_exact_text_of_its_data() -> None:
    head = json.dumps(an_event(businessdate="2026-03-01"))[:-1]
    body = f'{head}, "data" :  {BODY.decode()} , "after": "x"}}'.encode()

    message = opened(body, properties={"content_type": "application/cloudevents+json; charset=utf-8"}).message

    assert message.body == BODY
    assert (message.id, message.business_date) == ("e-1", date(2026, 3, 1))


def test_a_structured_cloud_event_can_carry_bytes_and_xml() -> None:
    key = "P100.erp.mes.report.v1"
    kind = {"content_type": "application/cloudevents+json"}
    head = an_event(type="mes.report.v1", datacontenttype="application/xml")
    as_text = json.dumps(head | {"data": "<a>ü</a>"}).encode()
    as_bytes = json.dumps(head | {"data_base64": base64.b64encode("<a>ü</a>".encode()).decode()}).encode()

    bodies = {opened(body, key=key, properties=kind).message.body for body in (as_text, as_bytes)}

    assert bodies == {"<a>ü</a>".encode()}


@pytest.mark.parametrize(
    ("cause", "event"),
    [
        ("cloudevents.version", an_event(specversion="0.3")),
        ("cloudevents.malformed", an_event(id="")),
        ("cloudevents.malformed", an_event(id=4711)),
        ("cloudevents.malformed", an_event(data_base64="???")),
        ("cloudevents.malformed", an_event(data_base64="YQ==", data={})),
        ("cloudevents.malformed", ["no object"]),
        ("properties.contradict-routing-key", an_event(source="/plant/P200/erp")),
        ("properties.contradict-routing-key", an_event(type="order.release.v2")),
    ],
)
def test_a_cloud_event_that_is_none_is_told_so(cause: str, event: object) -> None:
    with pytest.raises((MessageInvalid, MessageRefused), match=rf"^{cause}: "):
        opened(json.dumps(event).encode(), properties={"content_type": "application/cloudevents+json"})


def test_an_attribute_stated_twice_must_be_the_same() -> None:
    headers = {"cloudEvents:" + name: value for name, value in an_event().items()}

    with pytest.raises(MessageRefused) as caught:
        opened(properties={"message_id": "another"}, headers=headers)

    assert caught.value.cause == "properties.contradict"


# --- anything at all -------------------------------------------------------------------------------------------------

_NAMES = st.sampled_from(
    ["message_id", "type", "app_id", "user_id", "correlation_id", "content_type", "content_encoding", "timestamp"]
)
_HEADERS = st.sampled_from(
    ["site", "subject", "time", "causation_id", "sequence", "business_date", "dataschema", "traceparent", "x-death"]
    + ["cloudEvents:" + name for name in ("specversion", "id", "source", "type", "time", "subject", "sequence")]
)
_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=30)
    | st.binary(max_size=30)
    | st.datetimes()
    | st.sampled_from(["1.0", "P100", "erp", RELEASE, "order:4711", "application/cloudevents+json", "2026-03-01"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)
_KEYS = st.sampled_from([KEY, "P100.erp.mes.report.v1", "P100.erp.mes.odd.v1", f"P200.mes.{RELEASE}"]) | st.text()
_EVENTS = st.builds(
    lambda event, data: json.dumps(an_event(**event) | {"data": data}).encode(),
    st.dictionaries(st.sampled_from(["id", "source", "datacontenttype", "subject", "time", "sequence"]), _JSON),
    _JSON,
)
_BODIES = st.binary(max_size=200) | st.just(BODY) | st.just(b"<a>1</a>") | _JSON.map(lambda v: json.dumps(v).encode())


@given(
    key=_KEYS,
    body=_BODIES | _EVENTS,
    properties=st.dictionaries(_NAMES, _VALUES),
    headers=st.dictionaries(_HEADERS | st.text(max_size=10), _VALUES),
)
def test_whatever_comes_is_a_message_or_one_of_two_errors(
    key: str, body: bytes, properties: dict[str, Any], headers: dict[str, Any]
) -> None:
    with contextlib.suppress(MessageInvalid, MessageRefused):
        message = opened(body, key=key, properties=properties, headers=headers).message

        assert message.id
        assert message.time is None or message.time.astimezone(UTC)


@given(body=_EVENTS)
def test_whatever_event_comes_is_a_message_or_one_of_two_errors(body: bytes) -> None:
    with contextlib.suppress(MessageInvalid, MessageRefused):
        opened(body, properties={"content_type": "application/cloudevents+json"})


def test_a_message_in_the_queue_of_another_class_is_refused() -> None:
    with pytest.raises(MessageRefused) as caught:
        opened(message_class=MessageClass.EVENT)

    assert caught.value.cause == "class.wrong-queue"
    assert opened(message_class=MessageClass.TRANSACTION).message.type == RELEASE


@pytest.mark.parametrize("header", ["CC", "BCC"])
def test_a_message_that_names_further_routing_keys_is_refused(header: str) -> None:
    with pytest.raises(MessageRefused) as caught:
        opened(headers={header: [f"P200.mes.{RELEASE}"]})

    assert caught.value.cause == "class.wrong-queue"


@pytest.mark.parametrize(
    ("key", "sender"),
    [(KEY, ("erp", RELEASE)), ("P100.erp", ("erp", "P100")), ("x", ("", "x")), ("", ("", ""))],
)
def test_the_sender_of_a_receipt_stands_in_the_routing_key(key: str, sender: tuple[str, str]) -> None:
    assert claimed_sender(key) == sender


@pytest.mark.parametrize("name", ["id", "correlationid", "subject"])
def test_names_in_a_cloud_event_are_as_short_as_native_ones(name: str) -> None:
    event = {"specversion": "1.0", "id": "1", "source": "/plant/P100/erp", "type": RELEASE, name: "x" * 201}

    with pytest.raises(MessageInvalid) as caught:
        opened(headers={f"cloudEvents:{key}": value for key, value in event.items()})

    assert caught.value.cause == "cloudevents.malformed"
    assert caught.value.violations[0].place == name


@pytest.mark.parametrize("time", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", datetime(9999, 12, 31, tzinfo=UTC)])
def test_a_time_no_plant_has_seen_is_refused(time: object) -> None:
    with pytest.raises(MessageInvalid) as caught:
        opened(headers={"time": time})

    assert caught.value.cause == "time.syntax"


def test_parts_that_hold_the_separator_make_an_id_of_their_own() -> None:
    lists = [("a\x1fb", "c"), ("a", "b\x1fc"), ("a", "b", "c"), ("a\x1bub", "c"), ("a\x1b", "ub", "c")]

    assert len({derived_id(*parts) for parts in lists}) == len(lists)
