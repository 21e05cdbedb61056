"""Who owns what: claims nobody works on, doubts that are old, workers that still beat, queues nobody asked for."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from datetime import timedelta

import pytest
from sqlalchemy import update

from bus.errors import EndpointDown, StoreUnavailable
from bus.model.delivery import Event, Outcome, State
from bus.model.message import BUS, Opened, Outgoing
from bus.model.predicate import on
from bus.model.route import Route
from bus.model.transformer import TransformContext, transformer
from bus.pipeline.resume import Heart, Relay
from bus.ports import Answer, Batch, Claimed, Finding, Parcel
from bus.store import tables as t
from bus.store.sqlstore import SqlStore
from bus.testing import RecordedTelemetry, ScriptedEndpoint
from tests.conformance.books import rows, states
from tests.conformance.stages import PLAIN, SEND, TEST, a_bus, claim, end, keep_steps
from tests.small_project import SOON, TO_BUS, a_native_step, a_step, steps_of

DOUBT = Outcome(event=Event.DOUBT, cause="outcome.timeout", due_in=timedelta(0))
DOWN = EndpointDown("endpoint.refused-connection", "nobody listens")


def _into_doubt(store: SqlStore) -> Claimed:
    (claimed,) = claim(store)
    assert store.mark_sending(claimed.id, claimed.token)
    end(store, [claimed], DOUBT)
    return claimed


def test_a_finding_about_an_older_doubt_settles_nothing(store: SqlStore) -> None:
    keep_steps(store, "1")
    first = _into_doubt(store)
    store.settle_doubt(first.id, Event.ABSENT, actor=TEST)
    _into_doubt(store)

    store.settle_doubt(first.id, Event.ABSENT, actor=TEST, of_claim=first.token)

    assert states(store) == [State.IN_DOUBT]


def test_a_claim_whose_answer_was_lost_is_given_back_and_held_against_no_delivery(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_steps(store, "1", "2")
    bus = a_bus(store, PLAIN)
    real = store.claim

    def lost(queue: str, *, worker: str, token: str, limit: int) -> Batch:
        real(queue, worker=worker, token=token, limit=limit)
        raise StoreUnavailable("the connection was lost after the commit")

    monkeypatch.setattr(store, "claim", lost)
    with pytest.raises(StoreUnavailable):
        bus.work(SEND)
    assert states(store) == [State.CLAIMED, State.CLAIMED]

    bus.shift.tend()

    assert states(store) == [State.READY, State.READY]
    assert [row.deaths for row in rows(store, t.delivery)] == [0, 0]


def test_a_batch_that_ended_with_an_error_is_given_back(store: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    keep_steps(store, "1")
    bus = a_bus(store, PLAIN)

    def broken(self: object, ended: object, **options: object) -> None:
        raise RuntimeError("not expected")

    monkeypatch.setattr(type(bus.shift), "settle", broken)
    with pytest.raises(RuntimeError):
        bus.work(SEND)

    bus.shift.tend()

    assert states(store) == [State.READY]
    assert [row.deaths for row in rows(store, t.delivery)] == [1]


def test_what_is_being_worked_on_is_left_alone(store: SqlStore) -> None:
    keep_steps(store, "1")
    bus = a_bus(store, PLAIN)

    with bus.shift.claim(SEND) as batch:
        bus.shift.tend()

        assert len(batch.claimed) == 1
        assert states(store) == [State.CLAIMED]


def test_a_claim_made_while_the_worker_looks_after_lost_ones_is_left_alone(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_steps(store, "1")
    bus = a_bus(store, PLAIN)
    real = store.claims_of
    with contextlib.ExitStack() as meanwhile:

        def look(worker: str) -> set[str]:
            meanwhile.enter_context(bus.shift.claim(SEND))
            return real(worker)

        monkeypatch.setattr(store, "claims_of", look)
        bus.shift.tend()

        assert states(store) == [State.CLAIMED]


def test_a_worker_that_beats_after_it_was_looked_at_is_not_buried(store: SqlStore) -> None:
    keep_steps(store, "1")
    heart = Heart(store=store, name="worker:1", clock=lambda: timedelta(0))
    heart.start()
    claim(store, worker="worker:1")
    seen = store.leases()["worker:1"]
    assert store.beat("worker:1", "worker:1")

    taken = store.end_lease("worker:1", seen=seen)

    assert not taken
    assert store.workers_without_lease() == set()


def test_a_worker_that_stands_still_is_buried_and_its_lease_ended(store: SqlStore) -> None:
    keep_steps(store, "1")
    now = timedelta(0)
    Heart(store=store, name="worker:1", clock=lambda: now).start()
    claim(store, worker="worker:1")
    relay = Relay(
        store=store,
        wake=lambda queues: None,
        without_hints=set,
        queues=(SEND,),
        telemetry=RecordedTelemetry(),
        name="relay:1",
        clock=lambda: now,
    )

    for _ in range(8):
        relay.round()
        now += timedelta(seconds=3)

    assert states(store) == [State.READY]
    assert "worker:1" not in store.leases()


def test_queues_nobody_asked_for_are_not_returned(store: SqlStore) -> None:
    keep_steps(store, "1")
    _into_doubt(store)
    store.trip("gone", cause="endpoint.dns", detail="", check_in=timedelta(0), actor=TEST)

    found = store.queues_with_work(queues=("send.archive",), older_than=timedelta(0))

    assert found == set()


class DeadProbe(ScriptedEndpoint):
    """Its target cannot be reached by probes either."""

    def probe(self, parcel: Parcel) -> Finding:
        self.calls.append("probe")
        raise DOWN


def test_probes_of_a_dead_endpoint_do_not_grow_with_its_doubts(store: SqlStore) -> None:
    keep_steps(store, *map(str, range(20)))
    target = DeadProbe(remembers_keys=False)
    bus = a_bus(store, PLAIN, adapters={"target": target})
    claimed = claim(store)
    for each in claimed:
        store.mark_sending(each.id, each.token)
    end(store, claimed, DOUBT)

    bus.work(SEND)
    bus.work(SEND)

    assert target.calls == ["probe"]
    assert store.endpoint("target").state == "tripped"


class Unchecked:
    """A target that is down, behind an adapter that cannot check."""

    remembers_keys = True

    def __init__(self) -> None:
        self.calls = 0

    def send(self, parcel: Parcel) -> Answer:
        self.calls += 1
        raise DOWN

    def close(self) -> None:
        self.calls = 0


def test_an_endpoint_that_cannot_be_checked_is_not_opened_without_a_trial(store: SqlStore) -> None:
    keep_steps(store, *["1"] * 60)
    target = Unchecked()
    bus = a_bus(store, PLAIN, adapters={"target": target})
    bus.work(SEND)

    for trial in range(1, 5):
        with store.database.write() as connection:
            connection.execute(update(t.endpoint).values(check_at=None))
        bus.work(SEND)

        assert target.calls == 1 + trial
        assert store.endpoint("target").state == "tripped"


@transformer(takes="native.step.v1", makes="test.step.v1")
def about_another_order(opened: Opened, context: TransformContext) -> Sequence[Outgoing]:
    """Order A's step becomes one of order B."""
    body = json.dumps({"order": "B", "step": opened.document["step"]}).encode()
    return [Outgoing(type="test.step.v1", body=body)]


