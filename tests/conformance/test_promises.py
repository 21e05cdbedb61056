"""Promises 1, 2, 3, 7 and 8 of the bus, on SQLite and on PostgreSQL, without a broker."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

import pytest
from sqlalchemy import Connection, update
from sqlalchemy.exc import OperationalError

from bus.errors import NotFound, OutcomeUnknown, PermanentFailure, StoreUnavailable, TransientFailure
from bus.model.delivery import Event, State
from bus.model.message import BUS, Opened, Outgoing
from bus.model.predicate import on
from bus.model.route import Route
from bus.model.transformer import TransformContext, transformer
from bus.pipeline.replay import replay
from bus.ports import Actor, Answer, Claimed, Parcel
from bus.store import tables as t
from bus.store.engine import Database
from bus.store.sqlstore import SqlStore
from bus.testing import ScriptedEndpoint, envelope_of
from tests.conformance.books import discrepancies, recount, rows, states, steps, totals
from tests.conformance.stages import PLAIN, TEST, a_bus, failing
from tests.small_project import SOON, TO_BUS, TO_TARGET, a_native_step, a_step, make_canonical, steps_of

LOST = "book-then-lose"


class Shaky(Database):
    """A database whose connection breaks at the end of the next transactions, before or after their commit."""

    before_commit = 0
    after_commit = 0

    @contextmanager
    def write(self) -> Iterator[Connection]:
        with super().write() as connection:
            yield connection
            if self.before_commit:
                self.before_commit -= 1
                self._break(connection)
        if self.after_commit:
            self.after_commit -= 1
            raise StoreUnavailable("the connection broke before the commit was answered")

    def _break(self, connection: Connection) -> None:
        if self.is_sqlite:
            raise OperationalError("COMMIT", None, sqlite3.OperationalError("disk I/O error"))
        connection.exec_driver_sql("SELECT pg_terminate_backend(pg_backend_pid())")


@pytest.fixture
def shaky(store: SqlStore, address: str) -> Iterator[Shaky]:
    database = Shaky(address)
    yield database
    database.close()


# --- promise 1: committed before acknowledged ------------------------------------------------------------------------


def test_promise_1_what_receive_returned_for_is_committed(store: SqlStore, address: str) -> None:
    a_bus(store).receive(a_step("a"))

    elsewhere = SqlStore(Database(address))
    seen = [row.message_id for row in rows(elsewhere, t.message)]
    elsewhere.close()

    assert len(seen) == 1
    assert states(store) == [State.READY]


def test_promise_1_a_batch_that_could_not_be_committed_is_not_returned_for(store: SqlStore, shaky: Shaky) -> None:
    bus = a_bus(SqlStore(shaky))
    shaky.before_commit = 1

    with pytest.raises(StoreUnavailable):
        bus.receive(a_step("a", 1), a_step("b", 1))
    kept = rows(store, t.message)
    bus.receive(a_step("a", 1), a_step("b", 1))

    assert kept == []
    assert states(store) == [State.READY, State.READY]


def test_promise_1_a_batch_whose_commit_was_not_answered_comes_again_and_counts_once(
    store: SqlStore, shaky: Shaky
) -> None:
    bus = a_bus(SqlStore(shaky))
    shaky.after_commit = 1

    with pytest.raises(StoreUnavailable):
        bus.receive(a_step("a", 1))
    bus.receive(a_step("a", 1))

    assert states(store) == [State.READY]
    assert totals(store)["duplicate", ""] == 1
    assert list(discrepancies(store)) == []


# --- promise 2: conservation -----------------------------------------------------------------------------------------


def test_promise_2_every_receipt_is_counted_once(store: SqlStore) -> None:
    bus = a_bus(store)
    accepted = a_step("a", 1)

    bus.receive(
        accepted,
        accepted,
        a_step("a", 1, document={"step": 2}, id=accepted.id),
        a_step("a", 3, body=b"not json"),
        envelope_of(a_step("a", 4), user="somebody-else"),
        a_step("a", 404),
    )

    said = totals(store)
    assert {
        kind: said[kind, ""] for kind in ("received", "accepted", "duplicate", "conflict", "invalid", "refused")
    } == {
        "received": 6,
        "accepted": 2,
        "duplicate": 1,
        "conflict": 1,
        "invalid": 1,
        "refused": 1,
    }
    assert (said["messages-planned", ""], said["unrouted", ""]) == (1, 1)
    assert list(discrepancies(store)) == []


def test_promise_2_the_sums_hold_after_every_step(store: SqlStore) -> None:
    target = ScriptedEndpoint(
        remembers_keys=False,
        script={
            "order:refused": [failing(PermanentFailure)],
            "order:busy": [failing(TransientFailure)],
            "order:lost": [failing(OutcomeUnknown, LOST)],
        },
    )
    bus = a_bus(store, adapters={"target": target})
    bus.receive(*(a_native_step(order, 1, document={"parts": 2}) for order in ("a", "refused", "busy", "lost")))
    bus.receive(a_native_step("broken", 1), a_native_step("empty", 1, document={"parts": 0}), a_step("a", 404))
    bus.receive(a_step("split", 10, document={"parts": 3}), a_step("a", 7), a_step("a", 666))

    wrong = list(discrepancies(store))
    while any(bus.work(queue) for queue in bus.catalogue.queues):
        wrong += discrepancies(store)
    store.wake_due(limit=100)
    wrong += discrepancies(store)

    assert wrong == []
    assert {State.DELIVERED, State.DEAD, State.IN_DOUBT, State.WAITING} <= set(states(store))


def test_promise_2_a_message_that_enters_twice_is_entering_until_both_ended(store: SqlStore) -> None:
    twice = Route(name="steps-become-canonical-again", when=TO_BUS.when, to=BUS, transform=make_canonical)
    bus = a_bus(store, TO_BUS, twice, TO_TARGET)
    bus.receive(a_native_step("a", 1))

    entering = totals(store)["entering", ""]
    bus.run_until_idle()

    assert entering == 1
    assert totals(store)["entering", ""] == 0
    assert list(discrepancies(store)) == []


def test_promise_2_discarding_what_would_have_entered_balances(store: SqlStore) -> None:
    twice = Route(
        name="steps-become-canonical-again", when=TO_BUS.when, to=BUS, transform=make_canonical, on_dead="skip"
    )
    once = Route(
        name="steps-become-canonical-first", when=TO_BUS.when, to=BUS, transform=make_canonical, on_dead="skip"
    )
    bus = a_bus(store, once, twice, TO_TARGET)
    bus.receive(a_native_step("broken", 1))
    bus.run_until_idle()
    dead = [row.id for row in rows(store, t.delivery) if row.state == State.DEAD]

    store.move(dead, Event.DISCARD, expected=State.DEAD, actor=TEST)

    assert len(dead) == 2
    assert totals(store)["entering", ""] == 0
    assert list(discrepancies(store)) == []


# --- promise 3: one fact, one plan -----------------------------------------------------------------------------------


def test_promise_3_the_same_message_twice_in_a_batch_is_planned_once(store: SqlStore) -> None:
    bus = a_bus(store)
    message = a_step("a", 1)

    bus.receive(message, a_step("b", 1), message)

    assert len(states(store)) == 2
    assert [row.kind for row in rows(store, t.receipt)] == ["duplicate"]


def test_promise_3_the_same_message_twice_in_time_is_planned_once(store: SqlStore) -> None:
    bus = a_bus(store)
    bus.receive(a_step("a", 1))
    bus.run_until_idle()

    bus.receive(a_step("a", 1))
    bus.run_until_idle()

    assert states(store) == [State.DELIVERED]
    assert [row.cause for row in rows(store, t.receipt)] == ["id.duplicate"]


@pytest.mark.parametrize("together", [True, False])
def test_promise_3_another_body_under_an_id_is_a_conflict_and_the_first_stands(store: SqlStore, together: bool) -> None:
    target = ScriptedEndpoint()
    bus = a_bus(store, PLAIN, adapters={"target": target})
    first, other = a_step("a", 1), a_step("a", 2, id="a-1")

    for batch in [(first, other, first)] if together else [(first,), (other,), (first,)]:
        bus.receive(*batch)
    bus.run_until_idle()

    assert target.received == [first.body]
    assert [(row.kind, bytes(row.body)) for row in rows(store, t.receipt)] == [
        ("conflict", other.body),
        ("duplicate", first.body),
    ]


def test_promise_3_what_was_not_accepted_takes_no_id(store: SqlStore) -> None:
    bus = a_bus(store)
    bus.receive(a_step("a", 1, body=b"not json"))
    bus.receive(envelope_of(a_step("a", 1), user="somebody-else"))

    bus.receive(a_step("a", 1))

    assert totals(store)["accepted", ""] == 1


# --- promise 7: the store is away ------------------------------------------------------------------------------------


@pytest.mark.parametrize("breaks", ["before_commit", "after_commit"])
@pytest.mark.parametrize("remembers", [True, False])
def test_promise_7_an_outcome_is_stored_when_the_store_is_back(
    store: SqlStore, shaky: Shaky, breaks: str, remembers: bool
) -> None:
    target = BreaksTheStore(shaky, breaks, remembers_keys=remembers)
    bus = a_bus(SqlStore(shaky), PLAIN, adapters={"target": target})
    bus.receive(a_step("a", 1), a_step("a", 2), a_step("b", 1))

    bus.run_until_idle()

    assert steps_of(target.received) == [("a", 1), ("a", 2), ("b", 1)]
    assert set(states(store)) == {State.DELIVERED}
    assert list(discrepancies(store)) == []


class BreaksTheStore(ScriptedEndpoint):
    """Books, and lets the store's next transaction break."""

    def __init__(self, database: Shaky, breaks: str, *, remembers_keys: bool) -> None:
        super().__init__(remembers_keys=remembers_keys)
        self.database, self.breaks = database, breaks

    def send(self, parcel: Parcel) -> Answer:
        answer = super().send(parcel)
        setattr(self.database, self.breaks, 2 if parcel.message.subject == "order:b" else 0)
        return answer


