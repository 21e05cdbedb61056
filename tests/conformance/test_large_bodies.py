"""Large bodies stay in the store until their turn comes (Claim Check): what is carried, brought, proved and let go."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from sqlalchemy import delete, update

from bus.errors import DeliveryFailure, Exchange, PermanentFailure, StoreUnavailable
from bus.model.delivery import Outcome, State, release, succeed
from bus.model.message import Message, Opened, Outgoing
from bus.model.route import Route
from bus.model.transformer import TransformContext, transformer
from bus.pipeline.replay import replay
from bus.pipeline.settle import Ended
from bus.pipeline.worker import PORTION, portions
from bus.ports import Answer, Batch, Claimed, Finding, Parcel, Settled
from bus.store import tables as t
from bus.store.bodies import CARRIED, CARRIED_TOGETHER
from bus.store.failures import delivery_detail
from bus.store.follow import message_detail
from bus.store.schema import upgrade
from bus.store.sqlstore import SqlStore
from bus.testing import ScriptedEndpoint, ScriptedMany
from tests.conformance.books import discrepancies, rows, states
from tests.conformance.large_bodies import MEGABYTE, WHOLE, a_large_step
from tests.conformance.older import as_of
from tests.conformance.stages import PLAIN, TEST, a_bus, an_attempt, claim, doubt, keep, retry
from tests.small_project import SOON, TO_BUS, a_native_step, a_step

TRANSFORM = "transform.transaction"
A_BIT = CARRIED + 1


def notes(bodies: Sequence[bytes]) -> list[tuple[str, int]]:
    """Of each body its order, and how long its note is."""
    return [(document["order"], len(document.get("note", ""))) for document in map(json.loads, bodies)]


def dead(store: SqlStore) -> list[str]:
    """The causes of what is dead."""
    return [row.cause for row in rows(store, t.delivery) if row.state == State.DEAD]


# --- what a claim carries --------------------------------------------------------------------------------------------


def test_a_large_body_stays_in_the_store_until_it_is_asked_for(store: SqlStore) -> None:
    message = a_large_step(size=A_BIT)
    keep(store, message)

    (claimed,) = claim(store)

    assert claimed.kept.message.body == b""
    assert claimed.kept.check is not None
    assert claimed.size == claimed.kept.check.size == len(message.body)
    assert store.message_of(claimed).body == message.body


def test_a_small_body_comes_with_its_claim(store: SqlStore) -> None:
    message = a_step(document={"note": "x" * (CARRIED - 100)})
    keep(store, message)

    (claimed,) = claim(store)

    assert claimed.kept.check is None
    assert claimed.kept.message.body == message.body
    assert claimed.size == len(message.body)


def test_what_one_claim_carries_is_bounded(store: SqlStore) -> None:
    sent = [a_large_step(f"{number}", number, size=CARRIED - 1000) for number in range(24)]
    keep(store, *sent)

    claimed = claim(store, limit=24)

    assert sum(len(c.kept.message.body) for c in claimed) <= CARRIED_TOGETHER
    assert [store.message_of(c).body for c in claimed] == [message.body for message in sent]


# --- from end to end -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [ScriptedEndpoint, ScriptedMany])
def test_large_and_small_messages_arrive_whole_and_in_order(
    store: SqlStore, target: Callable[[], ScriptedEndpoint]
) -> None:
    endpoint = target()
    bus = a_bus(store, WHOLE, adapters={"target": endpoint})
    bus.receive(a_large_step("a", 1), a_step("a", 2), a_large_step("b", 1), a_large_step("a", 3), a_step("c", 1))

    bus.run_until_idle()

    by_order: dict[str, list[int]] = {}
    for order, length in notes(endpoint.received):
        by_order.setdefault(order, []).append(length)
    assert by_order == {"a": [MEGABYTE, 0, MEGABYTE], "b": [MEGABYTE], "c": [0]}
    assert set(states(store)) == {State.DELIVERED}
    assert list(discrepancies(store)) == []


@transformer(takes="native.step.v1", makes="test.step.v1")
def whole_parts(opened: Opened, context: TransformContext) -> list[Outgoing]:
    """Two canonical steps of the whole document."""
    parts = [{**opened.document, "step": step} for step in (1, 2)]
    return [Outgoing(type="test.step.v1", body=json.dumps(part).encode()) for part in parts]


def test_a_large_native_message_enters_again_whole(store: SqlStore) -> None:
    enters = Route(name="whole-steps-enter", when=TO_BUS.when, to="bus", transform=whole_parts, retry=SOON)
    endpoint = ScriptedEndpoint()
    bus = a_bus(store, enters, PLAIN, adapters={"target": endpoint})
    bus.receive(a_native_step("a", document={"note": "x" * MEGABYTE}), a_large_step("a", 3))

    bus.run_until_idle()

    assert notes(endpoint.received) == [("a", MEGABYTE)] * 3
    assert list(discrepancies(store)) == []


def test_the_parts_of_a_large_message_are_sent_whole(store: SqlStore) -> None:
    splits = Route(name="whole-steps-split", when=TO_BUS.when, to="target", transform=whole_parts, retry=SOON)
    endpoint = ScriptedEndpoint()
    bus = a_bus(store, splits, adapters={"target": endpoint})
    bus.receive(a_native_step("a", document={"note": "x" * MEGABYTE}))

    bus.run_until_idle()

    assert notes(endpoint.received) == [("a", MEGABYTE)] * 2


def test_a_large_message_is_retried_repeated_and_transformed_anew(store: SqlStore) -> None:
    endpoint = ScriptedEndpoint(script={"*": [PermanentFailure("target.refused")]})
    bus = a_bus(store, WHOLE, adapters={"target": endpoint})
    bus.receive(a_large_step("a", 1))
    bus.run_until_idle()

    replay([1], store=store, catalogue=bus.catalogue, actor=TEST, retransform=True)
    bus.run_until_idle()
    replay([1], store=store, catalogue=bus.catalogue, actor=TEST)
    bus.run_until_idle()

    assert notes(endpoint.received) == [("a", MEGABYTE)] * 2
    assert list(discrepancies(store)) == []


def test_a_doubt_about_a_large_message_is_asked_with_all_of_it(store: SqlStore) -> None:
    asked: list[int] = []

    class Asked(ScriptedEndpoint):
        def probe(self, parcel: Parcel) -> Finding:
            asked.append(len(parcel.message.body))
            return super().probe(parcel)

    bus = a_bus(store, PLAIN, adapters={"target": Asked()})
    message = a_large_step("a", 1)
    keep(store, message)
    (claimed,) = claim(store)
    bus.shift.settle([Ended(Settled(claimed=claimed, outcome=doubt(), attempt=an_attempt(claimed, doubt())))])

    bus.run_until(lambda: set(states(store)) == {State.DELIVERED})

    assert set(asked) == {len(message.body)}


def test_a_large_body_is_shown_whole(store: SqlStore) -> None:
    message = a_large_step("a", 1)
    a_bus(store, WHOLE).receive(message)
    a_bus(store, WHOLE).work(TRANSFORM)

    assert message_detail(store.database, 1).message.body == message.body
    detail = delivery_detail(store.database, 1)
    assert detail.output is not None
    assert notes([detail.output[2]]) == [("a", MEGABYTE)]


def test_what_was_made_before_digests_were_noted_is_sent_after_the_upgrade(store: SqlStore, other_address: str) -> None:
    bus = a_bus(store, WHOLE)
    bus.receive(a_large_step("a", 1), a_step("b", 1))
    bus.work(TRANSFORM)
    old = as_of("0001", store, other_address)
    endpoint = ScriptedEndpoint()

    upgrade(old.database)
    a_bus(old, WHOLE, adapters={"target": endpoint}).run_until_idle()

    assert sorted(notes(endpoint.received)) == [("a", MEGABYTE), ("b", 0)]
    assert list(discrepancies(old)) == []
    old.close()


# --- proof -----------------------------------------------------------------------------------------------------------


def _do(store: SqlStore, statement: object) -> None:
    with store.transaction() as transaction:
        transaction.execute(statement)


def test_a_large_body_that_was_altered_kills_its_delivery_and_no_other(store: SqlStore) -> None:
    endpoint = ScriptedEndpoint()
    bus = a_bus(store, WHOLE, adapters={"target": endpoint})
    bus.receive(a_large_step("a", 1), a_large_step("b", 1))
    _do(store, update(t.message).where(t.message.c.id == 1).values(body=a_large_step("a", 2).body))

    bus.run_until_idle()

    assert notes(endpoint.received) == [("b", MEGABYTE)]
    assert dead(store) == ["body.altered"]


@pytest.mark.parametrize("target", [ScriptedEndpoint, ScriptedMany, lambda: ScriptedEndpoint(remembers_keys=False)])
def test_a_large_output_that_was_altered_is_not_sent(store: SqlStore, target: Callable[[], ScriptedEndpoint]) -> None:
    endpoint = target()
    bus = a_bus(store, WHOLE, adapters={"target": endpoint})
    bus.receive(a_large_step("a", 1), a_large_step("b", 1))
    bus.work(TRANSFORM)
    _do(store, update(t.output).where(t.output.c.delivery == 1).values(body=a_large_step("a", 2).body))

    bus.run_until_idle()

    assert notes(endpoint.received) == [("b", MEGABYTE)]
    assert dead(store) == ["body.altered"]
    assert list(discrepancies(store)) == []


class LosesOutputs(SqlStore):
    """Somebody deletes all outputs between each claim and the turn of what was claimed."""

    def claim(self, queue: str, *, worker: str, token: str, limit: int) -> Batch:
        batch = super().claim(queue, worker=worker, token=token, limit=limit)
        _do(self, delete(t.output))
        return batch


def test_a_large_output_that_is_missing_kills_its_delivery(store: SqlStore) -> None:
    endpoint = ScriptedEndpoint()
    bus = a_bus(store, WHOLE)
    bus.receive(a_large_step("a", 1))
    bus.work(TRANSFORM)

    a_bus(LosesOutputs(store.database), WHOLE, adapters={"target": endpoint}).work("send.target")

    assert endpoint.calls == []
    assert dead(store) == ["body.missing"]


class AwayForABody(SqlStore):
    """Is away when a message's body is to be brought, the first few times."""

    times = 1
    stops: Callable[[], None] | None = None

    def message_of(self, claimed: Claimed) -> Message:
        if self.times:
            self.times -= 1
            if self.stops is not None:
                self.stops()
            raise StoreUnavailable("the store is away")
        return super().message_of(claimed)


