"""The SAP adapter against the conformance suite, and SAP's own ways: tokens, sessions, the search by our id."""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from urllib.parse import unquote

import pytest

from adapters.sap import SapOData
from bus.errors import DeliveryFailure, EndpointDown, OutcomeUnknown, PermanentFailure, TransientFailure
from bus.model.message import Message
from bus.ports import Adapter, Finding, Parcel, Probing, Verdict
from tests.conformance.adapters import (
    AMPLE,
    KEY,
    HttpAdapterConformance,
    SecretShelf,
    a_message,
    an_endpoint,
)
from tests.conformance.scripted_server import Answer, Close, Raw, ScriptedServer, Silence

GUID = "5a0c9f2e-9d3b-5d6f-8a44-1f2e3d4c5b6a"
CONFIRMATION = {"OrderID": "1000123", "OrderOperation": "0010", "ExternalSystemConfirmation": GUID}
CONFIRMED = {"ConfirmationGroup": "207", "ConfirmationCount": "1", "ExternalSystemConfirmation": GUID}
TOKEN = Answer(200, b'{"d": {}}', {"x-csrf-token": "token-one==", "Set-Cookie": "SAP_SESSIONID=one; path=/; HttpOnly"})
OTHER_TOKEN = Answer(200, b"{}", {"x-csrf-token": "token-two==", "Set-Cookie": "SAP_SESSIONID=two; path=/; HttpOnly"})
WANTS_TOKEN = Answer(403, b"CSRF token validation failed", {"x-csrf-token": "Required"})


def found(*entities: Mapping[str, object]) -> Answer:
    return Answer(200, json.dumps({"d": {"results": list(entities)}}).encode())


def a_confirmation(**fields: object) -> Message:
    body = json.dumps({**CONFIRMATION, **fields}).encode()
    return a_message(type="sap.production-order-confirmation.v2", body=body)


def a_material_document(**fields: object) -> Message:
    body = json.dumps({"GoodsMovementCode": "03", "ReferenceDocument": "PB-O'Neil-1", **fields}).encode()
    return a_message(type="sap.material-document.v1", body=body)


