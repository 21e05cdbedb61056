"""The Delivery's state machine: every pair of state and event, and what failures and deaths make of a delivery."""

from __future__ import annotations

from datetime import timedelta

import pytest

from bus.errors import EndpointDown, OutcomeUnknown, PermanentFailure, TransientFailure
from bus.model.delivery import (
    ENDED,
    FINAL,
    MAX_DEATHS,
    MAX_TRIPS,
    RUNNING,
    TRANSITIONS,
    Event,
    Outcome,
    Stage,
    State,
    after,
    fail,
    is_laned_now,
    release,
    stands,
    succeed,
    worker_died,
)
from bus.model.message import BUS
from bus.model.retry import RetryPolicy

POLICY = RetryPolicy(max_attempts=3, first=timedelta(seconds=2), jitter=0.0)

DRAWN = """
WAITING   ADVANCE     READY
READY     YIELD       WAITING
READY     CLAIM       CLAIMED
READY     DISCARD     DISCARDED
WAITING   DISCARD     DISCARDED
CLAIMED   RELEASE     WAITING
CLAIMED   TRANSFORMED WAITING
CLAIMED   MARK        SENDING
CLAIMED   SUCCEED     DELIVERED
CLAIMED   FAIL        RETRYING
CLAIMED   KILL        DEAD
CLAIMED   DOUBT       IN_DOUBT
SENDING   RELEASE     WAITING
SENDING   SUCCEED     DELIVERED
SENDING   FAIL        RETRYING
SENDING   KILL        DEAD
SENDING   DOUBT       IN_DOUBT
RETRYING  DUE         WAITING
RETRYING  DISCARD     DISCARDED
IN_DOUBT  FOUND       DELIVERED
IN_DOUBT  ABSENT      WAITING
IN_DOUBT  SUCCEED     DELIVERED
IN_DOUBT  FAIL        RETRYING
IN_DOUBT  KILL        DEAD
IN_DOUBT  RELEASE     WAITING
DEAD      REPLAY      WAITING
DEAD      DISCARD     DISCARDED
"""
EXPECTED = {
    (State[old], Event[event]): State[new] for old, event, new in (line.split() for line in DRAWN.split("\n") if line)
}


@pytest.mark.parametrize("event", Event, ids=lambda event: event.name)
@pytest.mark.parametrize("state", State)
def test_each_event_leads_where_the_table_says_or_cannot_happen(state: State, event: Event) -> None:
    if (state, event) in EXPECTED:
        assert after(state, event) is EXPECTED[state, event]
    else:
        with pytest.raises(ValueError, match=f"{event.name} cannot happen to a delivery that is {state}"):
            after(state, event)


def _reachable(start: State) -> set[State]:
    found = {start}
    while more := {new for (old, _), new in TRANSITIONS.items() if old in found} - found:
        found |= more
    return found


def test_every_state_can_be_reached() -> None:
    assert _reachable(State.WAITING) == set(State)


@pytest.mark.parametrize("state", sorted(frozenset(State) - FINAL))
def test_every_state_that_is_not_final_can_end(state: State) -> None:
    assert State.DELIVERED in _reachable(state)
    assert State.DISCARDED in _reachable(state)


@pytest.mark.parametrize("state", sorted(FINAL))
def test_a_final_state_is_never_left(state: State) -> None:
    assert _reachable(state) == {state}


def test_a_doubt_is_left_by_knowing_only() -> None:
    ways = {event for state, event in TRANSITIONS if state is State.IN_DOUBT}

    assert Event.REPLAY not in ways
    assert Event.DISCARD not in ways
    assert ways == {Event.FOUND, Event.ABSENT, Event.SUCCEED, Event.FAIL, Event.KILL, Event.RELEASE}


def test_what_is_final_has_ended_and_what_runs_has_not() -> None:
    assert FINAL < ENDED
    assert not RUNNING & ENDED


@pytest.mark.parametrize("state", sorted(set(State) - FINAL - {State.IN_DOUBT, State.CLAIMED, State.SENDING}))
def test_whatever_nobody_is_at_can_be_given_up(state: State) -> None:
    assert after(state, Event.DISCARD) is State.DISCARDED


@pytest.mark.parametrize("state", State)
def test_a_place_is_held_until_delivered_discarded_or_dead_where_the_dead_are_skipped(state: State) -> None:
    assert stands(state, blocks=True) is (state not in (State.DELIVERED, State.DISCARDED))
    assert stands(state, blocks=False) is (state not in (State.DELIVERED, State.DISCARDED, State.DEAD))