def test_promise_4_a_child_of_another_subject_waits_behind_what_stands_in_that_subjects_lane(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    to_bus = Route(name="to-bus", when=on("native.step.v1"), to=BUS, transform=about_another_order, retry=SOON)
    bus = a_bus(store, to_bus, PLAIN)
    bus.receive(a_native_step("B", 1), a_native_step("A", 2), a_native_step("B", 3))
    real = store.claim

    def two_at_once(queue: str, *, worker: str, token: str, limit: int) -> Batch:
        return real(queue, worker=worker, token=token, limit=2)

    monkeypatch.setattr(store, "claim", two_at_once)

    bus.work("transform.transaction")  # B1 and A2 are settled together, B3 still stands
    bus.run_until_idle()

    booked = steps_of(bus.windows["target"].adapter.received)  # type: ignore[attr-defined]  # a ScriptedEndpoint
    assert booked == [("B", 1), ("B", 3), ("B", 2)]


def test_promise_4_a_native_messages_own_deliveries_wait_for_their_turn_too(store: SqlStore) -> None:
    native = Route(name="native-to-archive", when=on("native.step.v1"), to="archive", retry=SOON)
    canonical = Route(name="canonical-to-archive", when=on("test.step.v1"), to="archive", retry=SOON)
    bus = a_bus(store, TO_BUS, native, canonical)
    bus.receive(a_native_step("1", 1))
    bus.receive(a_step("1", 2))
    bus.receive(a_native_step("1", 3))

    bus.run_until_idle()

    archive = bus.windows["archive"].adapter
    booked = [(p.message.type, json.loads(p.message.body)["step"]) for p in archive.booked]  # type: ignore[attr-defined]  # a ScriptedEndpoint
    assert booked.index(("test.step.v1", 2)) < booked.index(("native.step.v1", 3))
