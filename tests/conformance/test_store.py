"""What the MessageStore port promises, on SQLite and on PostgreSQL."""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta, timezone

import pytest
from sqlalchemy import insert, select, text, update
from sqlalchemy.exc import DBAPIError

from bus.errors import DataRefused
from bus.model.delivery import MAX_DEATHS, Event, Outcome, State, release, succeed
from bus.model.message import Message
from bus.model.route import Route
from bus.ports import Actor, Claimed, Settled
from bus.store import tables as t
from bus.store.sqlstore import SqlStore
from bus.testing import a_message
from tests.conformance.books import discrepancies, recount, rows, states, totals
from tests.conformance.stages import (
    PLAIN,
    SEND,
    TEST,
    a_bus,
    an_attempt,
    claim,
    doubt,
    end,
    keep,
    keep_steps,
    kill,
    now_due,
    orders,
    retry,
)
from tests.small_project import TO_TARGET, a_step

SECOND = timedelta(seconds=1)


# --- ids and messages ------------------------------------------------------------------------------------------------


def test_the_first_body_under_an_id_stands(store: SqlStore) -> None:
    first, other = a_message(id="1", body=b"first"), a_message(id="1", body=b"other")

    with store.transaction() as transaction:
        before = transaction.take_ids([first, a_message(id="2")])
    with store.transaction() as transaction:
        after = transaction.take_ids([a_message(id="3"), other])

    assert [taken.is_new for taken in before + after] == [True, True, True, False]
    assert after[1].digest == first.digest


def test_an_id_belongs_to_its_system(store: SqlStore) -> None:
    with store.transaction() as transaction:
        taken = transaction.take_ids([a_message(id="1", system="erp"), a_message(id="1", system="mes-1")])

    assert [one.is_new for one in taken] == [True, True]


def test_ids_are_compared_letter_by_letter(store: SqlStore) -> None:
    alike = [a_message(id=name) for name in ("a", "A", "ä", "ä", "a ")]

    with store.transaction() as transaction:
        taken = transaction.take_ids(alike)

    assert all(one.is_new for one in taken)


def test_a_rolled_back_transaction_keeps_nothing(store: SqlStore) -> None:
    message = a_message()

    with contextlib.suppress(ZeroDivisionError), store.transaction() as transaction:
        transaction.take_ids([message])
        transaction.add_messages([message], searchable=[[]], parents=[None], planned=[(0, 0)])
        raise ZeroDivisionError
    with store.transaction() as transaction:
        (taken,) = transaction.take_ids([message])

    assert taken.is_new
    assert rows(store, t.message) == []
    assert totals(store) == Counter()


@pytest.mark.parametrize(
    "moment",
    [
        datetime(2026, 3, 1, 6, 30, 0, 123456, tzinfo=timezone(timedelta(hours=1))),
        datetime(1, 1, 1, tzinfo=UTC),
        datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
    ],
)
def test_a_message_comes_back_as_it_was_kept(store: SqlStore, moment: datetime) -> None:
    message = Message(
        id="ä€😀",
        type="test.step.v1",
        system="mes-1",
        site="P1",
        subject="order:4711",
        content_type="application/json",
        body=bytes(range(256)),
        time=moment,
        correlation_id="c",
        causation_id="d",
        sequence=2**62,
        business_date=date(2026, 2, 28),
        dataschema="https://example.org/schema",
        traceparent="00-1-2-03",
    )

    keep(store, a_step("4711"))
    with store.transaction() as transaction:
        (kept,) = transaction.add_messages([message], searchable=[[]], parents=[None], planned=[(0, 0)])
        transaction.execute(update(t.delivery).values(message=kept.row))
    (claimed,) = claim(store)

    assert claimed.kept.message == message


def test_numbers_rise_in_the_order_of_the_batch(store: SqlStore) -> None:
    messages = [a_message(id=f"{number * 7919 % 1000}") for number in range(1000)]

    with store.transaction() as transaction:
        kept = transaction.add_messages(
            messages,
            searchable=[[] for _ in messages],
            parents=[None] * len(messages),
            planned=[(0, 0)] * len(messages),
        )

    assert [k.row for k in kept] == sorted(k.row for k in kept)
    assert [row.message_id for row in rows(store, t.message)] == [m.id for m in messages]