@pytest.mark.parametrize("breaks", ["before_commit", "after_commit"])
@pytest.mark.parametrize("to", [BUS, "target"])
def test_promise_7_what_a_transform_made_is_stored_when_the_store_is_back(
    store: SqlStore, shaky: Shaky, breaks: str, to: str
) -> None:
    @transformer(takes="native.step.v1", makes="test.step.v1")
    def break_and_split(opened: Opened, context: TransformContext) -> Outgoing | Sequence[Outgoing]:
        setattr(shaky, breaks, 2)
        return make_canonical(opened, context)

    target = ScriptedEndpoint()
    breaking = Route(name="steps-break-the-store", when=TO_BUS.when, to=to, transform=break_and_split)
    bus = a_bus(SqlStore(shaky), breaking, PLAIN, adapters={"target": target})
    bus.receive(a_native_step("a", 1, document={"parts": 2}), a_native_step("a", 3))

    bus.run_until_idle()

    assert steps(target.received, "a") == [1, 2, 3]
    assert set(states(store)) == {State.DELIVERED}
    assert list(discrepancies(store)) == []


# --- promise 8: replay is deliberate ---------------------------------------------------------------------------------

ADA = Actor(name="person:ada", reason="master data corrected")


def _dead(store: SqlStore, **more: object) -> int:
    target = ScriptedEndpoint(script={"*": [failing(PermanentFailure)]})
    bus = a_bus(store, TO_TARGET, adapters={"target": target})
    bus.receive(a_step("a", 1, **more))
    bus.run_until_idle()
    assert states(store) == [State.DEAD]
    return int(rows(store, t.delivery)[0].id)


