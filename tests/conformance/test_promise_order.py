"""Promise 4 of the bus: in a lane, deliveries are sent in the order in which their messages were accepted."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

import pytest

from bus.errors import DeliveryFailure, EndpointDown, OutcomeUnknown, PermanentFailure, TransientFailure
from bus.model.delivery import Event, Stage, State
from bus.model.message import BUS, Opened, Outgoing
from bus.model.predicate import on
from bus.model.route import Route
from bus.model.transformer import TransformContext, transformer
from bus.pipeline.replay import replay
from bus.store import tables as t
from bus.store.sqlstore import SqlStore
from bus.testing import ScriptedEndpoint, ScriptedMany
from tests.conformance.books import discrepancies, rows, states, steps
from tests.conformance.stages import PLAIN, SEND, TEST, a_bus, claim, failing, now_due
from tests.small_project import TO_BUS, TO_TARGET, a_native_step, a_step, endpoint, make_canonical

SECOND = timedelta(seconds=1)
TRANSFORM = "transform.transaction"


@pytest.mark.parametrize("endpoint_kind", [ScriptedEndpoint, ScriptedMany])
def test_promise_4_order_is_that_of_acceptance(store: SqlStore, endpoint_kind: type[ScriptedEndpoint]) -> None:
    target = endpoint_kind()
    bus = a_bus(store, adapters={"target": target})

    bus.receive(*(a_step(order, step) for step in range(10, 13) for order in "ba"))
    bus.receive(*(a_step(order, step) for step in range(1, 4) for order in "ab"))
    bus.run_until_idle()

    assert steps(target.received, "a") == steps(target.received, "b") == [10, 11, 12, 1, 2, 3]


@pytest.mark.parametrize("endpoint_kind", [ScriptedEndpoint, ScriptedMany])
@pytest.mark.parametrize("kind", [TransientFailure, OutcomeUnknown, EndpointDown])
def test_promise_4_order_survives_failures(
    store: SqlStore, kind: type[DeliveryFailure], endpoint_kind: type[ScriptedEndpoint]
) -> None:
    target = endpoint_kind(script={"order:a": ["ok", failing(kind), "ok", failing(kind)]})
    bus = a_bus(store, adapters={"target": target})
    bus.receive(*(a_step(order, step) for step in range(10, 14) for order in "ab"))

    _run_to_the_end(store, bus.run_until_idle)

    assert steps(target.received, "a") == steps(target.received, "b") == [10, 11, 12, 13]
    assert set(states(store)) == {State.DELIVERED}


def _run_to_the_end(store: SqlStore, run: Callable[[], None]) -> None:
    """Run; whatever falls due later falls due now; and again, until nothing is open."""
    for _ in range(40):
        run()
        now_due(store)
        store.wake_due(limit=1000)
        store.put_off_check("target", check_in=-SECOND, cause="endpoint.dns")
        if not set(states(store)) & {State.READY, State.WAITING, State.RETRYING}:
            return
    raise AssertionError(f"still open: {states(store)}")


def test_promise_4_order_survives_a_worker_that_dies_with_a_batch(store: SqlStore) -> None:
    target = ScriptedEndpoint()
    bus = a_bus(store, PLAIN, adapters={"target": target})
    bus.receive(*(a_step("a", step) for step in range(10, 14)))
    claim(store, worker="worker:dead", limit=3)

    bus.receive(a_step("a", 1))
    bus.run_until_idle()
    meanwhile = list(target.received)
    store.bury_worker("worker:dead", actor=TEST)
    bus.run_until_idle()

    assert meanwhile == []
    assert steps(target.received, "a") == [10, 11, 12, 13, 1]


def test_promise_4_order_survives_a_worker_that_dies_in_mid_call(store: SqlStore) -> None:
    target = ScriptedEndpoint(remembers_keys=False)
    patient = endpoint("target", visible_after=timedelta(hours=1))
    bus = a_bus(store, PLAIN, adapters={"target": target}, target=patient)
    bus.receive(a_step("a", 1), a_step("a", 2), a_step("b", 1))
    first = claim(store, worker="worker:dead", limit=1)[0]
    store.mark_sending(first.id, first.token)
    store.bury_worker("worker:dead", actor=TEST)

    bus.run_until_idle()
    blocked = steps(target.received, "a")
    store.settle_doubt(first.id, Event.ABSENT, actor=TEST)
    bus.run_until_idle()

    assert blocked == []
    assert steps(target.received, "b") == [1]
    assert steps(target.received, "a") == [1, 2]


def test_promise_4_order_holds_between_workers_that_finish_at_different_times(store: SqlStore) -> None:
    target = ScriptedEndpoint()
    slow, quick = (a_bus(store, adapters={"target": target}, worker=f"worker:{name}") for name in ("slow", "quick"))
    slow.receive(a_step("a", 1), a_step("b", 1))
    lost = claim(store, queue=TRANSFORM, worker="worker:slow", limit=1)
    slow.receive(a_step("a", 2))

    quick.run_until_idle()
    meanwhile = steps(target.received, "a")
    store.bury_worker("worker:slow", actor=TEST)
    quick.run_until_idle()

    assert [c.stage for c in lost] == [Stage.TRANSFORM]
    assert meanwhile == []
    assert steps(target.received, "b") == [1]
    assert steps(target.received, "a") == [1, 2]


# --- blocked lanes ---------------------------------------------------------------------------------------------------


def test_promise_4_a_dead_delivery_blocks_its_key_and_no_other(store: SqlStore) -> None:
    target = ScriptedEndpoint(script={"order:a": [failing(PermanentFailure)]})
    bus = a_bus(store, adapters={"target": target})
    bus.receive(*(a_step(order, step) for step in (1, 2, 3) for order in "ab"))

    bus.run_until_idle()

    assert (steps(target.received, "a"), steps(target.received, "b")) == ([], [1, 2, 3])


def test_promise_4_a_blocked_lane_drains_in_order_after_the_replay(store: SqlStore) -> None:
    target = ScriptedEndpoint(script={"order:a": [failing(PermanentFailure)]})
    bus = a_bus(store, adapters={"target": target})
    bus.receive(*(a_step("a", step) for step in (3, 1, 2)))
    bus.run_until_idle()
    bus.receive(a_step("a", 0))

    replay([_dead(store)], store=store, catalogue=bus.catalogue, actor=TEST)
    bus.run_until_idle()

    assert steps(target.received, "a") == [3, 1, 2, 0]
    assert list(discrepancies(store)) == []


def test_promise_4_discarding_the_dead_one_lets_its_lane_go_on(store: SqlStore) -> None:
    target = ScriptedEndpoint(script={"order:a": [failing(PermanentFailure)]})
    bus = a_bus(store, adapters={"target": target})
    bus.receive(*(a_step("a", step) for step in (1, 2, 3)))
    bus.run_until_idle()

    store.move([_dead(store)], Event.DISCARD, expected=State.DEAD, actor=TEST)
    bus.run_until_idle()

    assert steps(target.received, "a") == [2, 3]


def test_promise_4_a_route_that_skips_its_dead_lets_later_ones_pass_and_replays_at_the_tail(store: SqlStore) -> None:
    skipping = Route(name="steps-skip", when=PLAIN.when, to="target", on_dead="skip")
    target = ScriptedEndpoint(script={"order:a": [failing(PermanentFailure)]})
    bus = a_bus(store, skipping, adapters={"target": target})
    bus.receive(*(a_step("a", step) for step in (1, 2)))
    bus.run_until_idle()
    passed = steps(target.received, "a")
    target.script["order:a"] = [failing(TransientFailure)]
    bus.receive(a_step("a", 3))
    bus.run_until_idle()

    replay([_dead(store)], store=store, catalogue=bus.catalogue, actor=TEST)
    _run_to_the_end(store, bus.run_until_idle)

    assert passed == [2]
    assert steps(target.received, "a") == [2, 3, 1]


def test_promise_4_a_repeat_of_a_finished_one_goes_to_the_tail(store: SqlStore) -> None:
    target = ScriptedEndpoint(script={"order:a": ["ok", failing(PermanentFailure)]})
    bus = a_bus(store, adapters={"target": target})
    bus.receive(*(a_step("a", step) for step in (1, 2, 3)))
    bus.run_until_idle()
    first = rows(store, t.delivery)[0].id

    replay([first], store=store, catalogue=bus.catalogue, actor=TEST)
    bus.run_until_idle()
    blocked = steps(target.received, "a")
    replay([_dead(store)], store=store, catalogue=bus.catalogue, actor=TEST)
    bus.run_until_idle()

    assert blocked == [1]
    assert steps(target.received, "a") == [1, 2, 3, 1]


def test_promise_4_a_lane_longer_than_a_batch_keeps_its_order(store: SqlStore) -> None:
    target = ScriptedEndpoint(script={"*": ["ok"] * 140 + [failing(TransientFailure)]})
    bus = a_bus(store, PLAIN, adapters={"target": target})
    bus.receive(*(a_step("a", step) for step in range(300)))

    _run_to_the_end(store, bus.run_until_idle)

    assert steps(target.received, "a") == list(range(300))


# --- splits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 2, 128])
def test_promise_4_the_parts_of_a_split_take_its_place(store: SqlStore, batch: int) -> None:
    target = ScriptedEndpoint(script={"order:a": ["ok", failing(TransientFailure)]})
    bus = a_bus(store, TO_TARGET, adapters={"target": target}, target=endpoint("target", batch=batch))
    bus.receive(a_step("a", 10, document={"parts": 3}), a_step("a", 1), a_step("a", 20, document={"parts": 2}))

    _run_to_the_end(store, bus.run_until_idle)

    assert steps(target.received, "a") == [10, 11, 12, 1, 20, 21]
    assert list(discrepancies(store)) == []


def test_promise_4_what_stands_behind_a_split_waits_for_its_last_part(store: SqlStore) -> None:
    target = ScriptedEndpoint(script={"order:a": ["ok", "ok", failing(PermanentFailure)]})
    bus = a_bus(store, TO_TARGET, adapters={"target": target})
    bus.receive(a_step("a", 10, document={"parts": 3}), a_step("a", 1))

    bus.run_until_idle()
    blocked = steps(target.received, "a")
    store.move([_dead(store)], Event.DISCARD, expected=State.DEAD, actor=TEST)
    bus.run_until_idle()

    assert blocked == [10, 11]
    assert steps(target.received, "a") == [10, 11, 1]


@transformer(takes="test.step.v1", makes="target.step.v1")
def second_is_bad(opened: Opened, context: TransformContext) -> Sequence[Outgoing]:
    """Three outputs, of which the second violates its contract."""
    good = Outgoing(type="target.step.v1", body=b'{"order":"a","step":1}')
    return [good, Outgoing(type="target.step.v1", body=b'{"order":"a"}'), good]


def test_promise_4_one_bad_part_kills_the_whole_delivery_and_blocks(store: SqlStore) -> None:
    target = ScriptedEndpoint()
    splitting = Route(name="steps-split-badly", when=on("test.step.v1"), to="target", transform=second_is_bad)
    bus = a_bus(store, splitting, adapters={"target": target})
    bus.receive(a_step("a", 1))

    bus.run_until_idle()
    (dead,) = rows(store, t.delivery)

    assert (dead.state, dead.cause) == ("DEAD", "transformer.output-invalid")
    assert "output 1" in dead.detail
    assert target.calls == []
    assert list(discrepancies(store)) == []


# --- re-entry --------------------------------------------------------------------------------------------------------


def test_promise_4_a_direct_message_does_not_overtake_a_native_one_that_a_worker_holds(store: SqlStore) -> None:
    target = ScriptedEndpoint()
    bus = a_bus(store, adapters={"target": target})
    bus.receive(a_native_step("a", 1, document={"parts": 2}), a_native_step("b", 1))
    paused = claim(store, queue=TRANSFORM, worker="worker:paused", limit=1)

    bus.receive(a_step("a", 7), a_step("c", 1))
    bus.run_until_idle()
    meanwhile = list(target.received)
    store.bury_worker("worker:paused", actor=TEST)
    bus.run_until_idle()

    assert [c.destination for c in paused] == [BUS]
    assert steps(meanwhile, "a") == []
    assert (steps(meanwhile, "b"), steps(meanwhile, "c")) == ([1], [1])
    assert steps(target.received, "a") == [1, 2, 7]
    assert list(discrepancies(store)) == []


@dataclass
class Gate:
    """A transform that stops in the middle until it may go on."""

    entered: threading.Event = field(default_factory=threading.Event)
    may_go_on: threading.Event = field(default_factory=threading.Event)

    def route(self) -> Route:
        @transformer(takes="native.step.v1", makes="test.step.v1")
        def pause_and_make_canonical(opened: Opened, context: TransformContext) -> Outgoing | Sequence[Outgoing]:
            self.entered.set()
            assert self.may_go_on.wait(30)
            return make_canonical(opened, context)

        return Route(name="steps-become-canonical", when=TO_BUS.when, to=BUS, transform=pause_and_make_canonical)


def test_promise_4_a_direct_message_accepted_while_a_native_one_is_transformed_comes_second(store: SqlStore) -> None:
    target, gate = ScriptedEndpoint(), Gate()
    slow, bus = (
        a_bus(store, gate.route(), TO_TARGET, adapters={"target": target}, worker=f"worker:{name}")
        for name in ("slow", "quick")
    )
    bus.receive(a_native_step("a", 1))
    transforming = threading.Thread(target=slow.work, args=(TRANSFORM,))
    transforming.start()
    gate.entered.wait(30)

    bus.receive(a_step("a", 7), a_native_step("a", 2))
    bus.run_until_idle()
    meanwhile = list(target.received)
    gate.may_go_on.set()
    transforming.join()
    bus.run_until_idle()

    assert meanwhile == []
    assert steps(target.received, "a") == [1, 7, 2]


def test_promise_4_native_and_direct_messages_of_one_batch_keep_their_order(store: SqlStore) -> None:
    target = ScriptedEndpoint()
    bus = a_bus(store, adapters={"target": target})

    bus.receive(
        a_step("a", 10),
        a_native_step("a", 20, document={"parts": 2}),
        a_step("a", 30),
        a_native_step("a", 40),
        a_step("a", 50),
    )
    bus.run_until_idle()

    assert steps(target.received, "a") == [10, 20, 21, 30, 40, 50]


def test_promise_4_a_native_message_that_dies_holds_what_came_after_it(store: SqlStore) -> None:
    target = ScriptedEndpoint()
    bus = a_bus(store, adapters={"target": target})
    bus.receive(a_native_step("broken", 1), a_step("broken", 7), a_step("b", 1))

    bus.run_until_idle()
    blocked = list(target.received)
    store.move([_dead(store)], Event.DISCARD, expected=State.DEAD, actor=TEST)
    bus.run_until_idle()

    assert steps(blocked, "broken") == []
    assert steps(blocked, "b") == [1]
    assert steps(target.received, "broken") == [7]
    assert list(discrepancies(store)) == []


@pytest.mark.parametrize("order", ["4711", "0004711", " 4711"])
def test_promise_4_one_order_is_one_lane_however_it_is_written(store: SqlStore, order: str) -> None:
    target = ScriptedEndpoint()
    bus = a_bus(store, adapters={"target": target})
    bus.receive(a_native_step("04711", 1))
    claim(store, queue=TRANSFORM, worker="worker:paused")

    bus.receive(a_step(order, 7))
    bus.run_until_idle()

    assert target.received == []


def test_promise_4_a_message_without_routes_that_queued_up_ends_unrouted(store: SqlStore) -> None:
    bus = a_bus(store)
    bus.receive(a_native_step("a", 1))
    claim(store, queue=TRANSFORM, worker="worker:paused")
    bus.receive(a_step("a", 404))

    store.bury_worker("worker:paused", actor=TEST)
    bus.run_until_idle()

    assert list(discrepancies(store)) == []
    assert {(row.planned, row.entering) for row in rows(store, t.message) if row.message_id == "a-404"} == {(0, 0)}


def _dead(store: SqlStore) -> int:
    (dead,) = (row.id for row in rows(store, t.delivery) if row.state == State.DEAD)
    return int(dead)


def test_promise_4_unordered_deliveries_wait_for_nobody(store: SqlStore) -> None:
    unordered = Route(name="steps-unordered", when=PLAIN.when, to="target", key=None)
    target = ScriptedEndpoint(script={"order:a": [failing(PermanentFailure)]})
    bus = a_bus(store, unordered, adapters={"target": target})
    bus.receive(*(a_step("a", step) for step in (1, 2, 3)))

    bus.run_until_idle()

    assert steps(target.received, "a") == [2, 3]
    assert claim(store, queue=SEND) == []