@pytest.mark.parametrize("bad", [{"time": datetime(2026, 1, 1)}, {"sequence": 2**70}, {"subject": "half \ud800"}])  # noqa: DTZ001  # a time without a zone is the point
def test_a_value_the_database_cannot_keep_is_refused(store: SqlStore, bad: dict[str, object]) -> None:
    with pytest.raises(DataRefused), store.transaction() as transaction:
        transaction.add_messages([a_message(**bad)], searchable=[[]], parents=[None], planned=[(0, 0)])

    assert rows(store, t.message) == []


def test_openings_are_counted_until_forgotten(store: SqlStore) -> None:
    before = [store.note_opening(b"digest") for _ in range(3)]

    with store.transaction() as transaction:
        transaction.forget_openings([b"digest"])

    assert before == [0, 1, 2]
    assert store.note_opening(b"digest") == 0


# --- claims ----------------------------------------------------------------------------------------------------------


def test_the_oldest_are_claimed_first(store: SqlStore) -> None:
    keep_steps(store, "z", "m", "a")

    claimed = claim(store)

    assert orders(claimed) == ["z", "m", "a"]


def test_no_more_are_claimed_than_asked_for(store: SqlStore) -> None:
    keep_steps(store, "a", "b", "a", "c")

    first, second = claim(store, limit=2), claim(store, limit=2)

    assert (orders(first), orders(second)) == (["a", "b"], ["c"])


@pytest.mark.parametrize(("limit", "leaves"), [(2, True), (3, True), (4, False)])
def test_a_claim_says_whether_there_may_be_more(store: SqlStore, limit: int, leaves: bool) -> None:
    keep_steps(store, "a", "b", "c")

    assert store.claim(SEND, worker="worker:1", token="one", limit=limit).leaves is leaves


def test_a_claim_says_that_it_left_what_is_to_be_claimed_alone(store: SqlStore) -> None:
    keep_steps(store, "a", "b")
    with store.database.write() as connection:
        connection.execute(update(t.delivery).where(t.delivery.c.id == 2).values(deaths=1))

    batch = store.claim(SEND, worker="worker:1", token="one", limit=128)

    assert (orders(batch.claimed), batch.leaves) == (["a"], True)


def test_a_lane_is_claimed_in_its_order(store: SqlStore) -> None:
    keep(store, *(a_step("a", step) for step in range(10, 15)))

    claimed = claim(store)

    assert [c.place for c in claimed] == [1, 2, 3, 4, 5]


def test_a_lane_with_running_ones_gives_nothing_and_hides_no_others(store: SqlStore) -> None:
    keep_steps(store, *["a"] * 5, "b")

    first = claim(store, limit=1)
    second = claim(store, limit=3)
    third = claim(store)

    assert (orders(first), orders(second), third) == (["a"], ["b"], [])


@pytest.mark.parametrize("outcome", [retry(due_in=SECOND * 60), kill(), doubt()])
def test_what_stands_before_keeps_its_lane_back(store: SqlStore, outcome: Outcome) -> None:
    keep_steps(store, "a", "a", "b")

    end(store, claim(store, limit=1), outcome)
    claimed = claim(store)

    assert orders(claimed) == ["b"]


def test_a_dead_one_that_is_skipped_lets_its_lane_go_on(store: SqlStore) -> None:
    skipping = Route(name="steps-skip", when=PLAIN.when, to="target", on_dead="skip")
    keep(store, a_step("a", 1), a_step("a", 2), routes=[skipping])

    end(store, claim(store, limit=1), kill())
    claimed = claim(store)

    assert [c.kept.message.id for c in claimed] == ["a-2"]


def test_parts_that_came_later_are_claimed_before_what_stands_behind_them(store: SqlStore) -> None:
    bus = a_bus(store, TO_TARGET)
    bus.receive(a_step("a", 1, document={"parts": 2}), a_step("a", 3))
    bus.work("transform.transaction")

    claimed = [c for _ in range(3) for c in _claim_and_succeed(store)]

    assert [(c.place, c.part) for c in claimed] == [(1, 1), (1, 2), (2, 0)]


def _claim_and_succeed(store: SqlStore) -> list[Claimed]:
    claimed = claim(store, limit=1)
    end(store, claimed, succeed())
    return claimed


def test_transforms_that_run_ahead_hide_no_sends_of_their_lane(store: SqlStore) -> None:
    bus = a_bus(store, TO_TARGET)
    bus.receive(a_step("a", 1))
    bus.work("transform.transaction")
    bus.receive(a_step("a", 2))

    transforming = claim(store, queue="transform.transaction")
    sending = claim(store)

    assert (orders(transforming), orders(sending)) == (["a"], ["a"])


