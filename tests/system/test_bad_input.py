"""Bad input, each kind over AMQP between two good neighbours: what it gets, and that nothing else is disturbed.

Router, worker and relay are real processes on a real broker, on SQLite and on PostgreSQL; the target is a real server.
"""

from __future__ import annotations

import json
import random
import signal
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import amqp
import pytest
from sqlalchemy import text

from bus.broker import link
from bus.broker.address import read_addresses
from bus.broker.publisher import Publication
from bus.errors import PublishRefused
from bus.pipeline.receive import MAX_BYTES
from bus.store import tables as t
from bus.store.engine import Database
from bus.store.overview import overview
from bus.store.verify import verify
from tests.conformance.scripted_server import Answer, ScriptedServer
from tests.services import RabbitMQ
from tests.small_project import steps_of
from tests.system.small_plant import (
    KILLER,
    LOOSE_STEP,
    SOON,
    STEP,
    TEXT_STEP,
    XML_STEP,
    Installation,
    Ledger,
    Part,
    a_publication,
    a_step,
    an_order,
    eventually,
    install,
    published,
    running,
)


@dataclass
class Plant:
    """An installation at work, the target's own book, and the auditor's view of the store."""

    installation: Installation
    router: Part
    ledger: Ledger
    server: ScriptedServer

    def booked(self, order: str) -> list[int]:
        """The steps of an order that arrived at the target, in the order of arrival."""
        bodies = [request.body for request in self.server.received("POST") if request.body.startswith(b"{")]
        return [step for known, step in steps_of(bodies) if known == order]

    def publish(self, *publications: Publication, system: str = "mes-1") -> None:
        assert published(self.installation.url(system), *publications) == [None] * len(publications)

    def surrounded(self, *bad: Publication, system: str = "mes-1") -> Sequence[Any]:
        """Publish these between two good steps of one order; the receipts written since.

        Returns when both neighbours were delivered. The queue is in order and an acknowledgement covers everything
        before it, so by then the bad ones were dealt with and will not come again. What the engine's own user
        publishes may travel by `bus.unrouted`: its receipts are waited for.
        """
        order, known = an_order(), self.last_receipt()
        url = self.installation.url(system)
        sender = "mes-1" if system == "bus" else system
        good = {"app_id": sender, "routing_key": f"P1.{sender}.{STEP}"}
        outcomes = published(url, a_step(order, 1, **good), *bad, a_step(order, 2, **good))
        assert outcomes == [None] * len(outcomes)
        self.wait_until(lambda: self.booked(order) == [1, 2])
        if system == "bus":
            self.wait_until(lambda: len(self.ledger.receipts(after=known)) >= len(bad))
        return self.ledger.receipts(after=known)

    def wait_until(self, condition: Callable[[], object]) -> None:
        """As `eventually`; a router that died is told at once."""

        def looked() -> object:
            assert self.router.is_running(), self.router.said()
            return condition()

        eventually(looked, why=self.router.said)

    def last_receipt(self) -> int:
        receipts = self.ledger.receipts()
        return receipts[-1].id if receipts else 0

    def left_at_the_broker(self) -> int:
        """Messages in the inbound queues while the router does not run: those it had not acknowledged are back."""
        return sum(ready(self.installation, queue) for queue in INBOUND)


INBOUND = ("bus.in.transaction.0", "bus.in.event.0", "bus.unrouted", "bus.dead")


def ready(installation: Installation, queue: str) -> int:
    """Messages of a queue that nobody reads any more."""
    connection = link.connect(read_addresses(installation.broker), name="a test")
    channel = connection.channel()

    def count() -> tuple[int, int]:
        found = channel.queue_declare(queue, passive=True)
        return found.message_count, found.consumer_count

    try:
        eventually(lambda: count()[1] == 0)
        return count()[0]
    finally:
        channel.close()
        connection.close()


on_both_stores = pytest.mark.parametrize(
    "plant", ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)], indirect=True, scope="module"
)
"""What the store decides, or must survive; what is decided before it is proven on SQLite, and in one test on both."""


@pytest.fixture(scope="module", params=["sqlite"])
def plant(
    request: pytest.FixtureRequest, rabbitmq: RabbitMQ, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Plant]:
    folder = tmp_path_factory.mktemp("plant")
    if request.param == "sqlite":
        yield from _plant(rabbitmq, f"sqlite:///{folder}/bus.db", folder)
    else:
        with request.getfixturevalue("postgresql").fresh_database() as store_url:
            yield from _plant(rabbitmq, store_url, folder)


def _plant(rabbitmq: RabbitMQ, store_url: str, folder: Path) -> Iterator[Plant]:
    with rabbitmq.fresh_vhost() as vhost, ScriptedServer() as server:
        server.play("POST", Answer(200))
        addresses = {"target": {"address": server.url}, "archive": {"address": f"{server.url}/archive"}}
        installation = install(vhost, store_url, folder, **addresses)
        ledger = Ledger(Database(store_url))
        router = Part("router", installation)
        with running(router, Part("worker", installation), Part("relay", installation)):
            yield Plant(installation, router, ledger, server)
        ledger.close()


