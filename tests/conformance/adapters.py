"""What every HTTP adapter must do, row by row of the table "target's answer becomes", over real sockets."""

from __future__ import annotations

import socket
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any, NoReturn

import pytest

from bus.errors import (
    ConfigurationError,
    DeliveryFailure,
    EndpointDown,
    OutcomeUnknown,
    PermanentFailure,
    TransientFailure,
)
from bus.model.message import Message
from bus.model.secret import Secret
from bus.model.system import Endpoint
from bus.ports import Adapter, Checking, Parcel
from tests.conformance.scripted_server import (
    CERTIFICATE,
    Answer,
    Close,
    Drip,
    Raw,
    Reset,
    ScriptedServer,
    Silence,
    refusing_address,
    unanswering_address,
)

AMPLE = timedelta(seconds=60)
"""A time-out no machine reaches, however busy, in tests of everything else."""
BRIEF = timedelta(seconds=1)
"""A time-out for tests of what happens then."""
KEY = "0b1d3c5e-0000-5000-8000-00000000c0de"


class SecretShelf:
    """Secrets as a test changes them; counts how often they were read."""

    def __init__(self) -> None:
        self.value = "first-password"
        self.reads = 0

    def __call__(self, name: str) -> Secret:
        self.reads += 1
        return Secret(f"env:{name}", self.value)


def a_message(**overrides: Any) -> Message:
    fields: dict[str, Any] = {
        "id": "m-1",
        "type": "order.release.v1",
        "system": "erp",
        "site": "P100",
        "subject": "order:4711",
        "content_type": "application/json",
        "body": b'{"order": "4711"}',
    }
    return Message(**{**fields, **overrides})