def test_whoever_was_there_when_a_worker_died_is_claimed_alone(store: SqlStore) -> None:
    keep_steps(store, "a", "b", "b", "c")
    claim(store, limit=3, worker="worker:dead")
    store.bury_worker("worker:dead", actor=TEST)

    batches = []
    while batch := claim(store):
        batches.append(orders(batch))
        end(store, batch, succeed())

    assert batches == [["a"], ["b"], ["b"], ["c"]]


def test_of_those_that_the_next_death_would_end_one_runs_at_a_time(store: SqlStore) -> None:
    bus = a_bus(store, TO_TARGET)
    bus.receive(a_step("a", 1))
    bus.work("transform.transaction")
    bus.receive(a_step("b", 1))
    for number in range(MAX_DEATHS - 1):
        claim(store, worker=f"worker:{number}")
        claim(store, queue="transform.transaction", worker=f"worker:{number}")
        store.bury_worker(f"worker:{number}", actor=TEST)

    first = claim(store, queue="transform.transaction")
    meanwhile = claim(store)
    keep_steps(store, "c")
    others = claim(store)
    store.bury_worker("worker:1", actor=TEST)
    afterwards = claim(store)

    assert [orders(each) for each in (first, meanwhile, others, afterwards)] == [["b"], [], ["c"], ["a"]]
    assert [row.state for row in rows(store, t.delivery) if row.deaths == MAX_DEATHS] == [State.DEAD]


def test_innocents_are_claimed_without_the_suspects_behind_them(store: SqlStore) -> None:
    keep_steps(store, "a", "b", "a")
    died_with = [c.id for c in claim(store, worker="worker:dead")][1:]
    store.bury_worker("worker:dead", actor=TEST)
    with store.transaction() as transaction:
        transaction.execute(update(t.delivery).where(t.delivery.c.id.not_in(died_with)).values(deaths=0))
    keep_steps(store, "a", "d")

    claimed = claim(store)

    assert orders(claimed) == ["a", "d"]


def test_suspects_of_a_split_do_not_stop_their_queue(store: SqlStore) -> None:
    bus = a_bus(store, TO_TARGET)
    bus.receive(a_step("a", 1, document={"parts": 2}), a_step("a", 3), a_step("b", 1))
    bus.work("transform.transaction")
    claim(store, worker="worker:dead")
    store.bury_worker("worker:dead", actor=TEST)

    drained = [c for _ in range(5) for c in _claim_and_succeed(store)]

    assert len(drained) == 4
    assert set(states(store)) == {State.DELIVERED}


def test_a_replay_at_the_tail_does_not_stop_a_queue_that_is_claimed_one_by_one(store: SqlStore) -> None:
    skipping = Route(name="steps-skip", when=PLAIN.when, to="target", on_dead="skip")
    keep(store, a_step("a", 1), a_step("a", 2), routes=[skipping])
    dead = claim(store, limit=1)
    end(store, dead, kill())
    store.move([dead[0].id], Event.REPLAY, expected=State.DEAD, actor=TEST)

    claimed = [c.kept.message.id for _ in range(2) for c in _claim_and_succeed(store)]

    assert claimed == ["a-2", "a-1"]


@pytest.mark.parametrize("limit", [1, 128])
def test_an_endpoint_that_is_not_open_gives_nothing(store: SqlStore, limit: int) -> None:
    keep_steps(store, "a", "b")
    store.trip("target", cause="endpoint.dns", detail="", check_in=SECOND, actor=TEST)

    closed = claim(store, limit=limit)
    store.reopen("target", actor=TEST)
    opened = claim(store, limit=limit)

    assert closed == []
    assert opened != []


def test_trials_take_turns_over_the_heads_of_lanes(store: SqlStore) -> None:
    keep_steps(store, "a", "a", "b", "c")
    store.trip("target", cause="endpoint.dns", detail="", check_in=SECOND, actor=TEST)

    tried = []
    for number in range(4):
        trial = store.claim_trial(SEND, worker="worker:1", token=f"t{number}")
        tried += orders(trial)
        end(store, trial, release())

    assert tried == ["a", "b", "c", "a"]


# --- settling --------------------------------------------------------------------------------------------------------