@pytest.fixture(autouse=True)
def _everything_adds_up(plant: Plant) -> Iterator[None]:
    """After every test: the router lives, and the sums of promise 2 hold, as shown and as proven from the rows."""
    yield
    deaths = list(plant.router.deaths)
    plant.router.restart_if_dead()
    assert plant.router.deaths == deaths, plant.router.said()
    assert all(equation.balances for equation in overview(plant.ledger.database).equations)
    assert list(verify(plant.ledger.database)) == []


def is_refused(receipt: Any, bad: Publication, kind: str, cause: str, *says: str) -> None:
    """The receipt names kind, cause and place, and keeps everything as it came."""
    assert (receipt.kind, receipt.cause) == (kind, cause), receipt.detail
    for word in says:
        assert word in receipt.detail, receipt.detail
    assert receipt.body == bad.body
    assert receipt.routing_key == bad.routing_key
    properties = json.loads(receipt.properties)
    headers = properties.pop("headers")
    headers.pop("x-delivery-count", None)  # the broker's own, where the message had to come again
    assert headers == bad.headers
    assert properties == bad.properties


def a_document(document: str | bytes, **more: Any) -> Publication:
    return a_publication(document.encode() if isinstance(document, str) else document, **more)


def xml(document: str | bytes, **more: Any) -> Publication:
    return a_document(document, type_name=XML_STEP, content_type="application/xml", **more)


# --- what is no document ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ("", "line 1, column 1"),
        ("order 4711 step 1", "line 1, column 1"),
        ('{"order": "4711", "step": 1', "line 1, column 28"),
        ('{"order": "4711",\n "step": 1,}', "line 2, column 12"),
        ('{"order": "4711", "step": 1} {}', "line 1, column 30"),
        ('{"order": "4711", "step": 01}', "line 1, column 28"),
        ("<step order='4711' step='1'/>", "line 1, column 1"),
        pytest.param('{"order": "4711", "step": ' + "9" * 5000 + "}", "line 1, column 27", id="a number without end"),
        ('{"order": "4711", "step": 1e999999999}', "line 1, column 27"),
    ],
)
def test_what_is_not_json_is_invalid_with_line_and_column(plant: Plant, body: str, place: str) -> None:
    bad = a_document(body)

    [receipt] = plant.surrounded(bad)

    is_refused(receipt, bad, "invalid", "json.syntax", place)


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ("", "line 1, column 1"),
        ("<step order='4711' step='1'>", "line 1, column 29"),
        ("<step order='4711'>\n</stop>", "line 2, column 3"),
        ("<step order='4711' step='1'/>]]>", "line 1, column 30"),
        ("<step order='4711' order='4712' step='1'/>", "line 1, column 20"),
        ("<step order='4711' step='1'>&nbsp;</step>", "line 1, column 29"),
        ('{"order": "4711", "step": 1}', "line 1, column 1"),
    ],
)
def test_what_is_not_well_formed_xml_is_invalid_with_line_and_column(plant: Plant, body: str, place: str) -> None:
    bad = xml(body)

    [receipt] = plant.surrounded(bad)

    is_refused(receipt, bad, "invalid", "xml.syntax", place)


LAUGHS = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(f'<!DOCTYPE s [<!ENTITY l0 "ha">{LAUGHS}]><s>&l9;</s>', id="a billion laughs"),
        pytest.param('<!DOCTYPE s [<!ENTITY e SYSTEM "file:///etc/passwd">]><s>&e;</s>', id="an external entity"),
        pytest.param('<!DOCTYPE s SYSTEM "http://127.0.0.1:9/s.dtd"><s/>', id="an external document type"),
        pytest.param('<!DOCTYPE s [<!ENTITY % p SYSTEM "http://127.0.0.1:9/">%p;]><s/>', id="a parameter entity"),
        pytest.param("<!DOCTYPE s><s order='4711' step='1'/>", id="a document type and nothing else"),
    ],
)
def test_a_doctype_is_refused_before_any_entity_is_looked_at(plant: Plant, body: str) -> None:
    bad = xml(f'<?xml version="1.0" encoding="utf-8"?>\n{body}'.encode())

    [receipt] = plant.surrounded(bad)

    is_refused(receipt, bad, "invalid", "xml.doctype", "line 2, column ")


@pytest.mark.parametrize(
    ("bad", "cause", "place"),
    [
        pytest.param(
            a_document('{"order": "Größe", "step": 1}'.encode("latin-1")),
            "json.charset",
            "line 1, column 14",
            id="JSON",
        ),
        pytest.param(
            a_document('{"order": "4711", "step": 1}'.encode("utf-16")), "json.charset", "line 1, column 1", id="UTF-16"
        ),
        pytest.param(
            a_document('{"order": "47\\ud80011", "step": 1}'), "json.charset", "order", id="half of a surrogate pair"
        ),
        pytest.param(
            xml("<step order='Größe' step='1'/>".encode("latin-1")), "xml.charset", "line 1, column 16", id="XML"
        ),
        pytest.param(
            xml('<?xml version="1.0" encoding="UTF-8"?>\n<step order="Größe" step="1"/>'.encode("latin-1")),
            "xml.charset",
            "line 2, column 16",
            id="XML that declares another",
        ),
        pytest.param(
            xml('<?xml version="1.0" encoding="EBCDIC-X"?><step order="4711" step="1"/>'),
            "xml.charset",
            "EBCDIC-X",
            id="XML that declares one nobody knows",
        ),
        pytest.param(
            xml('<?xml version="1.0" encoding="rot13"?><step order="4711" step="1"/>'),
            "xml.charset",
            "line 1, column 1",
            id="XML that declares what is no encoding",
        ),
        pytest.param(
            a_document('{"order": "4711", "step": 1}', content_type="application/json; charset=ISO-8859-1"),
            "json.charset",
            "content_type: charset iso-8859-1",
            id="a charset in the content type",
        ),
    ],
)
def test_a_wrong_charset_is_invalid_and_named(plant: Plant, bad: Publication, cause: str, place: str) -> None:
    [receipt] = plant.surrounded(bad)

    is_refused(receipt, bad, "invalid", cause, place)