@pytest.mark.parametrize("route", [WHOLE, PLAIN])
def test_promise_7_a_body_is_waited_for_while_the_store_is_away(store: SqlStore, route: Route) -> None:
    endpoint = ScriptedEndpoint()
    bus = a_bus(AwayForABody(store.database), route, adapters={"target": endpoint})
    bus.receive(a_large_step("a", 1))

    bus.run_until_idle()

    assert notes(endpoint.received) == [("a", MEGABYTE)]


@pytest.mark.parametrize(("route", "queue"), [(WHOLE, TRANSFORM), (PLAIN, "send.target")])
def test_promise_7_a_stop_while_a_body_is_waited_for_blames_no_delivery(
    store: SqlStore, route: Route, queue: str
) -> None:
    away = AwayForABody(store.database)
    bus = a_bus(away, route)
    away.stops = bus.stop.set
    bus.receive(a_large_step("a", 1))

    with pytest.raises(StoreUnavailable):
        bus.work(queue)
    bus.shift.tend()

    assert states(store) == [State.READY]


# --- what is held at a time ------------------------------------------------------------------------------------------


class Watching(ScriptedEndpoint):
    """Notes at each call how many deliveries the store knows to be delivered."""

    def __init__(self, store: SqlStore) -> None:
        super().__init__()
        self.store = store
        self.delivered: list[int] = []

    def send(self, parcel: Parcel) -> Answer:
        self.delivered.append(states(self.store).count(State.DELIVERED))
        return super().send(parcel)