def test_an_outcome_counts_once(store: SqlStore) -> None:
    keep_steps(store, "a")
    claimed = claim(store)

    end(store, claimed, succeed("D1"))
    end(store, claimed, kill())

    assert states(store) == [State.DELIVERED]
    assert [(row.outcome, row.late) for row in rows(store, t.attempt)] == [("succeed", False), ("kill", True)]
    assert list(discrepancies(store)) == []


def test_an_outcome_of_a_buried_worker_changes_nothing_and_is_recorded(store: SqlStore) -> None:
    keep_steps(store, "a")
    lost = claim(store, worker="worker:slow")
    store.bury_worker("worker:slow", actor=TEST)
    claimed = claim(store)

    end(store, lost, kill())
    end(store, claimed, succeed())

    assert states(store) == [State.DELIVERED]
    assert [(row.outcome, row.late) for row in rows(store, t.attempt)] == [("kill", True), ("succeed", False)]


def test_an_attempt_keeps_what_was_sent_and_what_came_back(store: SqlStore) -> None:
    keep_steps(store, "a")

    end(store, claim(store), succeed("4900000017"))
    (attempt,) = rows(store, t.attempt)

    assert (bytes(attempt.sent), bytes(attempt.received), attempt.document) == (b"request", b"answer", "4900000017")
    assert attempt.ended_at - attempt.began_at == timedelta(milliseconds=10)
    assert rows(store, t.delivery)[0].document == "4900000017"


@pytest.mark.parametrize("document", ["49\x0000", "half \ud800"])
def test_an_odd_document_number_does_not_lose_the_outcome(store: SqlStore, document: str) -> None:
    keep_steps(store, "a", "b")

    end(store, claim(store), succeed(document))

    assert states(store) == [State.DELIVERED, State.DELIVERED]


def test_marking_needs_the_claim(store: SqlStore) -> None:
    keep_steps(store, "a")
    (claimed,) = claim(store)

    foreign = store.mark_sending(claimed.id, "another token")
    own = store.mark_sending(claimed.id, claimed.token)
    again = store.mark_sending(claimed.id, claimed.token)

    assert (foreign, own, again) == (False, True, False)


def test_what_is_given_back_still_says_why_it_failed_before(store: SqlStore) -> None:
    keep_steps(store, "a")
    end(store, claim(store), retry())
    store.wake_due(limit=10)

    end(store, claim(store), release(), noted=False)

    (claimed,) = claim(store)
    assert claimed.cause == "target.busy"


# --- in doubt --------------------------------------------------------------------------------------------------------


def _in_doubt(store: SqlStore) -> int:
    keep_steps(store, "a", "a")
    (claimed,) = claim(store, limit=1)
    end(store, [claimed], doubt())
    return claimed.id


def test_a_doubt_is_probed_when_it_is_due_and_then_put_off(store: SqlStore) -> None:
    number = _in_doubt(store)

    first = store.claim_doubts(SEND, limit=10, again_in=SECOND * 60)
    second = store.claim_doubts(SEND, limit=10, again_in=SECOND * 60)

    assert [d.claimed.id for d in first] == [number]
    assert first[0].doubted_for >= timedelta(0)
    assert second == []


def test_a_doubt_can_be_left_to_people(store: SqlStore) -> None:
    number = _in_doubt(store)

    store.put_off_doubt(number, of_claim=rows(store, t.delivery)[0].token, attempt=None, again_in=None)

    assert store.claim_doubts(SEND, limit=10, again_in=SECOND) == []
    assert states(store)[0] is State.IN_DOUBT


def test_what_was_found_is_delivered_and_its_lane_goes_on(store: SqlStore) -> None:
    number = _in_doubt(store)

    queues = store.settle_doubt(number, Event.FOUND, actor=TEST, document="D7")

    assert queues == {SEND}
    assert states(store) == [State.DELIVERED, State.READY]
    assert rows(store, t.delivery)[0].document == "D7"


def test_what_was_absent_is_sent_again_before_its_lane_goes_on(store: SqlStore) -> None:
    number = _in_doubt(store)

    store.settle_doubt(number, Event.ABSENT, actor=TEST)
    claimed = claim(store)

    assert [c.place for c in claimed] == [1, 2]