@pytest.mark.parametrize("encoding", ["ISO-8859-1", "windows-1252", "UTF-16"])
def test_xml_in_another_encoding_is_invalid_though_it_declares_it(plant: Plant, encoding: str) -> None:
    bad = xml(f'<?xml version="1.0" encoding="{encoding}"?><step order="4711" step="1"/>'.encode(encoding))

    [receipt] = plant.surrounded(bad)

    is_refused(receipt, bad, "invalid", "xml.charset", "line 1, column 1")


def test_a_body_over_the_size_limit_is_invalid_before_it_is_looked_into(plant: Plant) -> None:
    order = an_order()
    step = json.dumps({"order": order, "step": 1}).encode()
    largest = a_publication(step.ljust(MAX_BYTES), message_id=order)
    bad = a_document(b"{" * (MAX_BYTES + 1))

    [receipt] = plant.surrounded(largest, bad)

    is_refused(receipt, bad, "invalid", "body.too-large", str(MAX_BYTES + 1), str(MAX_BYTES))
    assert plant.booked(order) == [1]


@pytest.mark.parametrize(
    ("bad", "cause", "place"),
    [
        pytest.param(a_document("[" * 65 + "]" * 65), "json.depth", "line 1, column 65", id="lists"),
        pytest.param(a_document('{"a":' * 200_000), "json.depth", "line 1, column 321", id="objects without end"),
        pytest.param(a_document("[" * MAX_BYTES), "json.depth", "line 1, column 65", id="nothing but brackets"),
        pytest.param(
            a_document("[" + "[]," * 250_000 + "[]]"),
            "json.depth",
            "more than 20000 objects",
            id="too many, side by side",
        ),
        pytest.param(xml("<a>" * 65 + "</a>" * 65), "xml.depth", "line 1, column 193", id="elements"),
        pytest.param(xml("<a>" * 300_000), "xml.depth", "line 1, column 193", id="elements without end"),
        pytest.param(
            xml(f"<a>{'<b/>' * 250_000}</a>"), "xml.depth", "more than 20000 elements", id="too many elements"
        ),
    ],
)
def test_what_nests_too_deep_or_has_too_many_parts_is_invalid(
    plant: Plant, bad: Publication, cause: str, place: str
) -> None:
    [receipt] = plant.surrounded(bad)

    is_refused(receipt, bad, "invalid", cause, place)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param('"' + '\\"' * 500_000, id="a text of a million quotes that never ends"),
        pytest.param('{"a":"' + "\\" * (MAX_BYTES - 100), id="nothing but backslashes"),
        pytest.param("9" * (MAX_BYTES - 100), id="a number of a million digits"),
        pytest.param('{"a":1.' + "9" * (MAX_BYTES - 100), id="a fraction of a million digits"),
        pytest.param('"' * (MAX_BYTES - 101), id="nothing but quotes"),
    ],
)
def test_a_document_made_to_take_its_reader_hours_is_refused_as_fast_as_any(plant: Plant, body: str) -> None:
    bad = a_document(body)

    [receipt] = plant.surrounded(bad)

    is_refused(receipt, bad, "invalid", "json.syntax")


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ('{"order": "4711", "step": 1, "order": "4712"}', "order: "),
        ('{"order": "4711", "step": 1, "lines": [{"a": 1}, {"b": {"c": 1, "d": 2, "c": 1}}]}', "lines[1].b.c: "),
    ],
)
def test_a_key_that_stands_twice_is_invalid_with_its_path(plant: Plant, body: str, place: str) -> None:
    bad = a_document(body)

    [receipt] = plant.surrounded(bad)

    is_refused(receipt, bad, "invalid", "json.duplicate-key", place)


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ('{"order": "4711", "step": NaN}', "line 1, column 27"),
        ('{"order": "4711",\n "step": -Infinity}', "line 2, column 10"),
        ('{"order": "not NaN", "remark": "\\"NaN", "step": [Infinity]}', "line 1, column 50"),
        ('{"order": "NaN", "remark": "Infinity",\n "step": NaN}', "line 2, column 10"),
    ],
)
def test_a_number_that_is_none_is_invalid_with_line_and_column(plant: Plant, body: str, place: str) -> None:
    bad = a_document(body)

    [receipt] = plant.surrounded(bad)

    is_refused(receipt, bad, "invalid", "json.nan", place)