def test_large_messages_are_settled_before_the_batch_is_through(store: SqlStore) -> None:
    endpoint = Watching(store)
    bus = a_bus(store, PLAIN, adapters={"target": endpoint})
    bus.receive(*(a_large_step(f"{number}", number) for number in range(12)))

    bus.work("send.target")

    assert len(endpoint.delivered) == 12
    assert endpoint.delivered[-1] >= 10
    assert set(states(store)) == {State.DELIVERED}


def test_small_messages_are_settled_together(store: SqlStore) -> None:
    endpoint = Watching(store)
    bus = a_bus(store, PLAIN, adapters={"target": endpoint})
    bus.receive(*(a_step(f"{number}", number) for number in range(12)))

    bus.work("send.target")

    assert endpoint.delivered == [0] * 12


class Counting(ScriptedMany):
    """Notes the size of each flight."""

    def __init__(self) -> None:
        super().__init__()
        self.flights: list[int] = []

    def send_many(self, parcels: Sequence[Parcel]) -> list[Answer | DeliveryFailure]:
        self.flights.append(sum(len(parcel.message.body) for parcel in parcels))
        return super().send_many(parcels)


def test_what_is_sent_together_is_bounded_in_bytes(store: SqlStore) -> None:
    endpoint = Counting()
    bus = a_bus(store, PLAIN, adapters={"target": endpoint})
    bus.receive(*(a_large_step(f"{number}", number) for number in range(10)))

    bus.run_until_idle()

    assert len(endpoint.received) == 10
    assert max(endpoint.flights) < 2 * MEGABYTE


