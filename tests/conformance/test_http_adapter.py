"""The adapter `http` against the conformance suite, and what its options do."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Mapping
from datetime import timedelta

import pytest

from bus.connectors.http_adapter import HttpAdapter, http_adapter
from bus.connectors.http_network import _GuardedStream
from bus.errors import ConfigurationError, DeliveryFailure, OutcomeUnknown, PermanentFailure, TransientFailure
from bus.ports import Adapter, Checking, Parcel
from tests.conformance.adapters import AMPLE, KEY, HttpAdapterConformance, SecretShelf, a_message, an_endpoint
from tests.conformance.scripted_server import Answer, AnswerThenReset, Raw, ScriptedServer


class TestHttpAdapterWithBasicLogin(HttpAdapterConformance):
    accepted = Answer(200, b'{"order": "4711", "jobId": "J-1", "status": "FREIGEGEBEN"}')
    document = "J-1"
    unreadable_bodies = (b"", b"<ok/>", b'{"job": 1}', b'{"jobId": ""}', b'{"jobId": {}}', b'{"jobId"', b"[" * 100_000)
    sends_key = True

    def make(
        self, address: str, *, secret: SecretShelf, options: Mapping[str, object], timeout: timedelta = AMPLE
    ) -> Adapter:
        login = {"user": "bus", "password": "env:X", "check": "/health", "document": "jobId"}
        words = {"error_code": "error.code", "error_text": "error.text", "remembers_keys": True}
        options = {**login, **words, **options}
        return http_adapter(an_endpoint(address, adapter="http", options=options, timeout=timeout), secret=secret)

    def refusal(self, status: int, *, code: str, text: str) -> Answer:
        return Answer(status, f'{{"error": {{"code": "{code}", "text": "{text}"}}}}'.encode())


class TestHttpAdapterWithToken(HttpAdapterConformance):
    accepted = Answer(202, b"", {"Location": "/jobs/17"})
    document = "/jobs/17"
    unreadable_bodies = (b"",)
    sends_key = True

    def make(
        self, address: str, *, secret: SecretShelf, options: Mapping[str, object], timeout: timedelta = AMPLE
    ) -> Adapter:
        fixed = {"token": "env:X", "check": "/health", "document_header": "Location"}
        options = {**fixed, **options}
        return http_adapter(an_endpoint(address, adapter="http", options=options, timeout=timeout), secret=secret)

    def test_a_cut_in_the_middle_of_a_2xx_leaves_the_outcome_unknown(
        self, server: ScriptedServer, adapter: Adapter
    ) -> None:
        server.play("POST", Answer(202, b"", {"Content-Length": "10", "Location": "/jobs/17"}, then_close=True))

        assert isinstance(self.failure(adapter), OutcomeUnknown)


def outcome(answer: Answer, **options: object) -> str | DeliveryFailure:
    """The document number, or the failure, of one parcel sent with these options."""
    with ScriptedServer() as server:
        server.play("POST", answer)
        adapter = http_adapter(an_endpoint(server.url, adapter="http", options=options), secret=SecretShelf())
        try:
            return adapter.send(Parcel(message=a_message(), key=KEY)).document
        except DeliveryFailure as error:
            return error
        finally:
            adapter.close()


def test_without_a_document_option_any_2xx_is_enough() -> None:
    assert outcome(Answer(204)) == ""


def test_a_number_of_a_document_may_be_a_json_number() -> None:
    assert outcome(Answer(200, b'{"d": {"id": 17}}'), document="d.id") == "17"


def test_a_status_the_adapter_lists_is_tried_again() -> None:
    failure = outcome(Answer(409, b"order is open in an editor"), transient=[409])

    assert isinstance(failure, TransientFailure)
    assert failure.cause == "target.409"


def test_a_compressed_answer_is_not_unpacked() -> None:
    failure = outcome(Answer(200, b"\x1f\x8b", {"Content-Encoding": "gzip"}), document="id")

    assert isinstance(failure, OutcomeUnknown)


def test_a_content_type_that_would_end_the_header_is_final_and_nothing_is_sent() -> None:
    with ScriptedServer() as server:
        adapter = http_adapter(an_endpoint(server.url, adapter="http", options={}), secret=SecretShelf())

        with pytest.raises(PermanentFailure) as caught:
            adapter.send(Parcel(message=a_message(content_type="text/plain\r\nX-Evil: 1"), key=KEY))

        adapter.close()
        assert caught.value.cause == "request.invalid"
        assert server.requests == []


def test_an_idle_connection_that_takes_not_one_byte_is_replaced_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    # The moment between httpcore's look at an idle connection and our first byte, held open.
    look = _GuardedStream.get_extra_info
    monkeypatch.setattr(_GuardedStream, "get_extra_info", lambda self, info: info != "is_readable" and look(self, info))
    idle = threading.Event()
    with ScriptedServer() as server:
        server.play("POST", AnswerThenReset(Answer(200), idle), Answer(200))
        adapter = http_adapter(an_endpoint(server.url, adapter="http", options={}), secret=SecretShelf())
        adapter.send(Parcel(message=a_message(), key=KEY))
        idle.set()
        server.wait_for_an_end()

        adapter.send(Parcel(message=a_message(), key=KEY))

        adapter.close()
        assert [each.connection for each in server.requests] == [1, 2]


def test_an_endpoint_with_nothing_to_ask_does_not_claim_to_check() -> None:
    adapter = http_adapter(an_endpoint("http://127.0.0.1", adapter="http", options={}), secret=SecretShelf())

    assert isinstance(adapter, HttpAdapter)
    assert not isinstance(adapter, Checking)
    assert not adapter.remembers_keys
    adapter.close()


def test_the_path_and_query_of_the_address_are_posted_to() -> None:
    with ScriptedServer() as server:
        server.play("POST", Answer(200))
        endpoint = an_endpoint(f"{server.url}/b2mml/in?plant=P%20100", adapter="http", options={})
        adapter = http_adapter(endpoint, secret=SecretShelf())

        adapter.send(Parcel(message=a_message(), key=KEY))

        adapter.close()
        assert [each.path for each in server.requests] == ["/b2mml/in?plant=P%20100"]


@pytest.mark.parametrize(
    "options",
    [
        {"user": "bus"},
        {"password": "env:X"},
        {"user": "bus", "password": "env:X", "token": "env:Y"},
        {"transient": [200]},
        {"transient": "409"},
        {"remembers_keys": "yes"},
        {"keep_alive": -1},
        {"ca_file": "/does/not/exist.pem"},
        {"document": "id", "document_header": "Location"},
    ],
)
def test_options_that_make_no_sense_are_refused_as_configuration(options: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError, match="target"):
        http_adapter(an_endpoint("http://127.0.0.1", adapter="http", options=options), secret=SecretShelf())


@pytest.mark.parametrize("address", ["", "mes.example", "ftp://mes.example/", "http://", "/orders"])
def test_an_address_that_is_no_http_url_is_refused_as_configuration(address: str) -> None:
    with pytest.raises(ConfigurationError, match="target"):
        http_adapter(an_endpoint(address, adapter="http", options={}), secret=SecretShelf())


@pytest.mark.parametrize("status", [200, 302, 401, 409, 422, 503, 500])
def test_nothing_a_target_echoes_brings_our_login_into_what_the_bus_keeps(status: int) -> None:
    login = base64.b64encode(b"bus:first-password").decode()
    words = f"for Basic {login} or first-password or first%2Dpassword"
    body = json.dumps({"id": words, "code": words, "text": words}).replace("first-", "first\\u002d").encode()
    headers = {"Location": f"/{words}", "X-Echo": words}

    with ScriptedServer() as server:
        server.play("POST", Answer(status, body, headers))
        options = {"user": "bus", "password": "env:X", "document": "id", "error_code": "code", "error_text": "text"}
        adapter = http_adapter(an_endpoint(server.url, adapter="http", options=options), secret=SecretShelf())
        try:
            answer = adapter.send(Parcel(message=a_message(), key=KEY))
            said = f"{answer.document}{answer.exchange}"
        except DeliveryFailure as error:
            said = f"{error}{error.detail}{error.exchange}"
        finally:
            adapter.close()

    assert "***" in said
    for secret in (login, "first-password", "first%2Dpassword", "first\\u002dpassword", "first\\\\u002dpassword"):
        assert secret not in said


def test_an_answer_that_is_no_http_does_not_bring_our_login_into_the_detail() -> None:
    with ScriptedServer() as server:
        server.play("POST", Raw(b"first-password\r\n\r\n"))
        options = {"user": "bus", "password": "env:X"}
        adapter = http_adapter(an_endpoint(server.url, adapter="http", options=options), secret=SecretShelf())
        with pytest.raises(OutcomeUnknown) as caught:
            adapter.send(Parcel(message=a_message(), key=KEY))
        adapter.close()

    assert "first-password" not in str(caught.value)


def test_a_token_in_the_address_is_kept_neither_of_the_request_nor_of_its_echo() -> None:
    with ScriptedServer() as server:
        server.play("POST", Answer(200, headers={"X-Echo": "/in?token=abc-123"}))
        endpoint = an_endpoint(f"{server.url}/in?plant=P100&token=abc-123", adapter="http", options={})
        adapter = http_adapter(endpoint, secret=SecretShelf())

        exchange = adapter.send(Parcel(message=a_message(), key=KEY)).exchange

        adapter.close()
        assert server.requests[0].path == "/in?plant=P100&token=abc-123"
    assert exchange.sent.startswith(b"POST /in?plant=***&token=*** HTTP/1.1\r\n")
    assert b"abc-123" not in exchange.received
