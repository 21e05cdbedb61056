"""What the target's answer makes of a delivery: claim, the real adapter on a real socket, settle; on both stores.

`target` remembers idempotency keys, `archive` does not and can be asked nothing, `erp` is SAP: it does not remember,
and can be asked by our external id.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from bus import bootstrap
from bus.model.lease import LEASE
from bus.model.message import Message
from bus.pipeline.resume import Relay
from bus.pipeline.send import Window
from bus.store import schema
from bus.store import tables as t
from bus.store.engine import Database
from bus.store.sqlstore import SqlStore
from bus.store.verify import verify
from bus.telemetry.logs import LogTelemetry
from bus.testing import DirectBus, RecordedTelemetry, a_message
from tests.conformance.scripted_server import (
    Answer,
    Close,
    Raw,
    Reset,
    ScriptedServer,
    Silence,
    Step,
    refusing_address,
)
from tests.conformance.stages import now_due
from tests.services import Vhost
from tests.system.small_plant import (
    KEPT_STEP,
    PLAIN_STEP,
    POSTING,
    Installation,
    Ledger,
    Part,
    eventually,
    install,
    running,
)

PATIENCE = 30  # seconds an endpoint may take; no test waits for them
SHORT = 3  # seconds, where a test waits until they are over
MADE = {"MaterialDocument": "4900000121", "MaterialDocumentYear": "2026"}
TAKEN: Mapping[str, Answer] = {
    "target": Answer(201, b'{"job": "J-1"}'),
    "archive": Answer(201, b'{"job": "J-1"}'),
    "erp": Answer(201, json.dumps({"d": MADE}).encode()),
}
DOCUMENT = {"target": "J-1", "archive": "J-1", "erp": "4900000121/2026"}
TYPE = {"target": KEPT_STEP, "archive": PLAIN_STEP, "erp": POSTING}
TOKEN = {"x-csrf-token": "token==", "Set-Cookie": "SAP_SESSIONID=one; path=/"}


def a_posting(endpoint: str, order: str, number: int = 1) -> Message:
    """A message that goes to this endpoint as it is, in the lane of the order."""
    name = "ReferenceDocument" if endpoint == "erp" else "order"
    body = json.dumps({name: order, "step": number}).encode()
    return a_message(id=f"{order}-{number}", type=TYPE[endpoint], body=body)


def answer_to_search(*references: str) -> Answer:
    """What SAP says to whoever asks for these references; it hands out a token besides."""
    found = [MADE | {"ReferenceDocument": reference} for reference in references]
    return Answer(200, json.dumps({"d": {"results": found}}).encode(), TOKEN)


@dataclass
class Bench:
    """One endpoint's target, the pipeline before it in this process, and the auditor's view of the store."""

    bus: DirectBus
    server: ScriptedServer
    ledger: Ledger
    password: Path
    connect: Callable[[str, str, int], None]
    """Give an endpoint its adapter, for this address and time-out."""
    timeout: int = PATIENCE

    def answers(self, *steps: Step) -> None:
        """To postings, in this order; the last one again and again."""
        self.server.play("POST", *steps)

    def send(self, *messages: Message) -> None:
        self.bus.receive(*messages)
        for name in {each.destination for message in messages for each in self.ledger.deliveries(of=message.id)}:
            if name not in self.bus.windows:
                self.connect(name, self.server.url, self.timeout)
        self.bus.run_until_idle()

    def delivery(self, message: Message) -> Any:
        [row] = self.ledger.deliveries(of=message.id)
        return row

    def comes_to(self, state: str, message: Message) -> Any:
        """Work and relay until the delivery is in this state."""
        self.bus.run_until(lambda: self.delivery(message).state == state)
        return self.delivery(message)

    def state_of_endpoint(self, name: str) -> tuple[str, str]:
        row = self.bus.store.endpoint(name)
        return row.state, row.cause

    @property
    def posted(self) -> list[bytes]:
        return [request.body for request in self.server.received("POST")]


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def database(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """One with its tables for all tests: making them takes longer than most of these tests."""
    with ExitStack() as stack:
        if request.param == "sqlite":
            url = f"sqlite:///{tmp_path_factory.mktemp('store')}/bus.db"
        else:
            url = stack.enter_context(request.getfixturevalue("postgresql").fresh_database())
        database = Database(url)
        stack.callback(database.close)
        schema.upgrade(database)
        yield database


def empty(database: Database) -> None:
    """As if it were new, but for the journal: that can only be added to."""
    kept = (t.journal, t.period)  # the journal refuses; the open month is of the tables, as they were made
    tables = [table for table in reversed(t.metadata.sorted_tables) if table not in kept]
    with database.write() as connection:
        if database.is_sqlite:
            for table in tables:
                connection.execute(table.delete())
        else:
            connection.execute(text(f"TRUNCATE {', '.join(table.name for table in tables)}"))


@pytest.fixture
def bench(database: Database, tmp_path: Path) -> Iterator[Bench]:
    password = tmp_path / "password"
    password.write_text("first")
    password.chmod(0o600)
    with ExitStack() as stack:
        server = stack.enter_context(ScriptedServer())
        server.play("GET", answer_to_search())
        installation = Installation(
            name="bench", broker="", store=str(database.url), folder=str(tmp_path), endpoints={}
        )
        empty(database)
        bus = DirectBus(SqlStore(database), installation.catalogue, adapters={})

        def connect(name: str, address: str, timeout: int) -> None:
            there = replace(installation, endpoints=endpoints(address, password, timeout=timeout))
            endpoint = there.catalogue.endpoints[name]
            adapter = bootstrap.adapter_of(there.project(), endpoint)
            stack.callback(adapter.close)
            bus.windows[name] = Window(endpoint, adapter)

        yield Bench(bus, server, Ledger(database), password, connect)
        assert list(verify(database)) == []


def endpoints(address: str, password: Path, *, timeout: int) -> dict[str, dict[str, Any]]:
    login = {"user": "bus", "password": f"file:{password}"}
    of_all: dict[str, Any] = {"address": address, "timeout": timeout, "visible_after": timeout, "concurrency": 1}
    http = {"document": "job", "error_code": "code", "error_text": "text", "transient": [409]}
    return {
        "target": of_all | {"options": login | http | {"remembers_keys": True, "check": "/health"}},
        "archive": of_all | {"options": login | http},
        "erp": of_all | {"adapter": "adapters.sap:SapOData", "options": login | {"transient": [409]}},
    }


every_endpoint = pytest.mark.parametrize("endpoint", ["target", "archive", "erp"])


@every_endpoint
def test_what_the_target_took_is_delivered_with_its_document_number(bench: Bench, endpoint: str) -> None:
    bench.answers(TAKEN[endpoint])
    message = a_posting(endpoint, "4711")

    bench.send(message)

    row = bench.delivery(message)
    assert (row.state, row.document, row.attempts) == ("DELIVERED", DOCUMENT[endpoint], 1)


# --- nothing was sent: held, and no attempt spent --------------------------------------------------------------------


def is_held(bench: Bench, endpoint: str, cause: str, *messages: Message) -> None:
    assert bench.state_of_endpoint(endpoint) == ("tripped", cause)
    for message in messages:
        row = bench.delivery(message)
        assert (row.state, row.attempts, row.trips) == ("READY", 0, 0)


@every_endpoint
def test_a_refused_connection_holds_everything_until_the_endpoint_is_back(bench: Bench, endpoint: str) -> None:
    messages = [a_posting(endpoint, f"N{number}") for number in range(20)]
    bench.answers(TAKEN[endpoint])
    with refusing_address() as nobody:
        bench.connect(endpoint, nobody, PATIENCE)
        bench.send(*messages)
    is_held(bench, endpoint, "endpoint.refused-connection", *messages)

    bench.connect(endpoint, bench.server.url, PATIENCE)

    bench.comes_to("DELIVERED", messages[-1])
    assert {bench.delivery(message).state for message in messages} == {"DELIVERED"}
    assert len(bench.posted) == 20


@every_endpoint
@pytest.mark.parametrize(
    ("address", "cause"), [("http://nobody.invalid", "endpoint.dns"), ("", "endpoint.tls")], ids=["DNS", "TLS"]
)
def test_a_name_or_certificate_nobody_trusts_holds_everything(
    bench: Bench, endpoint: str, address: str, cause: str
) -> None:
    message = a_posting(endpoint, "4711")
    with ScriptedServer(tls=True) as elsewhere:
        bench.connect(endpoint, address or elsewhere.url, PATIENCE)

        bench.send(message)

        is_held(bench, endpoint, cause, message)
        assert elsewhere.requests == []


@every_endpoint
@pytest.mark.parametrize("status", [401, 403])
def test_a_rotated_password_kills_nothing(bench: Bench, endpoint: str, status: int) -> None:
    messages = [a_posting(endpoint, f"N{number}") for number in range(100)]
    bench.server.play("GET", Answer(status))
    bench.answers(Answer(status))
    bench.send(*messages)
    is_held(bench, endpoint, "endpoint.credentials-refused", *messages)
    assert len(bench.posted) <= 1

    bench.password.write_text("second")
    before = len(bench.server.requests)
    bench.server.play("GET", Answer(status), answer_to_search())
    bench.answers(*([Answer(status)] if endpoint == "archive" else []), TAKEN[endpoint])

    bench.comes_to("DELIVERED", messages[-1])
    assert {bench.delivery(message).state for message in messages} == {"DELIVERED"}
    old, *later = (request.headers["authorization"] for request in bench.server.requests[before:])
    assert len(set(later)) == 1
    assert old not in later


@every_endpoint
@pytest.mark.parametrize("status", [302, 307])
def test_a_redirect_holds_everything_and_is_not_followed(bench: Bench, endpoint: str, status: int) -> None:
    message = a_posting(endpoint, "4711")
    with ScriptedServer() as elsewhere:
        bench.answers(Answer(status, headers={"Location": elsewhere.url}))

        bench.send(message)

        is_held(bench, endpoint, "endpoint.redirects", message)
        assert elsewhere.connections == 0


# --- later -----------------------------------------------------------------------------------------------------------


@every_endpoint
@pytest.mark.parametrize("status", [408, 409, 423, 429, 503])
def test_a_busy_target_is_tried_again_and_only_its_lane_waits(bench: Bench, endpoint: str, status: int) -> None:
    locked, next_of_it, other = a_posting(endpoint, "1"), a_posting(endpoint, "1", 2), a_posting(endpoint, "2")
    bench.answers(Answer(status, b"locked by MILLER"), TAKEN[endpoint])

    bench.send(locked, next_of_it, other)

    row = bench.delivery(locked)
    assert (row.state, row.attempts) in (("RETRYING", 1), ("DELIVERED", 2))
    assert bench.delivery(other).state == "DELIVERED"
    assert bench.comes_to("DELIVERED", next_of_it).attempts == 1
    assert bench.delivery(locked).attempts == 2
    assert bench.posted.index(next_of_it.body) > max(at for at, body in enumerate(bench.posted) if body == locked.body)


@every_endpoint
@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_honoured(bench: Bench, endpoint: str, status: int) -> None:
    message = a_posting(endpoint, "4711")
    bench.answers(Answer(status, headers={"Retry-After": "120"}))

    bench.send(message)

    row = bench.delivery(message)
    assert (row.state, row.cause, row.attempts) == ("RETRYING", "target.busy", 1)
    assert row.due_at - row.changed_at == timedelta(seconds=120)


@every_endpoint
def test_a_target_that_stays_busy_is_given_up_when_the_policy_says_so(bench: Bench, endpoint: str) -> None:
    message = a_posting(endpoint, "4711")
    bench.answers(Answer(503, b"overloaded"))

    bench.send(message)

    row = bench.comes_to("DEAD", message)
    assert (row.attempts, row.cause) == (4, "target.busy")
    assert "overloaded" in row.detail
    assert len(bench.posted) == 4


# --- never -----------------------------------------------------------------------------------------------------------


@every_endpoint
@pytest.mark.parametrize("status", [400, 404, 422])
def test_a_refusal_is_final_with_the_target_s_own_code_and_text(bench: Bench, endpoint: str, status: int) -> None:
    refused, next_of_it, other = a_posting(endpoint, "1"), a_posting(endpoint, "1", 2), a_posting(endpoint, "2")
    said = {"code": "M7/021", "text": "Deficit of BA"}
    in_sap = {"error": {"code": "M7/021", "message": {"lang": "en", "value": "Deficit of BA"}}}
    bench.answers(Answer(status, json.dumps(in_sap if endpoint == "erp" else said).encode()), TAKEN[endpoint])

    bench.send(refused, next_of_it, other)

    row = bench.delivery(refused)
    assert (row.state, row.cause, row.attempts) == ("DEAD", "target.refused", 1)
    assert row.detail == f"{status} M7/021 Deficit of BA"
    assert bench.delivery(next_of_it).state == "WAITING"
    assert bench.delivery(other).state == "DELIVERED"


# --- it may have happened --------------------------------------------------------------------------------------------

UNKNOWN = [
    pytest.param(Silence(), "outcome.timeout", id="silence"),
    pytest.param(Reset(), "outcome.connection-cut", id="reset"),
    pytest.param(Close(), "outcome.connection-cut", id="close"),
    pytest.param(Answer(500), "outcome.server-error", id="500"),
    pytest.param(Answer(502), "outcome.server-error", id="502"),
    pytest.param(Answer(504), "outcome.server-error", id="504"),
    pytest.param(Answer(201, b"<html>thank you</html>"), "outcome.unreadable-answer", id="unreadable"),
    pytest.param(Raw(b'HTTP/1.1 201 Created\r\nContent-Length: 99\r\n\r\n{"job'), "outcome.connection-cut", id="half"),
]


def patience_with(step: Step) -> int:
    return SHORT if isinstance(step, Silence) else PATIENCE


@pytest.mark.parametrize(("step", "cause"), UNKNOWN)
def test_a_target_that_remembers_keys_is_sent_it_again_under_the_same_key(bench: Bench, step: Step, cause: str) -> None:
    bench.timeout = patience_with(step)
    message = a_posting("target", "4711")
    bench.answers(step, TAKEN["target"])

    bench.send(message)

    assert bench.comes_to("DELIVERED", message).document == "J-1"
    first, second = bench.server.received("POST")
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"] == bench.delivery(message).key
    failed, taken = bench.ledger.attempts(message.id)
    assert (failed.outcome, failed.cause, taken.outcome) == ("fail", cause, "succeed")


@pytest.mark.parametrize(("step", "cause"), UNKNOWN)
def test_what_nobody_can_ask_for_stays_in_doubt_and_other_keys_flow(bench: Bench, step: Step, cause: str) -> None:
    bench.timeout = patience_with(step)
    doubted, next_of_it, other = a_posting("archive", "1"), a_posting("archive", "1", 2), a_posting("archive", "2")
    bench.answers(step, TAKEN["archive"])

    bench.send(doubted, next_of_it, other)
    bench.comes_to("DELIVERED", other)

    row = bench.delivery(doubted)
    assert (row.state, row.cause, row.due_at) == ("IN_DOUBT", cause, None)
    assert bench.delivery(next_of_it).state == "WAITING"
    assert bench.posted == [doubted.body, other.body]


@pytest.mark.parametrize(("step", "cause"), UNKNOWN)
def test_what_the_search_finds_is_delivered_with_its_number_and_not_sent_again(
    bench: Bench, step: Step, cause: str
) -> None:
    bench.timeout = patience_with(step)
    message = a_posting("erp", "4711")
    bench.answers(step)
    bench.send(message)
    assert (bench.delivery(message).state, bench.delivery(message).cause) == ("IN_DOUBT", cause)

    bench.server.play("GET", answer_to_search("4711"))
    now_due(bench.ledger.store)

    assert bench.comes_to("DELIVERED", message).document == "4900000121/2026"
    assert bench.posted == [message.body]


def test_what_the_search_does_not_find_when_it_must_be_visible_is_sent_again(bench: Bench) -> None:
    bench.timeout = SHORT
    message = a_posting("erp", "4711")
    bench.answers(Close(), TAKEN["erp"])

    bench.send(message)

    row = bench.comes_to("DELIVERED", message)
    assert bench.posted == [message.body, message.body]
    lost, *probes, taken = bench.ledger.attempts(message.id)
    assert [probe.outcome for probe in probes] == ["probe: absent"] * len(probes)
    assert taken.document == row.document == "4900000121/2026"
    # "Absent" counts only when it was asked later than the target may take to show what it booked.
    assert len(probes) > 1
    assert probes[-1].began_at - lost.ended_at >= timedelta(seconds=SHORT)


@pytest.mark.parametrize(
    "step",
    [Answer(500), Answer(200, b"<html/>"), answer_to_search("4712"), Close()],
    ids=["500", "HTML", "other", "cut"],
)
def test_a_search_without_a_clear_answer_leaves_it_in_doubt(bench: Bench, step: Step) -> None:
    message = a_posting("erp", "4711")
    bench.answers(Reset())
    bench.send(message)
    bench.server.play("GET", step)
    now_due(bench.ledger.store)

    bench.bus.run_until(lambda: len(bench.ledger.attempts(message.id)) == 2)

    assert bench.delivery(message).state == "IN_DOUBT"
    assert bench.ledger.attempts(message.id)[-1].outcome == "probe: no answer"
    assert bench.posted == [message.body]


# --- a worker that dies in mid-call ----------------------------------------------------------------------------------


def test_a_worker_killed_while_it_sends_leaves_a_doubt_that_the_search_decides(
    store_url: str, vhost: Vhost, tmp_path: Path
) -> None:
    password = tmp_path / "password"
    password.write_text("first")
    password.chmod(0o600)
    booked, lost = a_posting("erp", "1"), a_posting("erp", "2")
    with ScriptedServer() as server, ExitStack() as stack:
        server.play("GET", answer_to_search())
        server.play("POST", Silence())
        installation = install(vhost, store_url, tmp_path, **endpoints(server.url, password, timeout=60))
        ledger = Ledger(Database(store_url))
        stack.callback(ledger.close)
        bus = DirectBus(ledger.store, installation.catalogue, adapters={})
        worker = Part("worker", installation, "send.erp")
        with running(worker):
            for message in (booked, lost):
                bus.receive(message)
            bootstrap.wake_for(installation.project(), LogTelemetry("a test"))({"send.erp"})
            eventually(lambda: server.received("POST"), why=worker.said)
            [sending] = ledger.deliveries(of=booked.id)
            assert sending.state == "SENDING"
            worker.kill()

        bury(ledger.store, sending.worker)

        [row] = ledger.deliveries(of=booked.id)
        assert (row.state, row.cause) == ("IN_DOUBT", "worker.killed-while-sending")
        [claimed_with_it] = ledger.deliveries(of=lost.id)
        assert (claimed_with_it.state, claimed_with_it.attempts) == ("READY", 0)
        server.play("GET", answer_to_search("1"))
        server.play("POST", TAKEN["erp"])
        adapter = bootstrap.adapter_of(installation.project(), installation.catalogue.endpoints["erp"])
        stack.callback(adapter.close)
        bus.windows["erp"] = Window(installation.catalogue.endpoints["erp"], adapter)
        bus.run_until(lambda: ledger.states(booked.id, lost.id) == ["DELIVERED", "DELIVERED"])
        assert [request.body for request in server.received("POST")] == [booked.body, lost.body]
        assert list(verify(ledger.database)) == []


def bury(store: SqlStore, worker: str) -> None:
    """The relay watches the worker's lease stand still for as long as it must, on a clock that runs ahead."""
    now = [timedelta(0)]
    relay = Relay(
        store=store,
        wake=lambda queues: None,
        without_hints=set,
        queues=(),
        telemetry=RecordedTelemetry(),
        name="relay:test",
        clock=lambda: now[0],
    )
    while worker in store.leases():
        relay.round()
        now[0] += LEASE / 5
        assert now[0] < LEASE * 3