@on_both_stores
@pytest.mark.parametrize(
    ("bad", "cause", "place"),
    [
        pytest.param(a_document('{"order": "47\\u000011", "step": 1}'), "text.nul", "order", id="escaped in JSON"),
        pytest.param(
            a_document('{"order": "4711", "step": 1, "a": [{"\\u0000": 1}]}'), "text.nul", "a[0].(key)", id="in a key"
        ),
        pytest.param(
            a_document(b'{"order": "47\x0011", "step": 1}'), "json.syntax", "line 1, column 14", id="raw in JSON"
        ),
        pytest.param(xml(b"<step order='47\x0011' step='1'/>"), "xml.syntax", "line 1, column ", id="raw in XML"),
        pytest.param(xml("<step order='47&#0;11' step='1'/>"), "xml.syntax", "line 1, column ", id="escaped in XML"),
        *(
            pytest.param(
                a_document('{"order": "4711", "step": 1}', **{name: "a\x00b"}), "properties.malformed", name, id=name
            )
            for name in ("message_id", "correlation_id", "content_type", "content_encoding")
        ),
        *(
            pytest.param(
                a_document('{"order": "4711", "step": 1}', headers={name: "a\x00b"}),
                "time.syntax" if name == "time" else "properties.malformed",
                name,
                id=f"in the header {name}",
            )
            for name in (
                *("subject", "site", "time", "sequence", "causation_id", "business_date", "traceparent"),
                "dataschema",
            )
        ),
    ],
)
def test_a_nul_in_a_text_is_invalid_and_its_place_is_named(
    plant: Plant, bad: Publication, cause: str, place: str
) -> None:
    [receipt] = plant.surrounded(bad)

    is_refused(receipt, bad, "invalid", cause, place)


# --- properties no client library writes -----------------------------------------------------------------------------


class RawProperties(amqp.Message):  # type: ignore[misc]  # py-amqp has no types
    """A message whose property bytes are as given."""

    raw = b""

    def _serialize_properties(self) -> bytes:
        return self.raw


def _message_id(text: bytes) -> bytes:
    return struct.pack(">HB", 0x0080, len(text)) + text


def _table(payload: bytes) -> bytes:
    return struct.pack(">HI", 0x2000, len(payload)) + payload


@on_both_stores
@pytest.mark.parametrize(
    ("raw", "routing_key"),
    [
        pytest.param(_message_id(b"\xff\xfe"), f"P1.mes-1.{STEP}", id="a message id that is no text"),
        pytest.param(_table(b"\x01tT" + b"\xff" * 8), f"P1.mes-1.{STEP}", id="a time beyond all years"),
        pytest.param(b"", b"P1.mes-1.\xff\xfe", id="a routing key that is no text"),
        pytest.param(b"", b"P1.mes-1.\xed\xa0\x80", id="a routing key with half of a surrogate pair"),
        pytest.param(_message_id(b"\xed\xa0\x80"), f"P1.mes-1.{STEP}", id="an id with half of a surrogate pair"),
    ],
)
def test_properties_that_are_no_text_are_invalid_also_when_they_come_again(
    plant: Plant, raw: bytes, routing_key: str | bytes
) -> None:
    known = plant.last_receipt()
    body = json.dumps({"order": an_order(), "step": 1}).encode()
    message = RawProperties(body)
    message.raw = raw or b"\0\0"
    plant.router.stop()
    _publish_raw(plant.installation, message, routing_key)
    _deliver_once_unacknowledged(plant.installation)

    plant.router.start()

    plant.wait_until(lambda: plant.ledger.receipts(after=known))
    [receipt] = plant.ledger.receipts(after=known)
    assert receipt.kind == "invalid"
    assert receipt.cause in ("properties.unreadable", "properties.malformed", "routing-key.malformed", "type.unknown")
    assert receipt.body == body


def _publish_raw(installation: Installation, message: amqp.Message, routing_key: str | bytes) -> None:
    connection = link.connect(read_addresses(installation.broker), name="a test")
    channel = connection.channel()
    channel.confirm_select()
    confirmed = threading.Event()
    channel.events["basic_ack"].add(lambda tag, multiple: confirmed.set())
    channel.basic_publish(message, "bus.in", routing_key)
    while not confirmed.is_set():
        link.drain(connection, within=SOON)
    channel.close()
    connection.close()


def _deliver_once_unacknowledged(installation: Installation) -> None:
    """Take what is in the inbound queues and go away: it comes again, marked redelivered."""
    connection = link.connect(read_addresses(installation.broker), name="a test")
    channel = connection.channel()
    arrived: list[Any] = []
    expected = sum(ready(installation, queue) for queue in INBOUND)
    for queue in INBOUND:
        channel.basic_consume(queue, callback=arrived.append)
    while len(arrived) < expected:
        link.drain(connection, within=SOON)
    channel.close()
    connection.close()


# --- documents that break their contract -----------------------------------------------------------------------------


@on_both_stores
def test_a_violated_contract_is_invalid_with_every_field_and_rule(plant: Plant) -> None:
    bad = a_document('{"step": "one", "parts": []}')

    [receipt] = plant.surrounded(bad)

    is_refused(receipt, bad, "invalid", "contract.violated")
    assert sorted(receipt.detail.splitlines()) == [
        "order: Missing data for required field.",
        "parts: Not a valid integer.",
        "step: Not a valid integer.",
    ]


