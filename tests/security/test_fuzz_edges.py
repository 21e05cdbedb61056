"""Fuzz at the edges: settings, addresses, filters, frames, hints and answers are taken, or refused in a sentence."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from struct import pack
from types import SimpleNamespace
from typing import Any

import click
import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapters.mes_p100 import MesP100
from adapters.sap import SapOData
from bus.broker.address import read_addresses
from bus.broker.frames import tolerant_frame_handler
from bus.broker.management import Management
from bus.cli.frame import DELIVERY, Instant
from bus.connectors.http import HttpConnector
from bus.connectors.http_adapter import HttpAdapter
from bus.connectors.http_credentials import nobody
from bus.connectors.http_outcome import retry_after
from bus.errors import ConfigurationError, DeliveryFailure, MessageInvalid
from bus.model.secret import Secret
from bus.model.system import Endpoint
from bus.ports import Adapter, Answer, Parcel
from bus.settings import load_settings
from bus.store.engine import Database
from bus.testing import a_message
from bus.workers import wire
from tests.conformance import scripted_server as scripted
from tests.security.hostile import obeyed
from tests.security.hostile_documents import anything, costly, scalars, written
from tests.unit.command_line import Plant
from tests.unit.plant_store import ROOT

pytestmark = pytest.mark.timeout(600)  # for many examples on a slow machine

once = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])

# --- settings and addresses ------------------------------------------------------------------------------------------

TOML = (ROOT / "bus.toml").read_text(encoding="utf-8").splitlines()
VALUES = [
    *(
        "",
        "nan",
        "inf",
        "-inf",
        "-1",
        "0",
        "1e400",
        "9" * 400,
        "true",
        '""',
        "[]",
        "{}",
        "[[]]",
        '["P100"]',
        "1979-05-27",
    ),
    *(
        '"../.."',
        '"\\u0000"',
        '"\\u001b[2J"',
        '"env:"',
        '"file:"',
        '"a:b"',
        '["P100", 1]',
        "{ a = { b = [1, { c = 2 }] } }",
    ),
]


@once
@given(
    at=st.integers(0, len(TOML) - 1), value=st.sampled_from(VALUES) | st.text(max_size=12), more=st.text(max_size=20)
)
def test_a_bus_toml_is_read_or_refused_in_a_sentence(tmp_path: Path, at: int, value: str, more: str) -> None:
    name = TOML[at].partition("=")[0]
    lines = [*TOML[:at], f"{name}= {value}", *TOML[at + 1 :], more]
    (tmp_path / "bus.toml").write_text("\n".join(lines), encoding="utf-8")

    with suppress(ConfigurationError):
        assert load_settings(tmp_path, {}).lease <= timedelta(minutes=10)


url_bits = st.sampled_from(
    [
        *(
            "amqp://",
            "amqps://",
            "http://",
            "https://",
            "postgresql://",
            "sqlite:///",
            "u:p@",
            "@",
            ":",
            "/",
            "?",
            "#",
            ";",
        ),
        *("host", "[::1]", "[", "]", "127.0.0.1", "169.254.169.254", ":5672", ":99999", ":-1", ":x", "%", "%zz", "%00"),
        *(
            "sslmode=",
            "verify-full",
            "cacertfile=",
            "auth_mechanism=external",
            "&",
            "=",
            "host=",
            ",",
            "\x00",
            "\ud800",
        ),
    ]
)
urls = st.lists(url_bits | st.text(max_size=3), max_size=9).map("".join)


@given(url=urls)
def test_an_address_is_taken_or_refused_in_a_sentence(url: str) -> None:
    with suppress(ConfigurationError):
        read_addresses(url)
    with suppress(ConfigurationError):
        Database(url).close()
    with suppress(ConfigurationError):
        Management(url, vhost="/").close()
    with suppress(ConfigurationError):
        HttpConnector(url, timeout=timedelta(seconds=1), credentials=nobody(), connections=1).close()


# --- filters ---------------------------------------------------------------------------------------------------------


@given(text=st.text(max_size=20) | st.text(alphabet="0123456789smhd-+:T.Z ", max_size=24))
def test_a_time_or_a_number_that_is_typed_is_read_or_refused(text: str) -> None:
    with suppress(click.BadParameter):
        assert Instant().convert(text, None, None).tzinfo is UTC
    with suppress(click.BadParameter):
        assert DELIVERY.convert(text, None, None) > 0


filters = st.text(max_size=16) | st.text(alphabet="=.*'\"%_\\ oderi1", max_size=16)


@costly
@given(where=filters, subject=filters, document=filters)
def test_whatever_is_filtered_by_is_a_listing_or_a_sentence(
    plant: Plant, where: str, subject: str, document: str
) -> None:
    for words in (("--where", where, "--since", "3650d"), ("--subject", subject), ("--document", document)):
        said = plant.type("message", "list", *words)

        assert said.exit_code in (0, 1, 2)
        assert "something unexpected" not in said.output
        assert obeyed(said.output) == []


# --- what the broker hands on ----------------------------------------------------------------------------------------

DELIVER, HEADER, METHOD = (60, 60), 2, 1
short = st.binary(max_size=255).map(lambda text: bytes([len(text)]) + text)
flags = st.integers(0, 0xFFFF)
tables = st.binary(max_size=40) | st.lists(
    st.tuples(st.binary(max_size=6), st.sampled_from(b"tbBsuIiLlfdDSxATFVn\x00\xff"), st.binary(max_size=12)),
    max_size=4,
).map(lambda fields: b"".join(bytes([len(name)]) + name + bytes([kind]) + value for name, kind, value in fields))


@given(
    names=st.tuples(short, short, short),
    flagged=flags,
    properties=st.binary(max_size=60) | st.builds(lambda table: pack(">I", len(table)) + table, tables),
)
def test_no_message_that_a_broker_hands_on_ends_its_reader(
    names: tuple[bytes, bytes, bytes], flagged: int, properties: bytes
) -> None:
    tag, exchange, key = names
    taken: list[Any] = []

    def take(channel: int, method: tuple[int, int], arguments: bytes, content: Any) -> None:
        taken.append(content)

    read = tolerant_frame_handler(SimpleNamespace(bytes_recv=0), take)
    for header in (pack(">HHQH", 60, 0, 0, flagged) + properties, pack(">HHQH", 60, 0, 0, 0)):
        read((METHOD, 1, pack(">HH", *DELIVER) + tag + pack(">Qb", 1, 0) + exchange + key))
        read((HEADER, 1, header))

    assert len(taken) == 2


hints = st.one_of(
    st.binary(max_size=200),
    anything.map(written),
    st.dictionaries(
        st.sampled_from(["queue_name", "actor_name", "args", "kwargs", "options", "message_id", "message_timestamp"]),
        scalars | st.sampled_from(["send.mes", [1], {}, [], "1"]),
    ).map(lambda changed: written(json.loads(wire.encode(wire.hint_for("send.mes"))) | changed)),
)


@given(body=hints)
def test_a_hint_is_for_its_queue_or_is_refused(body: bytes) -> None:
    with suppress(MessageInvalid):
        hint = wire.decode(body, queue="send.mes")

        assert (hint.actor_name, hint.queue_name, hint.args, hint.kwargs) == (
            "send.mes",
            "send.mes",
            (wire.VERSION,),
            {},
        )


# --- what targets answer ---------------------------------------------------------------------------------------------


@given(value=st.text(max_size=20) | st.sampled_from(["9" * 400, "-1", "Mon, 30 Feb 2026 99:99:99 GMT", "0", "1e9"]))
def test_any_retry_after_is_a_time_or_none(value: str) -> None:
    with suppress(UnicodeEncodeError):
        headers = httpx.Headers([(b"retry-after", value.encode("latin-1")), (b"date", value.encode("latin-1"))])
        span = retry_after(headers, now=datetime.now(UTC))

        assert span is None or timedelta(0) <= span <= timedelta(days=1)


def an_adapter(name: str, address: str) -> tuple[Adapter, Parcel]:
    def secret(name: str) -> Secret:
        return Secret(f"env:{name}", "first-password")

    def endpoint(**options: object) -> Endpoint:
        return Endpoint(
            name="target", system="s", adapter="x", address=address, options=options, timeout=timedelta(seconds=60)
        )

    if name == "sap":
        body = written({"ExternalSystemConfirmation": "7b1f0c3e-1111-4222-8333-444455556666"})
        message = a_message(type="sap.production-order-confirmation.v2", body=body)
        return SapOData(endpoint(user="u", password="env:p"), secret=secret), Parcel(message=message, key="k")
    plain = Parcel(message=a_message(), key="k")
    if name == "mes":
        return MesP100(endpoint(token="env:t"), secret=secret), plain
    named = endpoint(document="a.*.b", error_code="a", error_text="a.b", token="env:t")
    return HttpAdapter(named, secret=secret), plain


@pytest.fixture(scope="module")
def server() -> Iterator[scripted.ScriptedServer]:
    with scripted.ScriptedServer() as server:
        yield server


odata = st.sampled_from(
    ["d", "error", "message", "value", "code", "results", "ConfirmationGroup", "ConfirmationCount", "a"]
)
answered = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(odata, inner, max_size=3), max_leaves=8
)
xml = st.lists(
    st.sampled_from(
        ["<a>", "</a>", "<DataArea>", "</DataArea>", "<OperationsSchedule>", "<ID>", "1", "<!DOCTYPE a>", "&x;"]
    )
).map(lambda pieces: "".join(pieces).encode())
steps = st.one_of(
    st.builds(
        scripted.Answer,
        st.sampled_from([200, 201, 204, 302, 400, 401, 403, 404, 409, 422, 429, 500, 503]),
        answered.map(written) | xml | st.binary(max_size=80),
        st.dictionaries(
            st.sampled_from(["Retry-After", "Location", "x-csrf-token", "Content-Type", "Set-Cookie", "Date"]),
            st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=12),
            max_size=2,
        ),
    ),
    st.binary(max_size=80).map(scripted.Raw),
    st.sampled_from(
        [
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        ]
    ).map(scripted.Raw),
)


@pytest.mark.parametrize("name", ["http", "sap", "mes"])
@costly
@given(post=steps, get=steps)
def test_whatever_a_target_answers_is_an_answer_or_a_failure(
    server: scripted.ScriptedServer, name: str, post: Any, get: Any
) -> None:
    server.play("POST", post)
    server.play("GET", get)
    adapter, parcel = an_adapter(name, server.url)
    try:
        said: Answer | DeliveryFailure = adapter.send(parcel)
    except DeliveryFailure as failure:
        said = failure
    finally:
        adapter.close()

    assert isinstance(said, Answer) or said.cause
    assert b"first-password" not in said.exchange.received + said.exchange.sent + str(said).encode()