def test_a_doubt_is_decided_once(store: SqlStore) -> None:
    number = _in_doubt(store)

    store.settle_doubt(number, Event.FOUND, actor=TEST)
    queues = store.settle_doubt(number, Event.ABSENT, actor=TEST)
    store.put_off_doubt(number, of_claim=rows(store, t.delivery)[0].token, attempt=None, again_in=SECOND)

    assert queues == set()
    assert states(store)[0] is State.DELIVERED


def test_a_late_outcome_settles_the_doubt_it_caused(store: SqlStore) -> None:
    keep_steps(store, "a", "a")
    (claimed,) = claim(store, limit=1, worker="worker:slow")
    store.mark_sending(claimed.id, claimed.token)
    store.bury_worker("worker:slow", actor=TEST)
    buried = states(store)

    end(store, [claimed], succeed("D1"))

    assert buried[0] is State.IN_DOUBT
    assert states(store) == [State.DELIVERED, State.READY]
    assert list(discrepancies(store)) == []


def test_a_late_outcome_does_not_undo_what_a_person_decided(store: SqlStore) -> None:
    keep_steps(store, "a")
    (claimed,) = claim(store, worker="worker:slow")
    store.mark_sending(claimed.id, claimed.token)
    store.bury_worker("worker:slow", actor=TEST)
    store.settle_doubt(claimed.id, Event.ABSENT, actor=TEST)

    end(store, [claimed], succeed("D1"))

    assert states(store) == [State.READY]
    assert [row.late for row in rows(store, t.attempt)] == [True]


def test_a_doubt_of_a_killed_worker_is_probed_too(store: SqlStore) -> None:
    keep_steps(store, "a")
    (claimed,) = claim(store, worker="worker:killed")
    store.mark_sending(claimed.id, claimed.token)
    store.bury_worker("worker:killed", actor=TEST)

    hinted = store.queues_with_work(queues=[SEND], older_than=SECOND)
    doubts = store.claim_doubts(SEND, limit=10, again_in=SECOND)

    assert hinted == {SEND}
    assert [d.claimed.id for d in doubts] == [claimed.id]


# --- endpoints -------------------------------------------------------------------------------------------------------


def _trip(store: SqlStore, check_in: timedelta = timedelta(0)) -> bool:
    return store.trip("target", cause="endpoint.dns", detail="no such host", check_in=check_in, actor=TEST)


def test_an_endpoint_without_a_row_is_open(store: SqlStore) -> None:
    row = store.endpoint("target")

    assert (row.state, row.check_is_due) == ("open", False)


def test_an_endpoint_trips_once(store: SqlStore) -> None:
    first, second = _trip(store), _trip(store)

    row = store.endpoint("target")

    assert (first, second) == (True, False)
    assert (row.state, row.cause, row.detail, row.checks) == ("tripped", "endpoint.dns", "no such host", 0)


def test_a_due_check_is_taken_by_one(store: SqlStore) -> None:
    _trip(store)

    due = store.endpoint("target").check_is_due
    taken = [store.put_off_check("target", check_in=SECOND * 60) for _ in range(2)]

    assert due
    assert taken == [True, False]
    assert not store.endpoint("target").check_is_due


def test_a_check_that_failed_is_written_down_and_put_off(store: SqlStore) -> None:
    _trip(store)
    store.put_off_check("target", check_in=SECOND * 60)

    store.put_off_check("target", check_in=SECOND * 120, cause="endpoint.tls", detail="expired")

    row = store.endpoint("target")
    assert (row.state, row.cause, row.detail, row.checks) == ("tripped", "endpoint.tls", "expired", 1)
    assert not row.check_is_due


def test_a_check_that_fails_after_it_was_opened_closes_nothing(store: SqlStore) -> None:
    _trip(store)
    store.put_off_check("target", check_in=SECOND)
    opened = store.reopen("target", actor=TEST)

    late = store.put_off_check("target", check_in=SECOND, cause="endpoint.tls")

    assert (opened, late) == (True, False)
    assert store.endpoint("target").state == "open"


def test_an_endpoint_opens_once_and_may_trip_again(store: SqlStore) -> None:
    _trip(store)

    opened = [store.reopen("target", actor=TEST) for _ in range(2)]

    assert opened == [True, False]
    assert _trip(store)


def test_trips_and_openings_stand_in_the_journal(store: SqlStore) -> None:
    _trip(store)
    store.reopen("target", actor=TEST)

    acts = [(row.act, row.endpoint, row.old, row.new, row.actor) for row in rows(store, t.journal)]

    assert acts == [
        ("endpoint", "target", "open", "tripped", "person:test"),
        ("endpoint", "target", "tripped", "open", "person:test"),
    ]