def test_a_document_that_is_no_object_is_invalid(plant: Plant) -> None:
    for body, kind in (("[]", "a list"), ('"4711"', "a text"), ("null", "null"), ("4711", "a single value")):
        bad = a_document(body)

        [receipt] = plant.surrounded(bad)

        is_refused(receipt, bad, "invalid", "contract.violated", f"an object is expected, not {kind}")


def test_an_unknown_version_is_invalid_and_the_known_ones_are_named(plant: Plant) -> None:
    bad = a_document('{"order": "4711", "step": 1}', type_name="test.step.v9")

    [receipt] = plant.surrounded(bad, system="bus")

    is_refused(receipt, bad, "invalid", "type.version-unknown", "known versions: test.step.v1")


def test_an_unknown_type_is_invalid_and_the_known_ones_are_named(plant: Plant) -> None:
    bad = a_document('{"order": "4711", "step": 1}', type_name="test.leap.v1")

    [receipt] = plant.surrounded(bad, system="bus")

    is_refused(receipt, bad, "invalid", "type.unknown", "'test.leap.v1'", STEP, XML_STEP, "machine.state.v1")


@pytest.mark.parametrize("routing_key", ["P1.mes-1", "P1..test.step.v1", "test", "P1.mes-1."])
def test_a_routing_key_without_its_parts_is_invalid_and_shown(plant: Plant, routing_key: str) -> None:
    bad = a_document('{"order": "4711", "step": 1}', routing_key=routing_key)

    [receipt] = plant.surrounded(bad, system="bus")

    is_refused(receipt, bad, "invalid", "routing-key.malformed", repr(routing_key))


def test_a_missing_ordering_key_is_invalid_and_its_path_is_named(plant: Plant) -> None:
    bad = a_document('{"serial": "17"}', type_name=LOOSE_STEP, message_id=an_order())

    [receipt] = plant.surrounded(bad)

    is_refused(receipt, bad, "invalid", "key.missing", "order: ")


def test_a_document_about_several_subjects_is_invalid_and_they_are_named(plant: Plant) -> None:
    bad = a_document('{"lines": [{"order": "1"}, {"order": "2"}]}', type_name="several.step.v1", message_id=an_order())

    [receipt] = plant.surrounded(bad)

    is_refused(receipt, bad, "invalid", "key.several", "lines.*.order", "order:1, order:2")


def test_a_subject_that_contradicts_the_document_is_invalid(plant: Plant) -> None:
    bad = a_document('{"order": "4711", "step": 1}', headers={"subject": "order:4712"})

    [receipt] = plant.surrounded(bad)

    is_refused(receipt, bad, "invalid", "key.contradicts", "order:4711", "order:4712")


@pytest.mark.parametrize("order", ["9" * 201, "47\\n11", "47\\u202e11"])
def test_an_ordering_key_nobody_can_read_out_is_invalid(plant: Plant, order: str) -> None:
    bad = a_document(f'{{"order": "{order}", "step": 1}}')

    [receipt] = plant.surrounded(bad)

    is_refused(receipt, bad, "invalid", "key.malformed", "order: ")


def test_a_missing_identity_is_invalid_and_its_paths_are_named(plant: Plant) -> None:
    bad = a_document('{"order": "4711"}', type_name=LOOSE_STEP)

    [receipt] = plant.surrounded(bad)

    is_refused(receipt, bad, "invalid", "identity.missing", "serial: ")
    assert "order: " not in receipt.detail


def test_without_a_message_id_or_an_identity_in_the_contract_the_message_id_is_asked_for(plant: Plant) -> None:
    bad = a_document('{"order": "4711", "step": 1}', type_name="native.step.v1")

    [receipt] = plant.surrounded(bad)

    is_refused(receipt, bad, "invalid", "identity.missing", "message_id: ")


# --- who says what ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (a_document("{}", type="xml.step.v1"), "type is 'xml.step.v1', the routing key says 'test.step.v1'"),
        (a_document("{}", app_id="mes-2"), "app_id is 'mes-2', the routing key says 'mes-1'"),
        (a_document("{}", headers={"site": "P2"}), "site is 'P2', the routing key says 'P1'"),
        (
            a_document(
                "{}",
                headers={
                    "cloudEvents:specversion": "1.0",
                    "cloudEvents:id": "1",
                    "cloudEvents:source": "/plant/P2/mes-1",
                    "cloudEvents:type": STEP,
                },
            ),
            "site is 'P2', the routing key says 'P1'",
        ),
    ],
    ids=["type", "app_id", "site", "source of a CloudEvent"],
)
def test_properties_that_contradict_the_routing_key_are_refused(plant: Plant, bad: Publication, says: str) -> None:
    [receipt] = plant.surrounded(bad)

    is_refused(receipt, bad, "refused", "properties.contradict-routing-key", says)


