"""What a predicate, a transformer, a contract or a value can do wrong: one delivery or message suffers, no other."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from marshmallow import Schema, fields

from bus.errors import EndpointDown, OutcomeUnknown, PermanentFailure, TransientFailure
from bus.model.catalogue import Catalogue
from bus.model.contract import Contract, Contracts
from bus.model.delivery import State
from bus.model.message import BUS, Message, Opened, Outgoing
from bus.model.predicate import on
from bus.model.route import Route, RouteTable
from bus.model.transformer import TransformContext, Transformer, transformer
from bus.model.values import ValueMap, ValueMaps
from bus.pipeline.replay import replay
from bus.store import tables as t
from bus.store.sqlstore import SqlStore
from bus.testing import DirectBus, ScriptedEndpoint
from tests.conformance.books import discrepancies, rows, states, steps
from tests.conformance.stages import PLAIN, TEST, a_bus, claim
from tests.small_project import CONTRACTS, ORDER, SOON, TO_TARGET, a_native_step, a_step, small_catalogue

GOOD = Outgoing(type="target.step.v1", body=b'{"order":"a","step":1}')
Made = Outgoing | Sequence[Outgoing]


def _sole_dead(store: SqlStore) -> tuple[str, str]:
    (dead,) = (row for row in rows(store, t.delivery) if row.state == State.DEAD)
    return dead.cause, dead.detail


# --- predicates ------------------------------------------------------------------------------------------------------


def _raises_for_a(opened: Opened) -> bool:
    return bool(1 / (opened.document["order"] != "a"))


def test_a_predicate_that_raises_kills_its_own_delivery_and_no_other(store: SqlStore) -> None:
    target, archive = ScriptedEndpoint(), ScriptedEndpoint()
    raising = Route(name="steps-raise", when=_raises_for_a, to="archive")
    bus = a_bus(store, raising, PLAIN, adapters={"target": target, "archive": archive})

    bus.receive(a_step("a", 1), a_step("b", 1), a_step("a", 2))
    bus.run_until_idle()

    assert (steps(target.received, "a"), steps(target.received, "b")) == ([1, 2], [1])
    assert (steps(archive.received, "a"), steps(archive.received, "b")) == ([], [1])
    assert [row.cause for row in rows(store, t.delivery) if row.state == "DEAD"] == ["predicate.raised"] * 2
    assert list(discrepancies(store)) == []


@pytest.mark.parametrize("holds", [True, False])
def test_a_replay_asks_the_corrected_predicate(store: SqlStore, holds: bool) -> None:
    archive = ScriptedEndpoint()
    a_bus(store, Route(name="steps-raise", when=_raises_for_a, to="archive")).receive(a_step("a", 1))
    bus = a_bus(store, Route(name="steps-raise", when=lambda _: holds, to="archive"), adapters={"archive": archive})

    replay([rows(store, t.delivery)[0].id], store=store, catalogue=bus.catalogue, actor=TEST)
    bus.run_until_idle()

    assert steps(archive.received, "a") == ([1] if holds else [])
    assert holds or _sole_dead(store)[0] == "predicate.not-met"


def test_a_corrected_predicate_is_asked_though_a_worker_gave_the_delivery_back(store: SqlStore) -> None:
    a_bus(store, Route(name="steps-raise", when=_raises_for_a, to="archive")).receive(a_step("a", 1))
    bus = a_bus(store, Route(name="steps-raise", when=lambda _: False, to="archive"))
    replay([rows(store, t.delivery)[0].id], store=store, catalogue=bus.catalogue, actor=TEST)
    claim(store, queue="transform.transaction", worker="worker:dead")
    store.bury_worker("worker:dead", actor=TEST)

    bus.run_until_idle()

    assert _sole_dead(store)[0] == "predicate.not-met"


# --- transformers ----------------------------------------------------------------------------------------------------


def _transforms(function: Callable[[Opened, TransformContext], Made], *, takes: str = "test.step.v1") -> Transformer:
    return transformer(takes=takes, makes=["target.step.v1", "test.step.v1"])(function)


def _raise(_: Opened, context: TransformContext) -> Made:
    raise ZeroDivisionError("step 666")


def _leave(_: Opened, context: TransformContext) -> Made:
    raise SystemExit(0)


def _raise_late(_: Opened, context: TransformContext) -> Made:
    def outputs() -> Iterator[Outgoing]:
        yield GOOD
        raise ZeroDivisionError("in the middle")

    return outputs()  # type: ignore[return-value]  # what a transformer gets wrong


def _forget_to_return(_: Opened, context: TransformContext) -> Made:
    return None  # type: ignore[return-value]  # what a transformer gets wrong


def _return_documents(_: Opened, context: TransformContext) -> Made:
    return [{"order": "a"}]  # type: ignore[list-item]  # what a transformer gets wrong


def _return_text(_: Opened, context: TransformContext) -> Made:
    return Outgoing(type="target.step.v1", body='{"order":"a","step":1}')  # type: ignore[arg-type]  # the same


def _undeclared_type(_: Opened, context: TransformContext) -> Made:
    return replace(GOOD, type="machine.state.v1")


def _violate_contract(_: Opened, context: TransformContext) -> Made:
    return replace(GOOD, body=b"{}")


def _no_json(_: Opened, context: TransformContext) -> Made:
    return replace(GOOD, body=b"<xml/>")


def _unmapped(_: Opened, context: TransformContext) -> Made:
    context.maps["units"].to_partner("KGM")
    return GOOD


def _no_map(_: Opened, context: TransformContext) -> Made:
    context.maps["reasons"].to_partner("KGM")
    return GOOD


def _with_maps(bus: DirectBus) -> Catalogue:
    units = ValueMap("target-1", "units", 1, (("ST", "C62"),))
    return replace(bus.catalogue, maps={"target-1": ValueMaps("target-1", {"units": units})})


@pytest.mark.parametrize(
    ("wrong", "cause"),
    [
        (_raise, "transformer.raised"),
        (_leave, "transformer.raised"),
        (_raise_late, "transformer.raised"),
        (_forget_to_return, "transformer.raised"),
        (_return_documents, "transformer.output-invalid"),
        (_return_text, "transformer.output-invalid"),
        (_undeclared_type, "transformer.output-invalid"),
        (_violate_contract, "transformer.output-invalid"),
        (_no_json, "transformer.output-invalid"),
        (_unmapped, "value-map.missing"),
        (_no_map, "value-map.absent"),
    ],
)
def test_what_a_transformer_gets_wrong_kills_its_own_delivery_and_no_other(
    store: SqlStore, wrong: Callable[[Opened, TransformContext], Made], cause: str
) -> None:
    target, archive = ScriptedEndpoint(), ScriptedEndpoint()
    bad = Route(name="steps-go-wrong", when=on("test.step.v1"), to="archive", transform=_transforms(wrong))
    adapters = {"target": target, "archive": archive}
    plain = a_bus(store, bad, PLAIN, adapters=adapters)
    bus = DirectBus(store, _with_maps(plain), adapters)
    bus.receive(a_step("a", 1))

    bus.run_until_idle()

    assert _sole_dead(store)[0] == cause
    assert steps(target.received, "a") == [1]
    assert archive.received == []
    assert list(discrepancies(store)) == []


@pytest.mark.parametrize("kind", [TransientFailure, EndpointDown, OutcomeUnknown, PermanentFailure])
def test_a_transformer_that_raises_an_adapters_error_ends(store: SqlStore, kind: type[PermanentFailure]) -> None:
    def raise_it(_: Opened, context: TransformContext) -> Made:
        raise kind("target.busy", "said the transformer")

    bad = Route(
        name="steps-go-wrong", when=on("test.step.v1"), to="target", transform=_transforms(raise_it), retry=SOON
    )
    bus = a_bus(store, bad)
    bus.receive(a_step("a", 1))

    bus.run_until(lambda: states(store) == [State.DEAD])

    assert store.endpoint("target").state == "open"


def test_a_time_without_a_zone_kills_the_delivery_that_made_it_and_no_other(store: SqlStore) -> None:
    def naive(opened: Opened, context: TransformContext) -> Made:
        body = json.dumps({"order": opened.document["order"], "step": 1}).encode()
        when = datetime(2026, 1, 1) if opened.document["order"] == "a" else None  # noqa: DTZ001  # the mistake
        return [Outgoing(type="test.step.v1", body=body, time=when)]

    target = ScriptedEndpoint()
    takes = _transforms(naive, takes="native.step.v1")
    bad = Route(name="steps-become-canonical", when=on("native.step.v1"), to=BUS, transform=takes)
    bus = a_bus(store, bad, PLAIN, adapters={"target": target})
    bus.receive(a_native_step("b", 1), a_native_step("a", 1), a_native_step("c", 1))

    bus.run_until_idle()

    assert _sole_dead(store)[0] == "transformer.output-invalid"
    assert [json.loads(body)["order"] for body in target.received] == ["b", "c"]
    assert list(discrepancies(store)) == []


def test_a_reader_that_raises_does_not_hold_up_the_batch(store: SqlStore) -> None:
    target = ScriptedEndpoint()
    a_bus(store, TO_TARGET).receive(a_step("a", 1), a_step("b", 1))
    bus = a_bus(store, TO_TARGET, adapters={"target": target})
    broken = replace(CONTRACTS["test.step.v1"], reader=_reader_that_fails_on_a)
    changed = Contracts([broken, *(c for c in CONTRACTS.values() if c.type != "test.step.v1")])
    bus = DirectBus(store, replace(bus.catalogue, contracts=changed), {"target": target})

    bus.run_until_idle()

    assert len(states(store)) == 2
    assert sorted(states(store)) == ["DEAD", "DELIVERED"]
    assert steps(target.received, "b") == [1]


def _reader_that_fails_on_a(body: bytes) -> object:
    document = json.loads(body)
    return 1 // 0 if document["order"] == "a" else document


@pytest.mark.parametrize("gone", ["route", "endpoint"])
def test_what_a_changed_project_no_longer_declares_stays_visible(store: SqlStore, gone: str) -> None:
    a_bus(store).receive(a_step("a", 1))
    bus = a_bus(store, PLAIN) if gone == "route" else a_bus(store)
    if gone == "endpoint":
        bus = DirectBus(store, replace(bus.catalogue, endpoints={}), {})

    bus.run_until_idle()

    (row,) = rows(store, t.delivery)
    assert (row.state, row.cause) == (("DEAD", "route.unknown") if gone == "route" else ("READY", ""))


# --- values the store refuses ----------------------------------------------------------------------------------------


class _Noted(Schema):
    order = fields.String(required=True)
    note = fields.String()


def _lenient() -> Catalogue:
    """A project whose contract lets through what no database keeps: half a surrogate pair."""
    noted = Contract(
        type="noted.step.v1", owner="MES", support="", schema=_Noted, reader=json.loads, key=ORDER, searchable=("note",)
    )
    route = Route(name="notes-to-target", when=on("noted.step.v1"), to="target")
    plain = small_catalogue()
    system = replace(plain.systems["mes-1"], publishes=("noted.step.v1",))
    return replace(plain, contracts=Contracts([noted]), systems={"mes-1": system}, routes=RouteTable([route]))


def _noted(order: str, note: str = "fine") -> Message:
    body = json.dumps({"order": order, "note": note, "step": 1}).encode()
    return a_step(order, 1, type="noted.step.v1", body=body)


@pytest.mark.parametrize("place", [0, 4, 8])
def test_a_value_the_store_refuses_makes_its_own_message_invalid_and_no_other(store: SqlStore, place: int) -> None:
    target = ScriptedEndpoint()
    bus = DirectBus(store, _lenient(), {"target": target})
    batch = [_noted(f"{number}") for number in range(8)]
    batch.insert(place, _noted("bad", "half \ud800"))

    bus.receive(*batch)
    bus.run_until_idle()

    (receipt,) = rows(store, t.receipt)
    assert (receipt.kind, receipt.cause, bytes(receipt.body)) == ("invalid", "store.refused-value", batch[place].body)
    assert sorted(json.loads(body)["order"] for body in target.received) == [str(number) for number in range(8)]
    assert list(discrepancies(store)) == []


def test_a_made_value_the_store_refuses_kills_the_delivery_that_made_it_and_holds_its_lane(store: SqlStore) -> None:
    def note(opened: Opened, context: TransformContext) -> Made:
        odd = opened.document["step"] == 2
        return Outgoing(type="noted.step.v1", body=_noted(opened.document["order"], "half \ud800" if odd else "").body)

    plain, lenient = small_catalogue(), _lenient()
    makes = transformer(takes="native.step.v1", makes="noted.step.v1")(note)
    enters = Route(name="steps-become-notes", when=on("native.step.v1"), to=BUS, transform=makes)
    contracts = Contracts([*plain.contracts.values(), *lenient.contracts.values()])
    target = ScriptedEndpoint()
    catalogue = replace(plain, contracts=contracts, routes=RouteTable([enters, *lenient.routes]))
    bus = DirectBus(store, catalogue, {"target": target})
    bus.receive(*(a_native_step(order, step) for step in (1, 2, 3) for order in "ab"))

    bus.run_until_idle()

    dead = [row for row in rows(store, t.delivery) if row.state == State.DEAD]
    assert [row.cause for row in dead] == ["store.refused-value"] * 2
    assert [json.loads(body)["order"] for body in target.received] == ["a", "b"]
    assert states(store).count(State.WAITING) == 2
    assert list(discrepancies(store)) == []


def test_a_bisected_batch_keeps_the_order_of_its_lanes(store: SqlStore) -> None:
    target = ScriptedEndpoint()
    bus = DirectBus(store, _lenient(), {"target": target})
    batch = [replace(_noted("a"), id=str(number), correlation_id=str(number)) for number in range(9)]
    batch.insert(4, _noted("bad", "half \ud800"))

    bus.receive(*batch)
    bus.run_until_idle()

    assert [parcel.message.id for parcel in target.booked] == [str(number) for number in range(9)]


def test_a_document_number_the_store_refuses_costs_no_other_its_outcome(store: SqlStore) -> None:
    class Odd(ScriptedEndpoint):
        def _book(self, parcel: object) -> str:
            return super()._book(parcel) + "\x00"  # type: ignore[arg-type]

    target = Odd(remembers_keys=False)
    bus = a_bus(store, PLAIN, adapters={"target": target})
    bus.receive(a_step("a", 1), a_step("b", 1))

    bus.run_until_idle()

    assert set(states(store)) == {State.DELIVERED}
    assert len(target.calls) == 2


def test_a_retry_asked_for_in_ten_thousand_years_does_not_stop_the_worker(store: SqlStore) -> None:
    error = TransientFailure("target.busy", retry_after=timedelta(days=999_999_999))
    target = ScriptedEndpoint(script={"order:a": [error]})
    bus = a_bus(store, PLAIN, adapters={"target": target})
    bus.receive(a_step("a", 1), a_step("b", 1))

    bus.run_until_idle()

    assert steps(target.received, "b") == [1]
    assert State.CLAIMED not in states(store)