# --- leases and the dead ---------------------------------------------------------------------------------------------


def test_a_free_lease_is_taken_by_one(store: SqlStore) -> None:
    taken = [store.take_lease("relay", holder, instead_of=None) for holder in ("relay:1", "relay:2")]

    assert taken == [True, False]
    assert store.leases() == {"relay": ("relay:1", 1)}


def test_only_its_holder_beats_a_lease(store: SqlStore) -> None:
    store.take_lease("relay", "relay:1", instead_of=None)

    beats = [store.beat("relay", holder) for holder in ("relay:1", "relay:2")]

    assert beats == [True, False]
    assert store.leases()["relay"] == ("relay:1", 2)


def test_a_lease_that_moved_is_not_taken_over(store: SqlStore) -> None:
    store.take_lease("relay", "relay:1", instead_of=None)
    seen = store.leases()["relay"]
    store.beat("relay", "relay:1")

    too_late = store.take_lease("relay", "relay:2", instead_of=seen)
    in_time = store.take_lease("relay", "relay:2", instead_of=store.leases()["relay"])

    assert (too_late, in_time) == (False, True)
    assert not store.beat("relay", "relay:1")


def test_only_its_holder_drops_a_lease(store: SqlStore) -> None:
    store.take_lease("relay", "relay:1", instead_of=None)

    store.drop_lease("relay", "relay:2")
    kept = store.leases()
    store.drop_lease("relay", "relay:1")

    assert list(kept) == ["relay"]
    assert store.leases() == {}


def test_workers_that_hold_deliveries_without_a_lease_are_named(store: SqlStore) -> None:
    keep_steps(store, "a", "b", "c")
    store.take_lease("worker:alive", "worker:alive", instead_of=None)
    claim(store, limit=1, worker="worker:alive")
    claim(store, limit=1, worker="worker:gone")

    gone = store.workers_without_lease()

    assert gone == {"worker:gone"}


def test_what_a_dead_worker_had_claimed_comes_back_in_its_place(store: SqlStore) -> None:
    keep_steps(store, "a", "a", "a")
    claim(store, limit=2, worker="worker:dead")

    queues = store.bury_worker("worker:dead", actor=TEST)

    assert queues == {SEND}
    assert states(store) == [State.READY] * 3
    assert [row.deaths for row in rows(store, t.delivery)] == [1, 1, 0]
    assert [c.place for c in claim(store)] == [1]


def test_the_third_death_is_the_deliverys_own(store: SqlStore) -> None:
    keep_steps(store, "a", "a", "b")

    for number in range(3):
        claim(store, limit=1, worker=f"worker:{number}")
        store.bury_worker(f"worker:{number}", actor=TEST)

    assert states(store) == [State.DEAD, State.WAITING, State.READY]
    assert rows(store, t.delivery)[0].cause == "worker.killed"
    assert list(discrepancies(store)) == []


def test_what_a_dead_worker_was_sending_is_in_doubt(store: SqlStore) -> None:
    keep_steps(store, "a", "a", "b")
    claimed = claim(store, worker="worker:dead")
    store.mark_sending(claimed[0].id, claimed[0].token)

    store.bury_worker("worker:dead", actor=TEST)

    assert states(store) == [State.IN_DOUBT, State.WAITING, State.READY]
    assert rows(store, t.delivery)[0].cause == "worker.killed-while-sending"


def test_what_a_worker_gives_back_at_its_own_end_is_blamed_for_nothing(store: SqlStore) -> None:
    keep_steps(store, "a", "b")
    for number in range(5):
        claim(store, worker=f"worker:{number}")
        store.bury_worker(f"worker:{number}", actor=TEST, died=False)

    assert [(row.state, row.deaths) for row in rows(store, t.delivery)] == [(State.READY, 0)] * 2
    assert orders(claim(store)) == ["a", "b"]  # together, not as suspects


def test_a_worker_with_much_in_hand_is_buried_whole(store: SqlStore) -> None:
    keep_steps(store, *(f"{number}" for number in range(600)))
    while claim(store, worker="worker:dead"):
        pass
    held = states(store).count(State.CLAIMED)

    store.bury_worker("worker:dead", actor=TEST)

    assert held == 600
    assert states(store).count(State.READY) == 600
    assert store.workers_without_lease() == set()