def test_a_foreign_user_id_is_refused_by_the_broker_and_disturbs_nobody(plant: Plant) -> None:
    order, known = an_order(), plant.last_receipt()
    stolen = a_step(order, 3, user_id=f"{plant.installation.name}-mes-2")

    first, refused, second = published(plant.installation.url("mes-1"), a_step(order, 1), stolen, a_step(order, 2))

    assert (first, second) == (None, None)
    assert isinstance(refused, PublishRefused)
    assert "user_id" in str(refused)
    eventually(lambda: plant.booked(order) == [1, 2])
    assert {receipt.kind for receipt in plant.ledger.receipts(after=known)} <= {"duplicate"}
    assert plant.ledger.messages(t.message.c.message_id == f"{order}-3") == []


def test_one_s_own_user_id_is_taken(plant: Plant) -> None:
    order = an_order()

    plant.publish(a_step(order, 1, user_id=f"{plant.installation.name}-mes-1"))

    eventually(lambda: plant.booked(order) == [1])


def test_a_type_the_system_may_not_publish_is_refused_by_the_broker(plant: Plant) -> None:
    order, known = an_order(), plant.last_receipt()
    as_mes_2 = {"app_id": "mes-2", "routing_key": f"P1.mes-2.{STEP}"}
    foreign = a_publication(b"{}", type_name=XML_STEP, routing_key=f"P1.mes-2.{XML_STEP}", app_id="mes-2")

    first, refused, second = published(
        plant.installation.url("mes-2"), a_step(order, 1, **as_mes_2), foreign, a_step(order, 2, **as_mes_2)
    )

    assert (first, second) == (None, None)
    assert isinstance(refused, PublishRefused)
    assert "publishes" in str(refused)
    eventually(lambda: plant.booked(order) == [1, 2])
    assert {receipt.kind for receipt in plant.ledger.receipts(after=known)} <= {"duplicate"}


@pytest.mark.parametrize("routing_key", [f"P2.mes-1.{STEP}", f"P1.mes-2.{STEP}", f"P1.mes-1.{STEP}.v1", "P1xmes-1"])
def test_a_site_system_or_key_of_somebody_else_is_refused_by_the_broker(plant: Plant, routing_key: str) -> None:
    [refused] = published(plant.installation.url("mes-1"), a_document("{}", routing_key=routing_key))

    assert isinstance(refused, PublishRefused)


@pytest.mark.parametrize(
    ("routing_key", "user", "cause", "says"),
    [
        (f"P1.mes-2.{XML_STEP}", "", "sender.not-allowed-type", f"mes-2 may publish {STEP}, not {XML_STEP}"),
        (f"P1.mes-2.{STEP}", "bus", "sender.foreign-system", "does not speak for mes-2"),
        (f"P1.mes-9.{STEP}", "", "sender.unknown-system", "'mes-9'"),
        (f"P9.mes-1.{STEP}", "", "sender.unknown-site", "'P9'"),
        (f"P2.mes-1.{STEP}", "", "sender.foreign-site", "mes-1 works at P1, not at P2"),
    ],
)
def test_what_the_broker_let_through_is_refused_by_the_router(
    plant: Plant, routing_key: str, user: str, cause: str, says: str
) -> None:
    user_id = f"{plant.installation.name}-{user}" if user else ""
    bad = a_document('{"order": "4711", "step": 1}', routing_key=routing_key, type="", app_id="", user_id=user_id)

    [receipt] = plant.surrounded(bad, system="bus")

    is_refused(receipt, bad, "refused", cause, says)


# --- the same again --------------------------------------------------------------------------------------------------


@on_both_stores
def test_the_same_id_and_body_is_a_duplicate_and_delivered_once(plant: Plant) -> None:
    order = an_order()
    step = a_step(order, 7, correlation_id="first")
    again = a_step(order, 7, correlation_id="second")

    [within_a_batch] = plant.surrounded(step, again)
    [later] = plant.surrounded(step)

    is_refused(within_a_batch, again, "duplicate", "id.duplicate", f"{order}-7")
    is_refused(later, step, "duplicate", "id.duplicate", f"{order}-7")
    assert plant.booked(order) == [7]
    assert len(plant.ledger.messages(t.message.c.message_id == f"{order}-7")) == 1


@on_both_stores
def test_the_same_id_with_another_body_is_a_conflict_and_the_first_stands(plant: Plant) -> None:
    order = an_order()
    step = a_step(order, 1)
    other = replace(a_step(order, 2), properties=step.properties)

    [within_a_batch] = plant.surrounded(step, other)
    [later] = plant.surrounded(other)

    for receipt in (within_a_batch, later):
        is_refused(receipt, other, "conflict", "id.conflict", f"{order}-1", "the first one stands")
    assert plant.booked(order) == [1]
    assert [row.body for row in plant.ledger.messages(t.message.c.message_id == f"{order}-1")] == [step.body]


@on_both_stores
def test_an_id_is_remembered_across_restarts_of_the_router(plant: Plant) -> None:
    order = an_order()
    step = a_step(order, 1)
    other = replace(a_step(order, 2), properties=step.properties)
    assert plant.surrounded(step) == []
    plant.router.stop()

    plant.router.start()

    duplicate, conflict = plant.surrounded(step, other)
    is_refused(duplicate, step, "duplicate", "id.duplicate")
    is_refused(conflict, other, "conflict", "id.conflict")
    assert plant.booked(order) == [1]