def test_small_messages_are_sent_together(store: SqlStore) -> None:
    endpoint = Counting()
    bus = a_bus(store, PLAIN, adapters={"target": endpoint})
    bus.receive(*(a_step(f"{number}", number, document={"note": "x" * 20_000}) for number in range(100)))

    bus.work("send.target")

    assert len(endpoint.flights) == 1


def _ended(claimed: Claimed, outcome: Outcome, *, size: int) -> Ended:
    attempt = replace(an_attempt(claimed, outcome), exchange=Exchange(sent=b"x" * size))
    return Ended(Settled(claimed=claimed, outcome=outcome, attempt=attempt))


def test_what_is_given_back_behind_a_failure_is_settled_with_it(store: SqlStore) -> None:
    keep(store, *(a_step(order, number) for number, order in enumerate("aaabb")))
    a1, a2, a3, b1, b2 = claim(store)
    ended = [
        _ended(a1, retry(), size=PORTION),
        Ended(Settled(claimed=a2, outcome=release())),
        Ended(Settled(claimed=a3, outcome=release())),
        _ended(b1, succeed(), size=PORTION),
        _ended(b2, succeed(), size=PORTION),
    ]

    assert list(portions(ended)) == [ended[:3], ended[3:4], ended[4:]]


@pytest.mark.parametrize("adapter", ["one", "many"])
def test_a_workers_memory_does_not_grow_with_a_backlog_of_large_messages(
    store: SqlStore, address: str, adapter: str
) -> None:
    bus = a_bus(store, WHOLE)
    count = 64
    for number in range(count):
        bus.receive(a_large_step(f"{number}", number))

    worker = [sys.executable, "-m", "tests.conformance.large_bodies", address, adapter]
    grown = int(subprocess.run(worker, capture_output=True, text=True, check=True).stdout)

    assert set(states(store)) == {State.DELIVERED}
    # With all bodies of a batch in memory, it would be those of the messages and of what is made of them.
    assert grown < count * MEGABYTE