def test_a_grave_is_dug_once(store: SqlStore) -> None:
    keep_steps(store, "a")
    claim(store, worker="worker:dead")

    first = store.bury_worker("worker:dead", actor=TEST)
    second = store.bury_worker("worker:dead", actor=TEST)

    assert (first, second) == ({SEND}, set())
    assert rows(store, t.delivery)[0].deaths == 1


# --- what is due, what nobody attends --------------------------------------------------------------------------------


def test_a_retry_runs_when_it_is_due_and_not_before(store: SqlStore) -> None:
    keep_steps(store, "a", "a")
    end(store, claim(store, limit=1), retry(due_in=SECOND * 60))

    early = store.wake_due(limit=10)
    now_due(store)
    due = store.wake_due(limit=10)

    assert (early, due) == (set(), {SEND})
    assert [c.place for c in claim(store)] == [1, 2]


def test_the_longest_overdue_are_woken_first(store: SqlStore) -> None:
    keep_steps(store, "a", "b", "c")
    for seconds in (3, 1, 2):
        end(store, claim(store, limit=1), retry(due_in=-SECOND * seconds))

    store.wake_due(limit=2)

    assert states(store) == [State.READY, State.RETRYING, State.READY]


def test_ready_ones_that_nobody_claims_are_named_after_a_while(store: SqlStore) -> None:
    keep_steps(store, "a")

    young = store.queues_with_work(queues=[SEND, "send.archive"], older_than=SECOND * 60)
    old = store.queues_with_work(queues=[SEND, "send.archive"], older_than=timedelta(0))

    assert (young, old) == (set(), {SEND})


def test_ready_ones_that_a_clock_set_back_puts_into_the_future_are_named_at_once(store: SqlStore) -> None:
    keep_steps(store, "a")
    with store.database.write() as connection:
        ahead = store.database.now(connection) + SECOND * 3600
        connection.execute(update(t.delivery).values(changed_at=ahead))

    assert store.queues_with_work(queues=[SEND], older_than=SECOND * 60) == {SEND}


def test_a_closed_endpoint_has_no_work_but_its_check(store: SqlStore) -> None:
    keep_steps(store, "a")
    _trip(store, check_in=SECOND * 60)

    resting = store.queues_with_work(queues=[SEND], older_than=timedelta(0))
    store.put_off_check("target", check_in=-SECOND, cause="endpoint.dns")
    due = store.queues_with_work(queues=[SEND], older_than=timedelta(0))

    assert (resting, due) == (set(), {SEND})


# --- people ----------------------------------------------------------------------------------------------------------


def test_a_deed_names_who_did_it_and_why(store: SqlStore) -> None:
    keep_steps(store, "a")
    (dead,) = claim(store)
    end(store, [dead], kill())

    store.move([dead.id], Event.DISCARD, expected=State.DEAD, actor=Actor(name="person:ada", reason="scrapped"))
    deed = rows(store, t.journal)[-1]

    assert (deed.actor, deed.reason, deed.act, deed.old, deed.new) == (
        "person:ada",
        "scrapped",
        "discard",
        "DEAD",
        "DISCARDED",
    )
    assert abs(deed.at - datetime.now(UTC)) < SECOND * 60


def test_a_deed_comes_too_late_for_what_has_moved_on(store: SqlStore) -> None:
    keep_steps(store, "a")
    (dead,) = claim(store)
    end(store, [dead], kill())
    store.move([dead.id], Event.REPLAY, expected=State.DEAD, actor=TEST)

    store.move([dead.id], Event.DISCARD, expected=State.DEAD, actor=TEST)

    assert states(store) == [State.READY]


def test_discarding_lets_the_lane_go_on(store: SqlStore) -> None:
    keep_steps(store, "a", "a")
    (dead,) = claim(store, limit=1)
    end(store, [dead], kill())

    queues = store.move([dead.id], Event.DISCARD, expected=State.DEAD, actor=TEST)

    assert queues == {SEND}
    assert states(store) == [State.DISCARDED, State.READY]


