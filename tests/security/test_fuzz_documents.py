"""Fuzz: whatever comes is read, refused with a cause, or kept; no other error, no hang, bounded in time and memory."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
import tracemalloc
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.control.rehearse import explain, rehearse
from bus.errors import MessageInvalid, MessageRefused, PermanentFailure
from bus.model.catalogue import Catalogue
from bus.model.contract import Contract
from bus.model.document import read_json, read_xml
from bus.model.envelope import Envelope, open_envelope
from bus.model.message import Message, Opened
from bus.model.path import values_at
from bus.model.predicate import Explanation, Predicate, field, header
from bus.model.values import ValueMap
from bus.project import load_project
from bus.store.engine import Database
from bus.store.overview import overview
from bus.store.schema import upgrade
from bus.store.search import MessageQuery, list_messages
from bus.store.sqlstore import SqlStore
from bus.store.verify import verify
from bus.testing import DirectBus, ScriptedEndpoint
from tests.security.hostile import ESCAPES
from tests.security.hostile_documents import (
    CONTRACTS,
    Bomb,
    anything,
    bombs,
    costly,
    scalars,
    spoiled_json,
    spoiled_xml,
)
from tests.unit.plant_store import ROOT

pytestmark = pytest.mark.timeout(600)  # for many examples on a slow machine

LONGEST = 10.0
"""Seconds of processor time for one megabyte; what is taken in earnest takes a hundredth."""
LARGEST = 200 * 1_048_576
"""Bytes that reading one megabyte may hold."""


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return load_project(ROOT).catalogue


# --- readers and contracts -------------------------------------------------------------------------------------------


@costly
@given(bomb=bombs)
def test_no_body_of_a_megabyte_keeps_its_reader_busy_or_fills_the_memory(bomb: Bomb) -> None:
    body = bomb.body
    for read in (read_json, read_xml):
        tracemalloc.start()
        began = time.process_time()
        with suppress(MessageInvalid):
            read(body)
        spent = time.process_time() - began
        held = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()

        assert spent < LONGEST
        assert held < LARGEST


@costly
@given(bomb=bombs, contract=st.sampled_from(CONTRACTS))
def test_no_body_of_a_megabyte_keeps_a_contract_busy(bomb: Bomb, contract: Contract) -> None:
    body = bomb.body
    began = time.process_time()
    with suppress(MessageInvalid):
        contract.read(body)

    assert time.process_time() - began < LONGEST


@given(spoiled=spoiled_json() | spoiled_xml())
def test_a_contract_reads_a_document_or_says_what_is_wrong_with_it(spoiled: tuple[Contract, bytes]) -> None:
    contract, body = spoiled

    with suppress(MessageInvalid):
        document = contract.read(body)
        for value in contract.searchable_values(document):
            assert isinstance(value[1], str)
        with suppress(MessageInvalid):
            contract.identity_of(document)
        assert isinstance(contract.subject_of(document), str)


@given(contract=st.sampled_from(CONTRACTS), document=anything, body=st.binary(max_size=100))
def test_a_contract_reads_anything_or_says_what_is_wrong_with_it(
    contract: Contract, document: Any, body: bytes
) -> None:
    for each in (body, json.dumps(document).encode(), json.dumps({"a": document}).encode()):
        with suppress(MessageInvalid):
            contract.read(each)


# --- routes and transformers -----------------------------------------------------------------------------------------


@given(spoiled=spoiled_json() | spoiled_xml(), site=st.sampled_from(["P100", "P200", "P300", ""]))
def test_what_a_contract_takes_is_routed_transformed_and_explained_without_an_error(
    catalogue: Catalogue, spoiled: tuple[Contract, bytes], site: str
) -> None:
    contract, body = spoiled
    with suppress(MessageInvalid):
        document = contract.read(body)
        message = Message(
            id="1",
            type=contract.type,
            system="erp",
            site=site,
            subject=contract.subject_of(document),
            content_type=contract.content_types[0],
            body=body,
        )
        opened = Opened(message, document)

        for step in rehearse(opened, catalogue).failures():
            assert step.failure
        for each in explain(opened, catalogue):
            assert list(each.explanation.lines())


PATHS = ["a", "a.b", "a.*", "a.*.b", "*", "", ".", "a..b", "__class__", "a.0"]
operands = st.sampled_from(PATHS).map(field) | st.sampled_from(["site", "time", "sequence", "subject"]).map(header)
leaves = st.one_of(
    st.builds(lambda operand, value: operand == value, operands, anything),
    st.builds(lambda operand, value: operand != value, operands, anything),
    st.builds(lambda operand, value: operand < value, operands, anything),
    st.builds(lambda operand, value: operand >= value, operands, anything),
    st.builds(lambda operand, values: operand.is_in(*values), operands, st.lists(scalars, max_size=3)),
    st.builds(lambda operand: operand.exists(), operands),
    st.builds(lambda operand: operand.is_missing(), operands),
)
predicates = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.builds(lambda left, right: left & right, inner, inner),
        st.builds(lambda left, right: left | right, inner, inner),
        st.builds(lambda part: ~part, inner),
    ),
    max_leaves=6,
)


@given(predicate=predicates, document=st.dictionaries(st.sampled_from(["a", "b", "", "*"]), anything))
def test_a_predicate_judges_any_document_and_its_explanation_agrees(predicate: Predicate, document: Any) -> None:
    message = Message(id="1", type="a.b.v1", system="s", site="P1", subject="", content_type="", body=b"")
    opened = Opened(message, document)

    explanation: Explanation = predicate.explain(opened)

    assert predicate.holds(opened) is explanation.holds
    assert str(predicate)
    assert list(explanation.lines())
    assert all(isinstance(values, frozenset) for _, values in predicate.equalities())


@given(path=st.text(alphabet="ab.*_ ", max_size=12) | st.text(max_size=12), document=anything)
def test_any_path_is_looked_up_in_any_document(path: str, document: Any) -> None:
    list(values_at(document, path))


@given(
    pairs=st.lists(st.tuples(st.text(max_size=3), st.text(max_size=3)), unique_by=lambda pair: pair[0], max_size=5),
    word=st.text(max_size=3),
)
def test_a_value_map_translates_a_word_or_says_that_it_is_missing(pairs: list[tuple[str, str]], word: str) -> None:
    table = ValueMap("mes", "units", 1, tuple(pairs))

    for look, words in ((table.to_canonical, dict(pairs)), (table.to_partner, {ours for _, ours in pairs})):
        if word in words:
            assert isinstance(look(word), str)
        else:
            with pytest.raises(PermanentFailure) as caught:
                look(word)
            assert caught.value.cause == "value-map.missing"


# --- envelopes, kept -------------------------------------------------------------------------------------------------

_NAMES = ["message_id", "type", "app_id", "user_id", "correlation_id", "content_type", "content_encoding", "timestamp"]
_HEADERS = ["site", "subject", "time", "causation_id", "sequence", "business_date", "dataschema", "traceparent", "CC"]
_STATED = ["P100", "erp", "sap.production-order.v2", "application/json", "order:1", "2026-03-01", "", ESCAPES, "1.0"]
values = anything | st.binary(max_size=20) | st.datetimes() | st.sampled_from(_STATED)
keys = st.sampled_from(
    [f"P100.{name}.{each.type}" for name in ("erp", "mes-p100", "mes-p200") for each in CONTRACTS]
) | st.text(max_size=40)
envelopes = st.builds(
    lambda key, spoiled, properties, headers, redelivered: Envelope(
        routing_key=key or f"P100.erp.{spoiled[0].type}",
        body=spoiled[1],
        properties=properties,
        headers=headers,
        redelivered=redelivered,
    ),
    st.just("") | keys,
    spoiled_json() | spoiled_xml() | st.tuples(st.sampled_from(CONTRACTS), st.binary(max_size=60)),
    st.dictionaries(st.sampled_from(_NAMES), values, max_size=3),
    st.dictionaries(
        st.sampled_from([*_HEADERS, *(f"cloudEvents:{name}" for name in ("id", "type", "source", "specversion"))])
        | st.text(max_size=8),
        values,
        max_size=3,
    ),
    st.booleans(),
)


@given(envelope=envelopes)
def test_an_envelope_is_a_message_or_one_of_two_errors(catalogue: Catalogue, envelope: Envelope) -> None:
    with suppress(MessageInvalid, MessageRefused):
        message = open_envelope(
            envelope,
            contracts=catalogue.contracts,
            systems=catalogue.systems,
            sites=catalogue.sites,
            max_bytes=1_048_576,
        ).message

        assert message.id.isprintable()
        assert message.subject.isprintable()


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("empty") / "bus.db"
    database = Database(f"sqlite:///{path}")
    upgrade(database)
    database.close()
    return path


@costly
@given(batches=st.lists(st.lists(envelopes, min_size=1, max_size=6), min_size=1, max_size=3))
def test_whatever_comes_is_kept_and_adds_up(
    catalogue: Catalogue, empty_store: Path, batches: list[list[Envelope]]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = shutil.copy(empty_store, folder)
        database = Database(f"sqlite:///{path}")
        bus = DirectBus(SqlStore(database), catalogue, {name: ScriptedEndpoint() for name in catalogue.endpoints})
        try:
            for batch in batches:
                bus.receive(*batch)
            bus.run_until_idle()

            receipts, *_ = equations = overview(database).equations
            assert receipts.whole["received"] == sum(map(len, batches))
            assert all(equation.balances for equation in equations)
            assert [found.text for found in verify(database)] == []
            list_messages(database, MessageQuery(), limit=50)
        finally:
            database.close()