@on_both_stores
def test_an_invalid_message_takes_no_id(plant: Plant) -> None:
    order = an_order()
    broken = replace(a_step(order, 1), body=b"{")

    [receipt] = plant.surrounded(broken, a_step(order, 1))

    is_refused(receipt, broken, "invalid", "json.syntax")
    assert plant.booked(order) == [1]


# --- routes and transformers -----------------------------------------------------------------------------------------


@on_both_stores
def test_a_message_without_a_route_is_accepted_and_counted_as_unrouted(plant: Plant) -> None:
    order = an_order()
    before = unrouted(plant)

    assert plant.surrounded(a_step(order, 404)) == []

    [message] = plant.ledger.messages(t.message.c.message_id == f"{order}-404")
    assert message.planned == 0
    assert unrouted(plant) == before + 1


def unrouted(plant: Plant) -> int:
    return overview(plant.ledger.database).equations[1].parts["unrouted"]


@on_both_stores
def test_a_predicate_that_raises_makes_its_delivery_dead_and_no_other(plant: Plant) -> None:
    order = an_order()

    assert plant.surrounded(a_step(order, 13), a_step(order, 14)) == []

    eventually(lambda: plant.booked(order) == [13, 14])
    by_route = {row.route: row for row in plant.ledger.deliveries(of=f"{order}-13")}
    picky = by_route["picky-steps"]
    assert (picky.state, picky.cause) == ("DEAD", "predicate.raised")
    assert picky.detail == "ArithmeticError: thirteen"
    assert by_route.keys() == {"picky-steps", "steps-to-target"}
    eventually(lambda: sorted(plant.ledger.states(f"{order}-13")) == ["DEAD", "DELIVERED"])


@on_both_stores
def test_a_transformer_that_raises_makes_its_delivery_dead_and_the_worker_goes_on(plant: Plant) -> None:
    order = an_order()

    assert plant.surrounded(a_step(order, 666), a_step(order, 667)) == []

    [dead] = eventually(lambda: [row for row in plant.ledger.deliveries(of=f"{order}-666") if row.state == "DEAD"])
    assert dead.cause == "transformer.raised"
    assert dead.detail == "tests.small_project.for_the_target: ZeroDivisionError: step 666"
    # What comes later in its lane waits for a person; all other keys flow.
    eventually(lambda: plant.ledger.states(f"{order}-667") == ["WAITING"])
    assert plant.booked(order) == []


# --- readers that stumble --------------------------------------------------------------------------------------------


def test_a_reader_that_raises_makes_its_message_invalid_with_its_error(plant: Plant) -> None:
    bad = a_publication(b"4711;1;stumble", type_name=TEXT_STEP, message_id=an_order())

    [receipt] = plant.surrounded(bad)

    is_refused(receipt, bad, "invalid", "reader.raised", TEXT_STEP, "LookupError", "no such remark")


@on_both_stores
def test_a_value_the_database_refuses_makes_its_message_alone_invalid(plant: Plant) -> None:
    order, known = an_order(), plant.last_receipt()
    bad = a_publication(b"4711;1;caf\xe9", type_name=TEXT_STEP, message_id=f"{order}-bad")
    plant.router.stop()
    plant.publish(*(a_step(order, n) for n in range(1, 8)), bad, *(a_step(order, n) for n in range(8, 21)))

    plant.router.start()

    plant.wait_until(lambda: set(plant.booked(order)) >= set(range(1, 21)))
    [receipt] = plant.ledger.receipts(after=known)
    is_refused(receipt, bad, "invalid", "store.refused-value")
    assert plant.ledger.messages(t.message.c.message_id == f"{order}-bad") == []


@on_both_stores
def test_a_key_too_long_for_an_index_of_the_database_holds_up_nobody(plant: Plant) -> None:
    message_id = an_order()
    remark = random.Random(7).randbytes(20_000).hex()
    bad = a_publication(f"4711;1;{remark}".encode(), type_name=TEXT_STEP, message_id=message_id)

    receipts = plant.surrounded(bad)

    if plant.ledger.database.is_sqlite:  # it has no limit
        assert receipts == []
        assert len(plant.ledger.messages(t.message.c.message_id == message_id)) == 1
    else:
        [receipt] = receipts
        is_refused(receipt, bad, "invalid", "store.refused-value")


@pytest.mark.postgresql
@pytest.mark.parametrize("plant", ["postgresql"], indirect=True, scope="module")
def test_a_message_is_not_blamed_for_a_store_that_cannot_write(plant: Plant) -> None:
    order = an_order()
    plant.router.stop()
    plant.publish(a_step(order, 1))
    _deliver_once_unacknowledged(plant.installation)
    with plant.ledger.database.write() as connection:
        connection.execute(text(DISK_FULL))

    plant.router.start()

    waits = plant.router.said().count("waits for the store")
    plant.wait_until(lambda: plant.router.said().count("waits for the store") >= waits + 5)
    with plant.ledger.database.write() as connection:
        connection.execute(text("DROP TRIGGER full_disk ON message"))
    plant.wait_until(lambda: plant.booked(order) == [1])
    assert plant.ledger.openings() == 0