# --- journal and totals ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE journal SET reason = 'another'",
        "DELETE FROM journal",
        "INSERT OR REPLACE INTO journal (id, at, actor, reason, act, old, new, cause, detail) "
        "SELECT id, at, actor, 'another', act, old, new, cause, detail FROM journal",
        "TRUNCATE journal",
    ],
)
def test_the_database_itself_refuses_to_change_the_journal(store: SqlStore, change: str) -> None:
    if change.startswith("INSERT OR") and not store.database.is_sqlite:
        change = (
            "INSERT INTO journal (id, at, actor, reason, act, old, new, cause, detail) "
            "SELECT id, at, actor, 'another', act, old, new, cause, detail FROM journal "
            "ON CONFLICT (id) DO UPDATE SET reason = excluded.reason"
        )
    _trip(store)
    before = rows(store, t.journal)

    with pytest.raises(DBAPIError), store.database.engine.begin() as connection:
        connection.execute(text(change))

    assert rows(store, t.journal) == before


def test_postgresql_stamps_who_was_logged_in(store: SqlStore) -> None:
    with store.transaction() as transaction:
        transaction.execute(
            insert(t.journal).values(
                at=transaction.now,
                login="somebody else",
                actor="",
                reason="",
                act="",
                old="",
                new="",
                cause="",
                detail="",
            )
        )

    with store.database.read() as connection:
        login = connection.execute(select(t.journal.c.login)).scalar_one()

    assert login == ("somebody else" if store.database.is_sqlite else "postgres")


def test_folding_changes_no_sum(store: SqlStore) -> None:
    for order in "abcab":
        keep_steps(store, order)
    end(store, claim(store, limit=2), kill())
    before = totals(store)

    store.fold_totals()
    store.fold_totals()

    assert totals(store) == before == recount(store)
    assert len(rows(store, t.total)) <= len({(row.measure, row.route) for row in rows(store, t.total)})


def test_the_books_balance_in_every_state(store: SqlStore) -> None:
    keep_steps(store, *"abcdefgg")
    for outcome in (succeed(), kill(), doubt(), retry(), release()):
        end(store, claim(store, limit=1), outcome)

    wrong = list(discrepancies(store))

    assert wrong == []
    assert totals(store)["planned", "steps-as-they-are"] == 8


# --- time ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("year", [1, 999, 1970, 2026, 9999])
def test_instants_come_back_in_utc_and_sort_by_time(store: SqlStore, year: int) -> None:
    east, west = timezone(timedelta(hours=13)), timezone(timedelta(hours=-11))
    moments = [
        datetime(year, 6, 1, 12, tzinfo=UTC),
        datetime(year, 6, 1, 12, 0, 0, 1, tzinfo=UTC),
        datetime(year, 6, 2, 1, 30, tzinfo=east),
        datetime(year, 6, 1, 2, tzinfo=west),
    ]

    with store.transaction() as transaction:
        for number, moment in enumerate(moments):
            transaction.execute(insert(t.opening).values(digest=bytes([number]), count=0, at=moment))
    with store.database.read() as connection:
        found = connection.execute(select(t.opening.c.digest, t.opening.c.at).order_by(t.opening.c.at)).all()

    assert [row.at for row in found] == moments
    assert {row.at.tzinfo for row in found} == {UTC}


def test_the_stores_clock_is_the_same_for_all(store: SqlStore) -> None:
    with store.database.read() as connection:
        now = store.database.now(connection)

    assert abs((now - datetime.now(UTC)).total_seconds()) < 60
    assert now.tzinfo is UTC


def test_late_attempts_need_no_claim(store: SqlStore) -> None:
    keep_steps(store, "a")
    (claimed,) = claim(store)
    end(store, [claimed], succeed())

    with store.transaction() as transaction:
        transaction.record_late([Settled(claimed=claimed, outcome=retry(), attempt=an_attempt(claimed, retry()))])

    assert [row.late for row in rows(store, t.attempt)] == [False, True]


def test_an_outcome_that_a_restored_store_has_no_delivery_for_is_noted_at_no_other_and_holds_up_none(
    store: SqlStore,
) -> None:
    keep_steps(store, "a", "b", "c")
    first, second, third = claim(store)
    gone = replace(first, id=first.id + 1_000)
    another = replace(second, key="of what bore this number before", token="of that time")

    end(store, [gone, another, third], succeed())

    assert {row.id: row.state for row in rows(store, t.delivery)} == {
        first.id: State.CLAIMED,
        second.id: State.CLAIMED,
        third.id: State.DELIVERED,
    }
    assert [(row.delivery, row.late) for row in rows(store, t.attempt)] == [(third.id, False)]