@pytest.mark.parametrize(
    ("destination", "stage", "laned"),
    [
        ("target", Stage.SEND, True),
        ("target", Stage.TRANSFORM, False),
        (BUS, Stage.TRANSFORM, True),
        (BUS, Stage.SEND, True),
    ],
)
def test_sends_and_reentry_are_ordered_and_other_transforms_run_ahead(
    destination: str, stage: Stage, laned: bool
) -> None:
    assert is_laned_now(destination, stage) is laned


# --- outcomes --------------------------------------------------------------------------------------------------------


def _fail(
    error: TransientFailure | EndpointDown | PermanentFailure | OutcomeUnknown,
    *,
    attempts: int = 1,
    trips: int = 0,
    others_pass: bool = True,
    remembers_keys: bool = False,
) -> Outcome:
    return fail(
        error,
        attempts=attempts,
        trips=trips,
        others_pass=others_pass,
        policy=POLICY,
        remembers_keys=remembers_keys,
        jitter=0.5,
    )


def test_a_transient_failure_is_retried_after_the_policys_delay() -> None:
    outcome = _fail(TransientFailure("target.busy", "locked"), attempts=2)

    assert (outcome.event, outcome.cause, outcome.detail) == (Event.FAIL, "target.busy", "locked")
    assert outcome.due_in == timedelta(seconds=4)
    assert outcome.spends_attempt


def test_a_target_may_ask_for_more_time() -> None:
    outcome = _fail(TransientFailure("target.busy", retry_after=timedelta(minutes=5)))

    assert outcome.due_in == timedelta(minutes=5)


def test_the_last_attempt_that_fails_kills_and_says_how_many_there_were() -> None:
    outcome = _fail(TransientFailure("target.busy", "locked"), attempts=3)

    assert (outcome.event, outcome.cause) == (Event.KILL, "target.busy")
    assert outcome.detail == "locked (given up after 3 attempts)"


def test_a_permanent_failure_kills_at_once() -> None:
    outcome = _fail(PermanentFailure("target.422", "no such material"))

    assert (outcome.event, outcome.cause, outcome.detail) == (Event.KILL, "target.422", "no such material")


def test_an_unknown_outcome_is_doubted_where_nothing_is_remembered() -> None:
    assert _fail(OutcomeUnknown("outcome.timeout"), attempts=3).event is Event.DOUBT


def test_an_unknown_outcome_is_retried_where_keys_are_remembered() -> None:
    assert _fail(OutcomeUnknown("outcome.timeout"), remembers_keys=True).event is Event.FAIL


@pytest.mark.parametrize("trips", [0, MAX_TRIPS, 100])
def test_an_endpoint_that_nobody_passes_blames_no_delivery(trips: int) -> None:
    outcome = _fail(EndpointDown("endpoint.dns"), trips=trips, others_pass=False)

    assert (outcome.event, outcome.trips_endpoint) == (Event.RELEASE, True)
    assert not outcome.spends_attempt
    assert not outcome.blames


def test_a_delivery_that_trips_what_others_pass_is_blamed_and_then_fails_itself() -> None:
    outcomes = [_fail(EndpointDown("endpoint.dns"), trips=trips) for trips in range(MAX_TRIPS + 1)]

    assert [outcome.event for outcome in outcomes] == [Event.RELEASE] * MAX_TRIPS + [Event.FAIL]
    assert [outcome.blames for outcome in outcomes] == [True] * MAX_TRIPS + [False]
    assert not outcomes[-1].trips_endpoint


def test_what_a_worker_had_only_claimed_is_given_back_twice() -> None:
    outcomes = [worker_died(State.CLAIMED, deaths=deaths) for deaths in range(1, MAX_DEATHS + 1)]

    assert outcomes[:-1] == [release()] * (MAX_DEATHS - 1)
    assert (outcomes[-1].event, outcomes[-1].cause) == (Event.KILL, "worker.killed")


def test_what_a_worker_was_sending_is_doubted_and_probed_at_once() -> None:
    outcome = worker_died(State.SENDING, deaths=MAX_DEATHS)

    assert (outcome.event, outcome.cause) == (Event.DOUBT, "worker.killed-while-sending")
    assert outcome.due_in == timedelta(0)


def test_success_carries_the_targets_own_number() -> None:
    assert succeed("4900000017").document == "4900000017"
    assert succeed().spends_attempt