def test_promise_8_a_replay_names_its_actor_and_reason(store: SqlStore) -> None:
    number = _dead(store)

    replay([number], store=store, catalogue=a_bus(store).catalogue, actor=ADA)
    deed = rows(store, t.journal)[-1]

    assert (deed.actor, deed.reason, deed.act, deed.delivery) == (
        "person:ada",
        "master data corrected",
        "replay",
        number,
    )


def test_promise_8_continuing_a_dead_delivery_keeps_its_key_place_and_bytes(store: SqlStore) -> None:
    number = _dead(store)
    (before,) = rows(store, t.delivery)
    target = ScriptedEndpoint()
    bus = a_bus(store, TO_TARGET, adapters={"target": target})

    done = replay([number], store=store, catalogue=bus.catalogue, actor=ADA)
    bus.run_until_idle()

    (after,) = rows(store, t.delivery)
    assert done.continued == [number]
    assert (after.key, after.place, after.state) == (before.key, before.place, "DELIVERED")
    assert [parcel.key for parcel in target.booked] == [before.key]
    assert before.stage == after.stage == "send"


def test_promise_8_a_continued_delivery_gets_all_its_attempts_again(store: SqlStore) -> None:
    target = ScriptedEndpoint(script={"*": [failing(TransientFailure)] * (SOON.max_attempts * 2 - 1)})
    bus = a_bus(store, PLAIN, adapters={"target": target})
    bus.receive(a_step("a", 1))
    bus.run_until(lambda: states(store) == [State.DEAD])

    replay([rows(store, t.delivery)[0].id], store=store, catalogue=bus.catalogue, actor=ADA)
    bus.run_until(lambda: states(store) == [State.DELIVERED])

    assert len(target.calls) == 2 * SOON.max_attempts


