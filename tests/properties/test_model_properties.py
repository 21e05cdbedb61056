"""The pure model under anything: one state at a time, balanced books, bounded delays, no lease judged too early."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from bus.errors import DeliveryFailure, EndpointDown, OutcomeUnknown, PermanentFailure, TransientFailure
from bus.model.delivery import (
    ENDED,
    FINAL,
    RUNNING,
    TRANSITIONS,
    Event,
    Stage,
    State,
    after,
    fail,
    is_laned_now,
    stands,
    worker_died,
)
from bus.model.lane import RUN, LaneKey, Standing, claimable, head_run
from bus.model.ledger import Deltas, changed_delivery, disposition, equations, planned_delivery
from bus.model.message import BUS
from bus.model.path import MISSING, value_at, values_at
from bus.model.retry import LONGEST_ASKED, RetryPolicy
from bus.pipeline.resume import Observer

SECOND = timedelta(seconds=1)
EVENTS = st.lists(st.sampled_from(Event), max_size=40)
DESTINATIONS = st.sampled_from(["target", BUS])


# --- the state machine -----------------------------------------------------------------------------------------------


@given(EVENTS)
def test_a_delivery_that_is_final_stays_so_and_keeps_no_place(events: list[Event]) -> None:
    state = State.WAITING
    finals = []

    for event in events:
        if (state, event) in TRANSITIONS:
            assert state not in FINAL
            state = after(state, event)
            finals += [state] if state in FINAL else []

    assert len(finals) <= 1
    assert (state in FINAL) is bool(finals)
    assert not (finals and stands(state, blocks=True))
    assert (state in ENDED) or state not in FINAL


FAILURES = st.sampled_from([TransientFailure, EndpointDown, PermanentFailure, OutcomeUnknown, DeliveryFailure])


@given(
    kind=FAILURES,
    attempts=st.integers(1, 50),
    trips=st.integers(0, 5),
    others_pass=st.booleans(),
    remembers=st.booleans(),
    most=st.integers(1, 10),
    state=st.sampled_from([State.CLAIMED, State.SENDING, State.IN_DOUBT]),
)
def test_every_failure_is_something_that_can_happen_to_what_is_being_sent(
    kind: type[DeliveryFailure],
    attempts: int,
    trips: int,
    others_pass: bool,
    remembers: bool,
    most: int,
    state: State,
) -> None:
    outcome = fail(
        kind("cause"),
        attempts=attempts,
        trips=trips,
        others_pass=others_pass,
        policy=RetryPolicy(max_attempts=most),
        remembers_keys=remembers,
        jitter=0.5,
    )

    # A doubt about what is in doubt is no change, and the pipeline makes none of it.
    assert (state, outcome.event) in TRANSITIONS or (state, outcome.event) == (State.IN_DOUBT, Event.DOUBT)
    assert (outcome.event is Event.FAIL) is (outcome.due_in is not None)
    assert outcome.event is not Event.FAIL or attempts < most
    assert outcome.event is not Event.DOUBT or (kind is OutcomeUnknown and not remembers)
    assert outcome.spends_attempt is not outcome.trips_endpoint
    assert kind is not OutcomeUnknown or remembers or outcome.event is Event.DOUBT


@given(state=st.sampled_from([State.CLAIMED, State.SENDING]), deaths=st.integers(1, 10))
def test_every_death_is_something_that_can_happen_to_what_is_held(state: State, deaths: int) -> None:
    outcome = worker_died(state, deaths=deaths)

    assert (state, outcome.event) in TRANSITIONS
    assert (outcome.event is Event.DOUBT) is (state is State.SENDING)


# --- lanes -----------------------------------------------------------------------------------------------------------

STANDING = st.lists(
    st.tuples(st.sampled_from(Stage), st.sampled_from(sorted(frozenset(State) - FINAL))), max_size=RUN + 20
).map(lambda pairs: [Standing(number, stage, state) for number, (stage, state) in enumerate(pairs)])


def _moved(destination: str, standing: list[Standing]) -> list[Standing]:
    moves = head_run(destination, standing)
    new = dict.fromkeys(moves.ready, State.READY) | dict.fromkeys(moves.waiting, State.WAITING)
    return [Standing(s.id, s.stage, new.get(s.id, s.state)) for s in standing]


@given(DESTINATIONS, STANDING)
def test_after_the_moves_exactly_the_head_run_is_ready(destination: str, standing: list[Standing]) -> None:
    moved = _moved(destination, standing)[:RUN]

    laned = [is_laned_now(destination, s.stage) for s in moved]
    runs = [is_laned and s.state in RUNNING for s, is_laned in zip(moved, laned, strict=True)]
    length = runs.index(False) if False in runs else len(runs)
    behind = [s for s, is_laned in zip(moved[length:], laned[length:], strict=True) if is_laned]
    assert all(s.state is not State.READY for s in behind)
    assert not (length < len(moved) and laned[length] and moved[length].state is State.WAITING)


@given(DESTINATIONS, STANDING)
def test_moving_twice_changes_nothing_more(destination: str, standing: list[Standing]) -> None:
    once = _moved(destination, standing)

    assert _moved(destination, once) == once


@given(DESTINATIONS, STANDING)
def test_moves_touch_only_what_waits_or_is_ready_in_its_turn(destination: str, standing: list[Standing]) -> None:
    moves = head_run(destination, standing)

    by_id = {s.id: s for s in standing}
    assert all(by_id[number].state is State.WAITING for number in moves.ready)
    assert all(by_id[number].state is State.READY for number in moves.waiting)
    assert all(is_laned_now(destination, by_id[number].stage) for number in moves.ready + moves.waiting)


@given(st.lists(st.integers(0, 30), unique=True), st.sets(st.integers(0, 30)))
def test_what_is_claimed_of_a_lane_is_its_unbroken_head(standing: list[int], candidates: set[int]) -> None:
    claimed = claimable(candidates, standing)

    assert claimed == standing[: len(claimed)]
    assert set(claimed) <= candidates
    assert claimed == standing or standing[len(claimed)] not in candidates


@given(st.lists(st.tuples(st.sampled_from([BUS, "a", "ä", "b", "B"]), st.text(max_size=4))))
def test_everybody_locks_lanes_in_one_order_with_the_bus_first(names: list[tuple[str, str]]) -> None:
    lanes = sorted({LaneKey(*name) for name in names}, key=lambda lane: lane.lock_order)

    destinations = [lane.destination == BUS for lane in lanes]
    assert destinations == sorted(destinations, reverse=True)
    assert all(first.lock_order < second.lock_order for first, second in pairwise(lanes))


# --- the ledger ------------------------------------------------------------------------------------------------------

WALKS = st.lists(st.tuples(DESTINATIONS, st.sampled_from([State.READY, State.WAITING, State.DEAD]), EVENTS), max_size=8)


@given(WALKS)
def test_whatever_deliveries_go_through_their_sum_balances(walks: list[tuple[str, State, list[Event]]]) -> None:
    totals: Deltas = Counter()

    for destination, state, events in walks:
        totals.update(planned_delivery(destination, "route", state))
        for event in events:
            if (state, event) in TRANSITIONS:
                old, state = state, after(state, event)
                totals.update(changed_delivery(destination, "route", old, state))
            _, _, deliveries = equations({measure: amount for (measure, _), amount in totals.items()})
            assert deliveries.balances, str(deliveries)

    assert all(amount >= 0 for amount in totals.values())


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), max_size=10))
def test_a_message_is_counted_in_exactly_one_place(changes: list[tuple[int, int]]) -> None:
    totals: Counter[str] = Counter(accepted=1, unrouted=1)
    planned = entering = 0

    for more, more_entering in changes:
        old = disposition(planned, entering)
        planned, entering = max(0, planned + more), max(0, entering + more_entering)
        totals[old] -= 1
        totals[disposition(planned, entering)] += 1

        _, messages, _ = equations(totals)
        assert messages.balances, str(messages)


# --- retries ---------------------------------------------------------------------------------------------------------

POLICIES = st.builds(
    RetryPolicy,
    max_attempts=st.integers(1, 100),
    first=st.timedeltas(min_value=timedelta(microseconds=1), max_value=timedelta(days=2)),
    factor=st.floats(1, 1e9),
    longest=st.timedeltas(min_value=timedelta(microseconds=1), max_value=timedelta(days=30)),
    jitter=st.floats(0, 0.99),
)
JITTERS = st.floats(0, 1, exclude_max=True)


@given(POLICIES, st.integers(1, 5000), JITTERS)
def test_a_delay_is_never_negative_and_never_above_the_longest_but_for_jitter(
    policy: RetryPolicy, attempts: int, jitter: float
) -> None:
    delay = policy.delay(attempts, jitter=jitter)

    assert timedelta(0) <= delay <= policy.longest * (1 + policy.jitter) + timedelta(microseconds=1)


@given(POLICIES, st.integers(1, 100))
def test_delays_do_not_shrink(policy: RetryPolicy, attempts: int) -> None:
    assert policy.delay(attempts, jitter=0.5) <= policy.delay(attempts + 1, jitter=0.5)


@given(POLICIES, st.integers(1, 100), JITTERS, st.timedeltas(min_value=timedelta(0)))
def test_what_a_target_asks_for_is_not_undercut_up_to_a_year(
    policy: RetryPolicy, attempts: int, jitter: float, asked: timedelta
) -> None:
    delay = policy.delay(attempts, jitter=jitter, asked=asked)

    assert min(asked, LONGEST_ASKED) <= delay
    assert delay <= max(LONGEST_ASKED, policy.delay(attempts, jitter=jitter))


@given(POLICIES)
def test_attempts_end(policy: RetryPolicy) -> None:
    spent = [policy.is_spent(attempts) for attempts in range(1, policy.max_attempts + 1)]

    assert spent == [False] * (policy.max_attempts - 1) + [True]


# --- leases ----------------------------------------------------------------------------------------------------------

LOOKS = st.lists(
    st.tuples(st.floats(0, 12), st.sampled_from(["stood", "moved", "failed", "gone"])), min_size=1, max_size=40
)


@given(LOOKS)
def test_a_lease_lapses_only_after_it_was_seen_to_stand_still_for_its_whole_time(
    looks: list[tuple[float, str]],
) -> None:
    observer, now, counter = Observer(lease=SECOND * 15), timedelta(0), 0
    stood, seen_at, was_there = timedelta(0), None, False

    for pause, look in looks:
        now += SECOND * pause
        if look == "failed":
            observer.missed()
            seen_at = None
            continue
        counter += look == "moved"
        watched = now - seen_at if seen_at is not None and now - seen_at <= SECOND * 5 else timedelta(0)
        stood = stood + watched if look == "stood" and was_there else timedelta(0)
        seen_at, was_there = now, look != "gone"

        lapsed = observer.lapsed({"worker:1": ("worker:1", counter)} if was_there else {}, now=now)

        assert lapsed == ({"worker:1"} if was_there and stood >= SECOND * 15 else set())


@given(st.lists(st.floats(0.1, 14.9), min_size=5, max_size=50), st.floats(0, 3))
def test_a_lease_that_is_beaten_in_time_never_lapses(pauses: list[float], offset: float) -> None:
    observer, now, beaten = Observer(lease=SECOND * 15), SECOND * offset, timedelta(0)
    counter, judged = 0, set()

    for pause in pauses:
        now += SECOND * pause
        while beaten + SECOND * 3 <= now:
            beaten += SECOND * 3
            counter += 1
        judged |= observer.lapsed({"worker:1": ("worker:1", counter)}, now=now)

    assert judged == set()


# --- paths into documents --------------------------------------------------------------------------------------------

NAMES = st.sampled_from(["a", "b", "", "*"])
DOCUMENTS = st.recursive(
    st.integers() | st.text(max_size=3) | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
)


@given(DOCUMENTS, st.lists(NAMES, min_size=1, max_size=4).map(".".join))
def test_the_value_at_a_path_is_the_first_of_all_that_it_names(document: Any, path: str) -> None:
    assert value_at(document, path) is next(values_at(document, path), MISSING)
