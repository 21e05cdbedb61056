"""Promise 5 of the bus: an endpoint that remembers keys books once; any other gets no blind repeat."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import pytest

from bus.errors import DeliveryFailure, EndpointDown, OutcomeUnknown, PermanentFailure, TransientFailure
from bus.model.delivery import Event, State
from bus.model.system import Endpoint
from bus.ports import Answer, Finding, Parcel
from bus.store import tables as t
from bus.store.sqlstore import SqlStore
from bus.testing import DirectBus, ScriptedEndpoint
from tests.conformance.books import discrepancies, rows, states, steps
from tests.conformance.stages import PLAIN, SEND, TEST, a_bus, claim, failing, now_due
from tests.small_project import SOON, a_step, endpoint

HOUR = timedelta(hours=1)
BOOKED_AND_LOST = failing(OutcomeUnknown, "book-then-lose")
LOST = failing(OutcomeUnknown, "outcome.timeout")


@dataclass
class MuteEndpoint(ScriptedEndpoint):
    """One that gives a probe no answer."""

    probes: int = 0

    def probe(self, parcel: Parcel) -> Finding:
        self.probes += 1
        raise TransientFailure("target.busy", "ask me later")


class Unprobed:
    """An adapter whose target cannot be asked."""

    remembers_keys = False

    def __init__(self) -> None:
        self.target = ScriptedEndpoint(remembers_keys=False, script={"*": [LOST]})

    def send(self, parcel: Parcel) -> Answer:
        return self.target.send(parcel)

    def close(self) -> None:
        self.target.close()


def _doubted(store: SqlStore, target: ScriptedEndpoint, served: Endpoint | None = None) -> DirectBus:
    """Two steps of one order, of which the first is in doubt."""
    bus = a_bus(store, PLAIN, adapters={"target": target}, target=served or endpoint("target"))
    bus.receive(a_step("a", 1), a_step("a", 2))
    bus.run_until_idle()
    assert states(store) == [State.IN_DOUBT, State.WAITING]
    return bus


def _first(store: SqlStore) -> int:
    return int(rows(store, t.delivery)[0].id)


# --- an endpoint that remembers --------------------------------------------------------------------------------------


def test_promise_5_an_endpoint_that_remembers_gets_it_again_and_books_once(store: SqlStore) -> None:
    target = ScriptedEndpoint(script={"*": [BOOKED_AND_LOST, LOST]})
    bus = a_bus(store, PLAIN, adapters={"target": target})
    bus.receive(a_step("a", 1), a_step("a", 2))

    bus.run_until(lambda: set(states(store)) == {State.DELIVERED})

    assert len(target.calls) == 4
    assert len(set(target.calls)) == 2
    assert steps(target.received, "a") == [1, 2]


def test_promise_5_a_kill_in_mid_call_is_repeated_where_it_is_remembered(store: SqlStore) -> None:
    target = ScriptedEndpoint()
    bus = a_bus(store, PLAIN, adapters={"target": target})
    bus.receive(a_step("a", 1))
    (claimed,) = claim(store, worker="worker:dead")
    target.send(Parcel(message=claimed.kept.message, key=claimed.key))
    store.bury_worker("worker:dead", actor=TEST)

    bus.run_until_idle()

    assert states(store) == [State.DELIVERED]
    assert len(target.calls) == 2
    assert steps(target.received, "a") == [1]


# --- any other -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("failure", [BOOKED_AND_LOST, LOST])
def test_promise_5_no_blind_repeat_where_nothing_is_remembered(store: SqlStore, failure: DeliveryFailure) -> None:
    target = ScriptedEndpoint(remembers_keys=False, script={"*": [failure]})
    bus = _doubted(store, target)

    bus.run_until_idle()
    store.wake_due(limit=100)
    bus.run_until_idle()

    assert len(target.calls) == 1


def test_promise_5_an_adapter_that_raises_anything_else_leaves_a_doubt(store: SqlStore) -> None:
    class Broken(ScriptedEndpoint):
        def send(self, parcel: Parcel) -> Answer:
            super().send(parcel)
            raise KeyError("d")

    target = Broken(remembers_keys=False)

    _doubted(store, target)

    assert rows(store, t.delivery)[0].cause == "adapter.raised"
    assert len(target.calls) == 1


@pytest.mark.real_pauses
def test_promise_5_what_was_found_is_delivered_with_its_document_and_not_sent_again(store: SqlStore) -> None:
    target = ScriptedEndpoint(remembers_keys=False, script={"*": [BOOKED_AND_LOST]})
    bus = _doubted(store, target)

    now_due(store)
    bus.run_until_idle()

    assert steps(target.received, "a") == [1, 2]
    assert [(row.state, row.document) for row in rows(store, t.delivery)] == [("DELIVERED", "D1"), ("DELIVERED", "D2")]
    assert "probe: found" in [row.outcome for row in rows(store, t.attempt)]


def test_promise_5_what_is_absent_after_a_while_is_sent_again(store: SqlStore) -> None:
    target = ScriptedEndpoint(remembers_keys=False, script={"*": [LOST]})
    bus = _doubted(store, target)

    now_due(store)
    bus.run_until(lambda: set(states(store)) == {State.DELIVERED})

    assert steps(target.received, "a") == [1, 2]
    assert len(target.calls) == 3
    assert "probe: absent" in [row.outcome for row in rows(store, t.attempt)]


def test_promise_5_absent_does_not_count_before_a_booking_would_be_visible(store: SqlStore) -> None:
    target = ScriptedEndpoint(remembers_keys=False, script={"*": [LOST]})
    bus = _doubted(store, target, endpoint("target", visible_after=HOUR))

    now_due(store)
    bus.run_until_idle()
    (doubt, _) = rows(store, t.delivery)

    assert doubt.state == "IN_DOUBT"
    assert len(target.calls) == 1
    assert [row.outcome for row in rows(store, t.attempt)] == ["doubt", "probe: absent"]
    assert doubt.due_at > doubt.changed_at + HOUR - timedelta(minutes=1)


def test_promise_5_found_counts_at_once(store: SqlStore) -> None:
    target = ScriptedEndpoint(remembers_keys=False, script={"*": [BOOKED_AND_LOST]})
    bus = _doubted(store, target, endpoint("target", visible_after=HOUR))

    now_due(store)
    bus.run_until_idle()

    assert set(states(store)) == {State.DELIVERED}
    assert steps(target.received, "a") == [1, 2]


def test_promise_5_no_answer_leaves_it_in_doubt_and_is_asked_for_again_later(store: SqlStore) -> None:
    target = MuteEndpoint(remembers_keys=False, script={"*": [LOST]})
    bus = _doubted(store, target)

    for _ in range(3):
        now_due(store)
        bus.run_until_idle()

    assert target.probes == 3
    assert len(target.calls) == 1
    assert states(store) == [State.IN_DOUBT, State.WAITING]
    assert [row.outcome for row in rows(store, t.attempt)] == ["doubt"] + ["probe: no answer"] * 3


def test_promise_5_a_target_that_cannot_be_asked_leaves_it_to_a_person(store: SqlStore) -> None:
    adapter = Unprobed()
    bus = a_bus(store, PLAIN, adapters={"target": adapter})
    bus.receive(a_step("a", 1))
    bus.run_until_idle()

    asked = store.queues_with_work(queues=[SEND], older_than=timedelta(0))
    store.settle_doubt(_first(store), Event.FOUND, actor=TEST, document="4711")

    assert asked == set()
    assert [(row.state, row.document) for row in rows(store, t.delivery)] == [("DELIVERED", "4711")]
    assert len(adapter.target.calls) == 1


def test_promise_5_what_a_killed_worker_was_sending_is_probed(store: SqlStore) -> None:
    target = ScriptedEndpoint(remembers_keys=False)
    bus = a_bus(store, PLAIN, adapters={"target": target})
    bus.receive(a_step("a", 1))
    (claimed,) = claim(store, worker="worker:dead")
    store.mark_sending(claimed.id, claimed.token)
    target.send(Parcel(message=claimed.kept.message, key=claimed.key))
    store.bury_worker("worker:dead", actor=TEST)

    bus.run_until_idle()
    now_due(store)
    bus.run_until_idle()

    assert states(store) == [State.DELIVERED]
    assert len(target.calls) == 1


def test_promise_5_a_worker_that_may_be_held_dead_calls_nobody(store: SqlStore) -> None:
    target = ScriptedEndpoint(remembers_keys=False)
    bus = a_bus(store, PLAIN, adapters={"target": target})
    bus.receive(a_step("a", 1))

    bus.alive = False
    bus.run_until_idle()
    idle = list(target.calls)
    bus.alive = True
    bus.run_until_idle()

    assert idle == []
    assert steps(target.received, "a") == [1]


def test_promise_5_a_worker_that_loses_its_beat_in_mid_batch_gives_the_rest_back(store: SqlStore) -> None:
    class Stopping(ScriptedEndpoint):
        def send(self, parcel: Parcel) -> Answer:
            bus.alive = False
            return super().send(parcel)

    target = Stopping(remembers_keys=False)
    bus = a_bus(store, PLAIN, adapters={"target": target})
    bus.receive(a_step("a", 1), a_step("b", 1))

    bus.work(SEND)

    assert len(target.calls) == 1
    assert states(store) == [State.DELIVERED, State.READY]


@pytest.mark.real_pauses
@pytest.mark.parametrize("kind", [TransientFailure, EndpointDown])
def test_promise_5_what_surely_did_not_happen_is_sent_again(store: SqlStore, kind: type[DeliveryFailure]) -> None:
    target = ScriptedEndpoint(remembers_keys=False, script={"*": [failing(kind)]})
    bus = a_bus(store, PLAIN, adapters={"target": target})
    bus.receive(a_step("a", 1))

    bus.run_until(lambda: states(store) == [State.DELIVERED])

    assert len(target.calls) == 2
    assert steps(target.received, "a") == [1]


def test_promise_5_a_refusal_is_never_repeated(store: SqlStore) -> None:
    target = ScriptedEndpoint(script={"*": [PermanentFailure("target.422", "no such material")]})
    bus = a_bus(store, PLAIN, adapters={"target": target})
    bus.receive(a_step("a", 1))

    bus.run_until_idle()
    (dead,) = rows(store, t.delivery)

    assert (dead.state, dead.cause, dead.detail) == ("DEAD", "target.422", "no such material")
    assert len(target.calls) == 1


def test_promise_5_retries_end(store: SqlStore) -> None:
    target = ScriptedEndpoint(script={"*": [failing(TransientFailure)] * 100})
    bus = a_bus(store, PLAIN, adapters={"target": target})
    bus.receive(a_step("a", 1))

    bus.run_until(lambda: states(store) == [State.DEAD])

    assert len(target.calls) == SOON.max_attempts
    assert [row.number for row in rows(store, t.attempt)] == list(range(1, SOON.max_attempts + 1))
    assert list(discrepancies(store)) == []