def test_promise_8_repeating_a_finished_delivery_is_a_new_one_with_a_key_of_its_own(store: SqlStore) -> None:
    target = ScriptedEndpoint()
    bus = a_bus(store, TO_TARGET, adapters={"target": target})
    bus.receive(a_step("a", 1), a_step("a", 2))
    bus.run_until_idle()
    first = rows(store, t.delivery)[0]

    done = [replay([first.id], store=store, catalogue=bus.catalogue, actor=ADA) for _ in range(2)]
    bus.run_until_idle()

    deliveries = rows(store, t.delivery)
    assert [one.repeated for one in done] == [[first.id]] * 2
    assert [(row.replay, row.place) for row in deliveries] == [(0, 1), (0, 2), (1, 3), (2, 4)]
    assert len({row.key for row in deliveries}) == 4
    assert steps(target.received, "a") == [1, 2, 1, 1]
    assert [row.act for row in rows(store, t.journal) if row.actor == "person:ada"] == ["repeat", "repeat"]
    assert list(discrepancies(store)) == []


def test_promise_8_a_part_of_a_split_is_repeated_with_the_whole(store: SqlStore) -> None:
    target = ScriptedEndpoint()
    bus = a_bus(store, TO_TARGET, adapters={"target": target})
    bus.receive(a_step("a", 1, document={"parts": 3}))
    bus.run_until_idle()
    parent, _, second, _ = rows(store, t.delivery)

    alone = replay([second.id], store=store, catalogue=bus.catalogue, actor=ADA)
    whole = replay([parent.id], store=store, catalogue=bus.catalogue, actor=ADA)
    bus.run_until_idle()

    assert f"bus dead replay {parent.id} --repeat" in alone.refused[second.id]
    assert whole.repeated == [parent.id]
    assert steps(target.received, "a") == [1, 2, 3, 1, 2, 3]
    assert list(discrepancies(store)) == []


def test_promise_8_one_that_cannot_be_repeated_leaves_the_others_of_the_order_alone(store: SqlStore) -> None:
    bus = a_bus(store, PLAIN)
    bus.receive(a_step("a", 1), a_step("b", 1))
    bus.run_until_idle()
    unreadable, sound = (row.id for row in rows(store, t.delivery))
    with store.transaction() as transaction:
        transaction.execute(update(t.message).where(t.message.c.id == unreadable).values(body=b'{"changed": 1}'))

    done = replay([unreadable, sound], store=store, catalogue=bus.catalogue, actor=ADA)

    assert "contract.changed" in done.refused[unreadable]
    assert done.repeated == [sound]