DISK_FULL = """
CREATE OR REPLACE FUNCTION refuse() RETURNS trigger AS
$$ BEGIN RAISE EXCEPTION 'No space left on device' USING ERRCODE = '53100'; END $$ LANGUAGE plpgsql;
CREATE TRIGGER full_disk BEFORE INSERT ON message EXECUTE FUNCTION refuse();
"""


@on_both_stores
def test_a_message_that_expires_is_recorded_whatever_it_says_about_itself(plant: Plant) -> None:
    known = plant.last_receipt()
    body = json.dumps({"order": an_order(), "step": 1}).encode()
    lie: dict[str, Any] = {"reason": "a\x00b", "queue": "send.target", "count": 1}
    plant.router.stop()
    message = amqp.Message(body, expiration="1", application_headers={"x-death": [lie]})
    _publish_raw(plant.installation, message, f"P1.mes-1.{STEP}")

    plant.router.start()

    plant.wait_until(lambda: plant.ledger.receipts(after=known))
    [receipt] = plant.ledger.receipts(after=known)
    assert (receipt.kind, receipt.cause) == ("invalid", "dead-lettered.expired")
    assert "bus.in.transaction.0" in receipt.detail
    assert receipt.body == body


@pytest.mark.timeout(300)  # five starts of a process, on any machine
@on_both_stores
def test_a_message_that_kills_its_reader_is_isolated_and_its_neighbours_are_delivered(plant: Plant) -> None:
    order, known = an_order(), plant.last_receipt()
    bad = a_publication(KILLER, type_name=TEXT_STEP, message_id=f"{order}-bad")
    plant.router.stop()
    deaths = len(plant.router.deaths)
    plant.publish(*(a_step(order, n) for n in range(1, 4)), bad, *(a_step(order, n) for n in range(4, 7)))

    plant.router.start()

    def all_delivered() -> bool:
        plant.router.restart_if_dead()
        return plant.booked(order) == [1, 2, 3, 4, 5, 6]

    eventually(all_delivered, within=240, why=plant.router.said)
    # Once in a batch with others, where nobody could say which one it was, and three times alone.
    assert plant.router.deaths[deaths:] == [-signal.SIGKILL] * 4
    receipts = plant.ledger.receipts(after=known)
    [receipt] = [each for each in receipts if each.kind == "invalid"]
    is_refused(receipt, bad, "invalid", "reader.killed", "3 times")
    # What was kept before the process died came again: recorded as that, and planned once.
    assert {each.kind for each in receipts} <= {"invalid", "duplicate"}
    assert plant.ledger.openings() == 0


# --- all of it at once -----------------------------------------------------------------------------------------------


@on_both_stores
def test_everything_bad_in_one_batch_leaves_the_queue_empty_and_the_good_ones_in_order(plant: Plant) -> None:
    order, known = an_order(), plant.last_receipt()
    bad = [
        a_document("{"),
        xml("<step"),
        xml("<!DOCTYPE s><s/>"),
        a_document(b"\xff"),
        a_document(b"x" * (MAX_BYTES + 1)),
        a_document("[" * 65),
        a_document('{"a": 1, "a": 2}'),
        a_document('{"a": NaN}'),
        a_document('{"a": "\\u0000"}'),
        a_document("{}"),
        a_document("{}", type_name=LOOSE_STEP, message_id="no key"),
        a_document('{"order": "1"}', type_name=LOOSE_STEP),
        a_document("{}", app_id="mes-2"),
        a_step(order, 1),
        replace(a_step(order, 99), properties=a_step(order, 1).properties),
    ]
    good = [a_step(order, n) for n in range(1, len(bad) + 2)]
    plant.router.stop()
    plant.publish(good[0], *(each for pair in zip(bad, good[1:], strict=True) for each in pair))

    plant.router.start()

    steps = list(range(1, len(good) + 1))
    plant.wait_until(lambda: plant.booked(order)[-1:] == steps[-1:])
    assert plant.booked(order) == steps
    receipts = plant.ledger.receipts(after=known)
    assert [receipt.cause for receipt in receipts] == [
        *("json.syntax", "xml.syntax", "xml.doctype", "json.charset", "body.too-large", "json.depth"),
        *("json.duplicate-key", "json.nan", "text.nul", "contract.violated", "key.missing", "identity.missing"),
        *("properties.contradict-routing-key", "id.duplicate", "id.conflict"),
    ]
    assert [receipt.body for receipt in receipts] == [each.body for each in bad]
    # One transaction kept bad and good alike: they were neighbours in one batch.
    accepted = plant.ledger.messages(t.message.c.subject == f"order:{order}", t.message.c.parent.is_(None))
    assert {receipt.at for receipt in receipts} == {message.accepted_at for message in accepted}
    assert nothing_comes_again(plant, known)


def nothing_comes_again(plant: Plant, known: int) -> bool:
    """Stop the router: what it did not acknowledge is back in the queues; start it: nothing is recorded twice."""
    written = [receipt.id for receipt in plant.ledger.receipts(after=known)]
    plant.router.stop()
    left = plant.left_at_the_broker()
    plant.router.start()
    plant.surrounded()
    return left == 0 and [receipt.id for receipt in plant.ledger.receipts(after=known)] == written