class HttpAdapterConformance(ABC):
    """Subclass it as `Test…`; the members below say what differs between targets."""

    accepted: Answer
    """What the target answers when it took the parcel …"""
    document: str
    """… and the document number in it."""
    unreadable_bodies: tuple[bytes, ...]
    """Bodies of a 2xx that name no document."""
    sends_key: bool

    @abstractmethod
    def make(
        self, address: str, *, secret: SecretShelf, options: Mapping[str, object], timeout: timedelta = AMPLE
    ) -> Adapter:
        """The adapter with its login from `secret`, and these options besides."""

    def message(self) -> Message:
        return a_message()

    def refusal(self, status: int, *, code: str, text: str) -> Answer:
        """How the target words a refusal."""
        return Answer(status, f"{code}: {text}".encode(), {"Content-Type": "text/plain"})

    def prepare(self, server: ScriptedServer) -> None:
        """Script what the target is asked besides the posting."""
        server.play("GET", Answer(200))

    # -- what the rows stand on

    @pytest.fixture
    def secret(self) -> SecretShelf:
        return SecretShelf()

    @pytest.fixture
    def server(self) -> Iterator[ScriptedServer]:
        with ScriptedServer() as server:
            self.prepare(server)
            yield server

    @pytest.fixture
    def adapter(self, server: ScriptedServer, secret: SecretShelf) -> Iterator[Adapter]:
        adapter = self.make(server.url, secret=secret, options={})
        yield adapter
        adapter.close()

    @pytest.fixture
    def brief(self, server: ScriptedServer, secret: SecretShelf) -> Iterator[Adapter]:
        """The adapter with a time-out that a test can wait for."""
        adapter = self.make(server.url, secret=secret, options={}, timeout=BRIEF)
        yield adapter
        adapter.close()

    def send(self, adapter: Adapter) -> Any:
        return adapter.send(Parcel(message=self.message(), key=KEY))

    def failure_at(self, address: str, **options: object) -> DeliveryFailure:
        adapter = self.make(address, secret=SecretShelf(), options=options)
        try:
            with pytest.raises(DeliveryFailure) as caught:
                self.send(adapter)
            return caught.value
        finally:
            adapter.close()

    def failure(self, adapter: Adapter) -> DeliveryFailure:
        with pytest.raises(DeliveryFailure) as caught:
            self.send(adapter)
        return caught.value

    # -- taken

    def test_what_the_target_took_is_delivered_with_its_document_number(
        self, server: ScriptedServer, adapter: Adapter
    ) -> None:
        server.play("POST", self.accepted)

        answer = self.send(adapter)

        [request] = server.received("POST")
        assert answer.document == self.document
        assert request.body == self.message().body
        assert request.headers["content-type"] == self.message().content_type
        assert request.headers.get("idempotency-key") == (KEY if self.sends_key else None)

    def test_the_attempt_keeps_what_was_sent_and_answered_with_secrets_masked(
        self, server: ScriptedServer, adapter: Adapter, secret: SecretShelf
    ) -> None:
        accepted = self.accepted
        server.play("POST", Answer(201, accepted.body, {**accepted.headers, "Set-Cookie": "session=token-in-cookie"}))

        exchange = self.send(adapter).exchange

        [request] = server.received("POST")
        assert exchange.sent.startswith(f"POST {request.path} HTTP/1.1\r\n".encode())
        assert exchange.sent.endswith(b"\r\n\r\n" + self.message().body)
        assert exchange.received.startswith(b"HTTP/1.1 201 Scripted\r\n")
        assert exchange.received.endswith(b"\r\n\r\n" + accepted.body)
        assert b"uthorization: ***" in exchange.sent
        assert b"Set-Cookie: ***" in exchange.received
        for hidden in (request.headers["authorization"], secret.value, "token-in-cookie"):
            assert hidden.encode() not in exchange.sent + exchange.received

    def test_a_login_echoed_by_the_target_is_masked(
        self, server: ScriptedServer, adapter: Adapter, secret: SecretShelf
    ) -> None:
        server.play("POST", Answer(400, b"you said first-password"))

        assert secret.value.encode() not in self.failure(adapter).exchange.received

    def test_parcels_sent_from_several_threads_at_once_all_arrive(
        self, server: ScriptedServer, adapter: Adapter
    ) -> None:
        server.play("POST", self.accepted)

        with ThreadPoolExecutor(4) as threads:
            answers = list(threads.map(lambda _: self.send(adapter), range(20)))

        assert [each.document for each in answers] == [self.document] * 20
        assert len(server.received("POST")) == 20

    # -- nothing was sent

    def test_a_refused_connection_holds_the_endpoint(self) -> None:
        with refusing_address() as address:
            failure = self.failure_at(address)

        assert isinstance(failure, EndpointDown)
        assert failure.cause == "endpoint.refused-connection"
        assert failure.exchange.sent == b""

    def test_a_name_nobody_knows_holds_the_endpoint(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def unknown(*_: object, **__: object) -> NoReturn:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

        monkeypatch.setattr(socket, "getaddrinfo", unknown)

        failure = self.failure_at("http://erp.invalid")

        assert isinstance(failure, EndpointDown)
        assert failure.cause == "endpoint.dns"

    def test_an_untrusted_certificate_holds_the_endpoint(self) -> None:
        with ScriptedServer(tls=True) as server:
            failure = self.failure_at(server.url)

        assert isinstance(failure, EndpointDown)
        assert failure.cause == "endpoint.tls"
        assert server.requests == []

    def test_a_certificate_of_the_authority_named_is_trusted(self, secret: SecretShelf) -> None:
        with ScriptedServer(tls=True) as server:
            self.prepare(server)
            server.play("POST", self.accepted)
            adapter = self.make(server.url, secret=secret, options={"ca_file": str(CERTIFICATE)})

            assert self.send(adapter).document == self.document
            adapter.close()

    def test_a_certificate_for_another_name_holds_the_endpoint(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with ScriptedServer(tls=True) as server:
            address = ("127.0.0.1", int(server.url.rpartition(":")[2]))
            found = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", address)]
            monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)

            failure = self.failure_at(f"https://erp.example:{address[1]}", ca_file=str(CERTIFICATE))

        assert isinstance(failure, EndpointDown)
        assert failure.cause == "endpoint.tls"

    def test_a_connection_nobody_accepts_holds_the_endpoint(self) -> None:
        with unanswering_address() as address:
            failure = self.failure_at(address, connect_timeout=0.2)

        assert isinstance(failure, EndpointDown)
        assert failure.cause == "endpoint.connect-timeout"

    @pytest.mark.parametrize(
        "address", ["http://169.254.169.254/", "http://[fe80::1]/", "http://[::ffff:169.254.1.1]/"]
    )
    def test_a_link_local_address_is_refused_as_configuration(self, address: str, secret: SecretShelf) -> None:
        with pytest.raises(ConfigurationError, match="link-local"):
            self.make(address, secret=secret, options={})

    def test_a_name_that_leads_to_a_link_local_address_is_not_called(self, monkeypatch: pytest.MonkeyPatch) -> None:
        found = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", ("169.254.169.254", 80))]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)

        failure = self.failure_at("http://erp.example")

        assert isinstance(failure, EndpointDown)
        assert failure.cause == "endpoint.address-refused"

    def test_an_address_that_bears_a_login_is_refused_without_repeating_it(self, secret: SecretShelf) -> None:
        with pytest.raises(ConfigurationError) as caught:
            self.make("http://bus:hidden-word@127.0.0.1/", secret=secret, options={})

        assert "hidden-word" not in str(caught.value)

    def test_an_option_nobody_knows_is_refused_as_configuration(self, secret: SecretShelf) -> None:
        with pytest.raises(ConfigurationError, match="pasword"):
            self.make("http://127.0.0.1/", secret=secret, options={"pasword": "env:X"})

    # -- who we are, and where it is

    @pytest.mark.parametrize("status", [401, 403])
    def test_refused_credentials_hold_the_endpoint(self, server: ScriptedServer, adapter: Adapter, status: int) -> None:
        server.play("POST", Answer(status))

        failure = self.failure(adapter)

        assert isinstance(failure, EndpointDown)
        assert failure.cause == "endpoint.credentials-refused"

    @pytest.mark.parametrize("status", [401, 403])
    def test_a_rotated_password_is_read_again_once(
        self, server: ScriptedServer, adapter: Adapter, secret: SecretShelf, status: int
    ) -> None:
        server.play("POST", self.accepted)
        self.send(adapter)
        server.play("POST", Answer(status), self.accepted)
        secret.value = "second-password"

        answer = self.send(adapter)

        before, refused, taken = (each.headers["authorization"] for each in server.received("POST"))
        assert answer.document == self.document
        assert before == refused != taken

    def test_the_same_password_is_not_offered_twice(
        self, server: ScriptedServer, adapter: Adapter, secret: SecretShelf
    ) -> None:
        server.play("POST", Answer(401))

        self.failure(adapter)

        assert len(server.received("POST")) == 1

    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    def test_a_redirect_holds_the_endpoint_and_is_not_followed(
        self, server: ScriptedServer, adapter: Adapter, status: int
    ) -> None:
        with ScriptedServer() as elsewhere:
            server.play("POST", Answer(status, headers={"Location": elsewhere.url}))

            failure = self.failure(adapter)

        assert isinstance(failure, EndpointDown)
        assert failure.cause == "endpoint.redirects"
        assert elsewhere.url in failure.detail
        assert elsewhere.connections == 0

    # -- later

    @pytest.mark.parametrize("status", [408, 423, 429, 503])
    def test_a_busy_target_is_tried_again_later(self, server: ScriptedServer, adapter: Adapter, status: int) -> None:
        server.play("POST", self.refusal(status, code="E/1", text="locked by MILLER"))

        failure = self.failure(adapter)

        assert isinstance(failure, TransientFailure)
        assert failure.cause == "target.busy"
        assert "locked by MILLER" in failure.detail
        assert failure.retry_after is None

    def test_retry_after_in_seconds_is_honoured(self, server: ScriptedServer, adapter: Adapter) -> None:
        server.play("POST", Answer(503, headers={"Retry-After": "120"}))

        failure = self.failure(adapter)

        assert isinstance(failure, TransientFailure)
        assert failure.retry_after == timedelta(seconds=120)

    def test_retry_after_as_a_date_is_measured_on_the_target_s_own_clock(
        self, server: ScriptedServer, adapter: Adapter
    ) -> None:
        its_now = datetime(2031, 1, 1, tzinfo=UTC)
        dates = {
            "Date": format_datetime(its_now, usegmt=True),
            "Retry-After": format_datetime(its_now + timedelta(minutes=5), usegmt=True),
        }
        server.play("POST", Answer(429, headers=dates))

        failure = self.failure(adapter)

        assert isinstance(failure, TransientFailure)
        assert failure.retry_after == timedelta(minutes=5)

    # -- never

    @pytest.mark.parametrize("status", [400, 404, 405, 409, 410, 413, 415, 422, 451])
    def test_another_4xx_is_final_with_the_target_s_own_code_and_text(
        self, server: ScriptedServer, adapter: Adapter, status: int
    ) -> None:
        server.play("POST", self.refusal(status, code="M7/021", text="Deficit of unrestricted stock"))

        failure = self.failure(adapter)

        assert isinstance(failure, PermanentFailure)
        assert failure.cause == "target.refused"
        assert str(status) in failure.detail
        assert "M7/021" in failure.detail
        assert "Deficit of unrestricted stock" in failure.detail

    def test_a_refusal_whose_body_is_cut_is_still_final(self, server: ScriptedServer, adapter: Adapter) -> None:
        server.play("POST", Raw(b"HTTP/1.1 422 No\r\nContent-Length: 900\r\n\r\nunknown mat"))

        failure = self.failure(adapter)

        assert isinstance(failure, PermanentFailure)
        assert "unknown mat" in failure.detail

    # -- it may have happened

    @pytest.mark.parametrize("status", [500, 501, 502, 504, 507])
    def test_a_server_error_leaves_the_outcome_unknown(
        self, server: ScriptedServer, adapter: Adapter, status: int
    ) -> None:
        server.play("POST", self.refusal(status, code="E/500", text="an exception was raised"))

        failure = self.failure(adapter)

        assert isinstance(failure, OutcomeUnknown)
        assert failure.cause == "outcome.server-error"
        assert "an exception was raised" in failure.detail

    def test_a_target_that_never_answers_leaves_the_outcome_unknown_at_the_time_out(
        self, server: ScriptedServer, brief: Adapter
    ) -> None:
        server.play("POST", Silence())

        failure = self.failure(brief)

        assert isinstance(failure, OutcomeUnknown)
        assert failure.cause == "outcome.timeout"
        assert failure.exchange.sent.endswith(self.message().body)
        assert len(server.received("POST")) == 1

    @pytest.mark.parametrize("part", ["headers", "body"])
    def test_an_answer_that_drips_ends_at_the_time_out_of_the_whole_exchange(
        self, server: ScriptedServer, brief: Adapter, part: str
    ) -> None:
        head = b"HTTP/1.1 201 Created\r\nContent-Length: 500\r\n"
        if part == "headers":
            step = Drip(head + b"X-Filler: " + b"x" * 500)
        else:
            step = Drip(head + b"\r\n" + b"x" * 500, seconds=0.02)
        server.play("POST", step)

        failure = self.failure(brief)

        assert isinstance(failure, OutcomeUnknown)
        assert failure.cause == "outcome.timeout"

    @pytest.mark.parametrize("step", [Reset(), Close()], ids=["reset", "close"])
    def test_a_cut_after_the_request_was_written_leaves_the_outcome_unknown(
        self, server: ScriptedServer, adapter: Adapter, step: Reset | Close
    ) -> None:
        server.play("POST", step)

        failure = self.failure(adapter)

        assert isinstance(failure, OutcomeUnknown)
        assert failure.cause == "outcome.connection-cut"
        assert len(server.received("POST")) == 1

    def test_a_cut_in_the_middle_of_a_2xx_leaves_the_outcome_unknown(
        self, server: ScriptedServer, adapter: Adapter
    ) -> None:
        server.play("POST", Raw(self.accepted.wire()[:-3]))

        failure = self.failure(adapter)

        assert isinstance(failure, OutcomeUnknown)
        assert failure.cause == "outcome.connection-cut"

    def test_garbage_leaves_the_outcome_unknown(self, server: ScriptedServer, adapter: Adapter) -> None:
        server.play("POST", Raw(b"\x16\x03\x01 what is HTTP?\r\n\r\n"))

        failure = self.failure(adapter)

        assert isinstance(failure, OutcomeUnknown)
        assert failure.cause == "outcome.unreadable-answer"

    def test_a_2xx_that_cannot_be_read_leaves_the_outcome_unknown(
        self, server: ScriptedServer, adapter: Adapter
    ) -> None:
        for body in self.unreadable_bodies:
            server.play("POST", Answer(201, body))

            failure = self.failure(adapter)

            assert isinstance(failure, OutcomeUnknown)
            assert failure.cause == "outcome.unreadable-answer"

    def test_an_answer_without_end_is_not_read_to_its_end(self, server: ScriptedServer, adapter: Adapter) -> None:
        server.play("POST", Answer(201, b"x" * (2 * 1024 * 1024)))

        failure = self.failure(adapter)

        assert isinstance(failure, OutcomeUnknown)
        assert failure.cause == "outcome.unreadable-answer"
        assert len(failure.exchange.received) < 1024 * 1024 + 1000

    def test_a_request_cut_while_it_is_read_is_never_repeated_by_the_connector(
        self, server: ScriptedServer, adapter: Adapter
    ) -> None:
        server.reading_only = 1

        failure = self.failure(adapter)

        assert isinstance(failure, OutcomeUnknown | EndpointDown)
        assert server.connections == 1

    # -- pooled connections

    def test_a_connection_the_target_closed_while_idle_costs_nothing(
        self, server: ScriptedServer, adapter: Adapter
    ) -> None:
        accepted = self.accepted
        server.play("POST", Answer(accepted.status, accepted.body, accepted.headers, then_close=True))

        for _ in range(3):
            assert self.send(adapter).document == self.document
            server.wait_for_an_end()

        assert len(server.received("POST")) == 3

    def test_a_connection_is_used_again(self, server: ScriptedServer, adapter: Adapter) -> None:
        server.play("POST", self.accepted)

        for _ in range(5):
            self.send(adapter)

        assert server.connections == 1

    # -- checks

    def test_a_check_passes_when_the_target_is_up(self, server: ScriptedServer, adapter: Adapter) -> None:
        assert isinstance(adapter, Checking)

        adapter.check()

        assert server.received("GET") != []
        assert server.received("POST") == []

    @pytest.mark.parametrize("step", [Answer(401), Answer(404), Answer(500), Answer(503), Close(), Silence()])
    def test_a_check_names_the_cause_when_the_target_is_not_up(
        self, server: ScriptedServer, brief: Adapter, step: Answer | Close | Silence
    ) -> None:
        server.play("GET", step)
        assert isinstance(brief, Checking)

        with pytest.raises(EndpointDown) as caught:
            brief.check()

        assert caught.value.cause

    def test_a_thread_that_waits_for_a_free_connection_gives_up_and_nothing_was_sent(
        self, server: ScriptedServer, secret: SecretShelf
    ) -> None:
        server.play("POST", Silence())
        adapter = self.make(server.url, secret=secret, options={}, timeout=BRIEF)
        causes: list[str] = []

        def send() -> None:
            try:
                self.send(adapter)
            except DeliveryFailure as error:
                causes.append(error.cause)

        threads = [threading.Thread(target=send) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        adapter.close()
        assert causes.count("outcome.timeout") == len(server.received("POST"))
        assert set(causes) <= {"outcome.timeout", "endpoint.no-free-connection"}


def an_endpoint(
    address: str,
    *,
    adapter: str,
    options: Mapping[str, object],
    system: str = "target",
    timeout: timedelta = AMPLE,
) -> Endpoint:
    return Endpoint(
        name="target",
        system=system,
        adapter=adapter,
        address=address,
        options=options,
        concurrency=4,
        timeout=timeout,
    )