def test_promise_8_what_was_given_up_meanwhile_is_not_called_continued(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = _dead(store)
    look = store.deliveries

    def give_up_after_looking(numbers: Collection[int]) -> list[Claimed]:
        found = look(numbers)
        monkeypatch.setattr(store, "deliveries", look)
        store.move([number], Event.DISCARD, expected=State.DEAD, actor=ADA)
        return found

    monkeypatch.setattr(store, "deliveries", give_up_after_looking)
    done = replay([number], store=store, catalogue=a_bus(store).catalogue, actor=ADA)

    assert done.continued == []
    assert "DISCARDED" in done.refused[number]


@pytest.mark.parametrize(("route", "step"), [(TO_TARGET, 666), (PLAIN, 1)])
def test_an_attempt_says_what_it_was_made_with_though_the_transform_failed_or_there_is_none(
    store: SqlStore, route: Route, step: int
) -> None:
    bus = a_bus(store, route)
    bus.receive(a_step("a", step))
    bus.run_until_idle()

    (attempt,) = rows(store, t.attempt)

    assert attempt.digests.startswith("bus=")
    assert f" route={route.digest} transformer=" in attempt.digests
    assert " maps=" in attempt.digests


def test_promise_4_what_cannot_be_ordered_is_dead_and_stays_so_until_it_can(store: SqlStore) -> None:
    by_serial = Route(name="by-serial", when=on("test.step.v1"), to="target", key="serial.number", retry=SOON)
    bus = a_bus(store, by_serial)
    bus.receive(a_step("a", 1))
    (planned,) = rows(store, t.delivery)

    replay([planned.id], store=store, catalogue=bus.catalogue, actor=ADA)
    bus.run_until_idle()
    (again,) = rows(store, t.delivery)

    assert planned.state == again.state == "DEAD"
    assert again.cause == "key.missing"
    assert "serial.number" in planned.detail


def test_promise_8_a_native_message_that_entered_can_enter_again(store: SqlStore) -> None:
    target = ScriptedEndpoint()
    bus = a_bus(store, TO_BUS, TO_TARGET, adapters={"target": target})
    bus.receive(a_native_step("a", 1))
    bus.run_until_idle()

    done = replay([rows(store, t.delivery)[0].id], store=store, catalogue=bus.catalogue, actor=ADA)
    bus.run_until_idle()

    assert done.repeated == [rows(store, t.delivery)[0].id]
    assert steps(target.received, "a") == [1, 1]
    assert list(discrepancies(store)) == []


@pytest.mark.parametrize("failure", [failing(OutcomeUnknown), failing(TransientFailure)])
def test_promise_8_what_is_neither_dead_nor_finished_is_not_replayed(
    store: SqlStore, failure: OutcomeUnknown | TransientFailure
) -> None:
    target = ScriptedEndpoint(remembers_keys=False, script={"*": [failure]})
    bus = a_bus(store, PLAIN, adapters={"target": target})
    bus.receive(a_step("a", 1))
    bus.run_until_idle()
    before = states(store)

    done = replay([rows(store, t.delivery)[0].id], store=store, catalogue=bus.catalogue, actor=ADA)

    assert list(done.refused) == [rows(store, t.delivery)[0].id]
    assert states(store) == before
    assert before[0] in (State.IN_DOUBT, State.RETRYING)


def test_promise_8_a_number_that_names_nothing_replays_nothing(store: SqlStore) -> None:
    number = _dead(store)

    with pytest.raises(NotFound):
        replay([number, number + 999], store=store, catalogue=a_bus(store).catalogue, actor=ADA)

    assert states(store) == [State.DEAD]
    assert recount(store) == totals(store)


def test_promise_8_bytes_are_made_anew_only_where_that_was_asked_for(store: SqlStore) -> None:
    number = _dead(store)
    catalogue = a_bus(store, TO_TARGET).catalogue

    replay([number], store=store, catalogue=catalogue, actor=ADA, retransform=True)
    (row,) = rows(store, t.delivery)

    assert (row.stage, row.queue, row.state) == ("transform", "transform.transaction", "READY")