class TestSapAdapter(HttpAdapterConformance):
    accepted = Answer(201, json.dumps({"d": CONFIRMED}).encode())
    document = "207/1"
    unreadable_bodies = (
        b"",
        b"<d/>",
        b'{"d": {}}',
        b'{"d": []}',
        b'{"d": {"ConfirmationGroup": "207"}}',
        accepted.body[:20],
    )
    sends_key = False

    def make(
        self, address: str, *, secret: SecretShelf, options: Mapping[str, object], timeout: timedelta = AMPLE
    ) -> SapOData:
        login = {"user": "PLANTBUS", "password": "env:X"}
        endpoint = an_endpoint(
            address, adapter="sap:SapOData", options={**login, **options}, system="erp", timeout=timeout
        )
        return SapOData(endpoint, secret=secret)

    def message(self) -> Message:
        return a_confirmation()

    def prepare(self, server: ScriptedServer) -> None:
        server.play("GET", TOKEN)

    def refusal(self, status: int, *, code: str, text: str) -> Answer:
        return Answer(status, json.dumps({"error": {"code": code, "message": {"lang": "en", "value": text}}}).encode())

    # -- postings

    def test_a_confirmation_and_a_material_document_go_to_their_services(
        self, server: ScriptedServer, adapter: Adapter
    ) -> None:
        booked = Answer(201, b'{"d": {"MaterialDocument": "4900000121", "MaterialDocumentYear": "2026"}}')
        server.play("POST", self.accepted, booked)

        confirmation = adapter.send(Parcel(message=a_confirmation(), key=KEY))
        movement = adapter.send(Parcel(message=a_material_document(), key=KEY))

        assert (confirmation.document, movement.document) == ("207/1", "4900000121/2026")
        assert [each.path for each in server.received("POST")] == [
            "/sap/opu/odata/sap/API_PROD_ORDER_CONFIRMATION_2_SRV/ProdnOrdConf2",
            "/sap/opu/odata/sap/API_MATERIAL_DOCUMENT_SRV/A_MaterialDocumentHeader",
        ]

    def test_the_client_and_a_gateway_s_path_are_kept(self, server: ScriptedServer, secret: SecretShelf) -> None:
        server.play("POST", self.accepted)
        adapter = self.make(f"{server.url}/gateway/", secret=secret, options={"client": "100"})

        self.send(adapter)

        adapter.close()
        [posted] = server.received("POST")
        assert posted.path.startswith("/gateway/sap/opu/odata/sap/")
        assert posted.path.endswith("/ProdnOrdConf2?sap-client=100")

    @pytest.mark.parametrize(
        "message",
        [
            a_message(),
            a_confirmation(ExternalSystemConfirmation=""),
            a_confirmation(ExternalSystemConfirmation="00000000-0000-0000-0000-000000000000"),
            a_confirmation(ExternalSystemConfirmation="not a guid"),
            a_material_document(ReferenceDocument=None),
            a_message(type="sap.material-document.v1", body=b"<xml/>"),
        ],
    )
    def test_a_posting_that_could_never_be_found_again_is_not_sent(
        self, server: ScriptedServer, adapter: Adapter, message: Message
    ) -> None:
        with pytest.raises(PermanentFailure) as caught:
            adapter.send(Parcel(message=message, key=KEY))

        assert caught.value.cause == "request.invalid"
        assert server.requests == []

    # -- tokens and sessions

    def test_the_token_is_sent_with_its_cookies_and_fetched_once(
        self, server: ScriptedServer, adapter: Adapter
    ) -> None:
        server.play("POST", self.accepted)

        with ThreadPoolExecutor(4) as threads:
            list(threads.map(lambda _: self.send(adapter), range(8)))

        assert len(server.received("GET")) == 1
        assert {each.headers["x-csrf-token"] for each in server.received("POST")} == {"token-one=="}
        assert {each.headers["cookie"] for each in server.received("POST")} == {"SAP_SESSIONID=one"}

    def test_token_and_cookies_are_masked_in_the_attempt(self, server: ScriptedServer, adapter: Adapter) -> None:
        server.play("POST", self.accepted)

        exchange = self.send(adapter).exchange

        assert b"x-csrf-token: ***" in exchange.sent
        assert b"cookie: ***" in exchange.sent
        assert b"token-one" not in exchange.sent + exchange.received
        assert b"SAP_SESSIONID" not in exchange.sent + exchange.received

    def test_an_expired_token_is_fetched_again_once(self, server: ScriptedServer, adapter: Adapter) -> None:
        server.play("GET", TOKEN, OTHER_TOKEN)
        server.play("POST", WANTS_TOKEN, self.accepted)

        answer = self.send(adapter)

        assert answer.document == self.document
        assert [each.headers["x-csrf-token"] for each in server.received("POST")] == ["token-one==", "token-two=="]
        assert [each.headers["cookie"] for each in server.received("POST")] == [
            "SAP_SESSIONID=one",
            "SAP_SESSIONID=two",
        ]

    def test_a_token_that_is_refused_when_fresh_holds_the_endpoint(
        self, server: ScriptedServer, adapter: Adapter
    ) -> None:
        server.play("POST", WANTS_TOKEN)

        failure = self.failure(adapter)

        assert isinstance(failure, EndpointDown)
        assert failure.cause == "endpoint.csrf-refused"
        assert len(server.received("POST")) == 2

    @pytest.mark.parametrize(
        ("step", "cause"),
        [
            (Close(), "endpoint.no-answer"),
            (Raw(TOKEN.wire()[:-2]), "endpoint.no-answer"),
            (Answer(500), "endpoint.check-refused"),
            (Answer(404), "endpoint.check-refused"),
            (Answer(200), "endpoint.check-refused"),
            (Answer(401), "endpoint.credentials-refused"),
            (Answer(302), "endpoint.redirects"),
        ],
    )
    def test_no_token_holds_the_endpoint_and_leaves_no_doubt(
        self, server: ScriptedServer, adapter: Adapter, step: Answer, cause: str
    ) -> None:
        server.play("GET", step)

        failure = self.failure(adapter)

        assert isinstance(failure, EndpointDown)
        assert failure.cause == cause
        assert server.received("POST") == []

    def test_a_token_that_does_not_come_in_time_holds_the_endpoint(
        self, server: ScriptedServer, brief: Adapter
    ) -> None:
        server.play("GET", Silence())

        failure = self.failure(brief)

        assert isinstance(failure, EndpointDown)
        assert failure.cause == "endpoint.no-answer"
        assert server.received("POST") == []

    def test_a_busy_gateway_is_tried_again_later(self, server: ScriptedServer, adapter: Adapter) -> None:
        server.play("GET", Answer(503, headers={"Retry-After": "7"}))

        failure = self.failure(adapter)

        assert isinstance(failure, TransientFailure)
        assert failure.retry_after == timedelta(seconds=7)

    def test_threads_behind_a_token_that_does_not_come_end_in_time(
        self, server: ScriptedServer, brief: Adapter
    ) -> None:
        server.play("GET", Silence())

        with ThreadPoolExecutor(4) as threads:
            waiting = [threads.submit(self.failure, brief) for _ in range(4)]
            failures = [each.result(AMPLE.total_seconds()) for each in waiting]

        assert all(isinstance(each, EndpointDown | TransientFailure) for each in failures)
        assert server.received("POST") == []

    # -- probes

    def test_a_probe_finds_a_confirmation_by_our_guid(self, server: ScriptedServer, adapter: Adapter) -> None:
        server.play("GET", found({**CONFIRMED, "ExternalSystemConfirmation": GUID.upper()}))

        finding = self.probe(adapter, a_confirmation(ExternalSystemConfirmation=GUID.upper()))

        [request] = server.received("GET")
        assert (finding.verdict, finding.document) == (Verdict.FOUND, "207/1")
        assert f"$filter=ExternalSystemConfirmation eq guid'{GUID}'" in unquote(request.path)

    def test_a_probe_finds_a_material_document_by_our_reference(self, server: ScriptedServer, adapter: Adapter) -> None:
        number = {"MaterialDocument": "4900000121", "MaterialDocumentYear": "2026"}
        server.play("GET", found({**number, "ReferenceDocument": "PB-O'Neil-1"}))

        finding = self.probe(adapter, a_material_document())

        [request] = server.received("GET")
        assert (finding.verdict, finding.document) == (Verdict.FOUND, "4900000121/2026")
        assert "$filter=ReferenceDocument eq 'PB-O''Neil-1'" in unquote(request.path)

    def test_a_probe_that_finds_nothing_says_absent(self, server: ScriptedServer, adapter: Adapter) -> None:
        server.play("GET", found())

        finding = self.probe(adapter, a_confirmation())

        assert (finding.verdict, finding.document) == (Verdict.ABSENT, "")
        assert finding.exchange.received.endswith(b'{"d": {"results": []}}')

    @pytest.mark.parametrize(
        "step",
        [
            Answer(200),
            Answer(200, b"[]"),
            Answer(200, b'{"d": {}}'),
            Answer(200, b'{"d": {"results": [{}]}}'),
            Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n" + b'{"d": {"results": []}}'),
            found({**CONFIRMED, "ExternalSystemConfirmation": KEY}),
            Answer(400),
            Answer(404),
            Answer(500),
            Answer(503),
            Close(),
            Silence(),
        ],
    )
    def test_a_probe_without_a_clear_answer_says_neither_found_nor_absent(
        self, server: ScriptedServer, brief: Adapter, step: Answer
    ) -> None:
        server.play("GET", step)

        with pytest.raises(DeliveryFailure) as caught:
            self.probe(brief, a_confirmation())

        assert not isinstance(caught.value, OutcomeUnknown)

    def probe(self, adapter: Adapter, message: Message) -> Finding:
        assert isinstance(adapter, Probing)
        return adapter.probe(Parcel(message=message, key=KEY))

    def test_it_is_never_given_a_parcel_twice_blindly(self, adapter: Adapter) -> None:
        assert not adapter.remembers_keys
