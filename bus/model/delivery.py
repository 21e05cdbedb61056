"""The Delivery's state machine, as data: one message along one route."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from bus.errors import DeliveryFailure, EndpointDown, OutcomeUnknown, TransientFailure
from bus.model.message import BUS
from bus.model.retry import RetryPolicy

MAX_DEATHS = 3
"""Workers that may die with a delivery before it is held to be the cause."""

MAX_TRIPS = 3
"""Times one delivery may trip an endpoint that others pass before it counts as its own failure."""


class State(StrEnum):
    READY = "READY"
    WAITING = "WAITING"
    CLAIMED = "CLAIMED"
    SENDING = "SENDING"
    RETRYING = "RETRYING"
    DELIVERED = "DELIVERED"
    DEAD = "DEAD"
    IN_DOUBT = "IN_DOUBT"
    DISCARDED = "DISCARDED"


class Stage(StrEnum):
    TRANSFORM = "transform"
    SEND = "send"


class Event(StrEnum):
    """What can happen to a delivery."""

    ADVANCE = "its turn in the lane came"
    YIELD = "something stands before it again"
    CLAIM = "a worker claimed it"
    RELEASE = "given back unattempted"
    MARK = "the call begins"
    TRANSFORMED = "transformed, to be sent"
    SUCCEED = "succeeded"
    FAIL = "failed, to be retried"
    KILL = "failed for good"
    DOUBT = "outcome unknown"
    DUE = "its retry is due"
    FOUND = "found at the target"
    ABSENT = "not found at the target"
    REPLAY = "a person replays it"
    DISCARD = "a person discards it"


TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.WAITING, Event.ADVANCE): State.READY,
    (State.READY, Event.YIELD): State.WAITING,
    (State.READY, Event.CLAIM): State.CLAIMED,
    # Nobody may serve its endpoint any more:
    (State.READY, Event.DISCARD): State.DISCARDED,
    (State.WAITING, Event.DISCARD): State.DISCARDED,
    (State.CLAIMED, Event.RELEASE): State.WAITING,
    (State.CLAIMED, Event.TRANSFORMED): State.WAITING,
    (State.CLAIMED, Event.MARK): State.SENDING,
    (State.CLAIMED, Event.SUCCEED): State.DELIVERED,
    (State.CLAIMED, Event.FAIL): State.RETRYING,
    (State.CLAIMED, Event.KILL): State.DEAD,
    (State.CLAIMED, Event.DOUBT): State.IN_DOUBT,
    (State.SENDING, Event.RELEASE): State.WAITING,
    (State.SENDING, Event.SUCCEED): State.DELIVERED,
    (State.SENDING, Event.FAIL): State.RETRYING,
    (State.SENDING, Event.KILL): State.DEAD,
    (State.SENDING, Event.DOUBT): State.IN_DOUBT,
    (State.RETRYING, Event.DUE): State.WAITING,
    (State.RETRYING, Event.DISCARD): State.DISCARDED,
    (State.IN_DOUBT, Event.FOUND): State.DELIVERED,
    (State.IN_DOUBT, Event.ABSENT): State.WAITING,
    # A late outcome of the call that caused the doubt, from a worker that was held to be dead:
    (State.IN_DOUBT, Event.SUCCEED): State.DELIVERED,
    (State.IN_DOUBT, Event.FAIL): State.RETRYING,
    (State.IN_DOUBT, Event.KILL): State.DEAD,
    (State.IN_DOUBT, Event.RELEASE): State.WAITING,
    (State.DEAD, Event.REPLAY): State.WAITING,
    (State.DEAD, Event.DISCARD): State.DISCARDED,
}
"""Every change there is. WAITING becomes READY by ADVANCE in the same transaction where nothing stands before it."""

FINAL = frozenset({State.DELIVERED, State.DISCARDED})
ENDED = frozenset({State.DELIVERED, State.DISCARDED, State.DEAD, State.IN_DOUBT})
RUNNING = frozenset({State.READY, State.CLAIMED, State.SENDING})
"""States behind which later ones of the lane may run in the same batch."""


def after(state: State, event: Event) -> State:
    """The state that follows.

    Raises:
        ValueError: the event cannot happen in this state.
    """
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise ValueError(f"{event.name} cannot happen to a delivery that is {state}") from None


def stands(state: State, *, blocks: bool) -> bool:
    """Whether a delivery in this state holds its place in the lane; `blocks`: also when dead."""
    return state not in FINAL and (blocks or state is not State.DEAD)


def is_laned_now(destination: str, stage: Stage) -> bool:
    """Whether order applies at this stage: sends, and re-entry; transforms towards an endpoint run ahead."""
    return stage is Stage.SEND or destination == BUS


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How one step of a delivery ended; what the store writes."""

    event: Event
    cause: str = ""
    detail: str = ""
    due_in: timedelta | None = None
    spends_attempt: bool = True
    trips_endpoint: bool = False
    blames: bool = False
    """It counts as this delivery's own trip: others pass."""
    document: str = ""
    """The target's own number of what it booked."""


def succeed(document: str = "") -> Outcome:
    return Outcome(event=Event.SUCCEED, document=document)


def release() -> Outcome:
    """Given back: not attempted in this batch."""
    return Outcome(event=Event.RELEASE, spends_attempt=False)


def fail(
    error: DeliveryFailure,
    *,
    attempts: int,
    trips: int,
    others_pass: bool,
    policy: RetryPolicy,
    remembers_keys: bool,
    jitter: float,
) -> Outcome:
    """What a failure makes of a delivery.

    `attempts` includes the one that failed; `trips` are the times it tripped before an endpoint that others pass,
    `others_pass` whether others passed since the last trip: while nobody passes, nobody is to blame and a refused
    login kills nothing. An unknown outcome is retried where the endpoint remembers idempotency keys, else doubted.
    """
    cause, detail = error.cause, error.detail
    if isinstance(error, EndpointDown):
        if not others_pass or trips < MAX_TRIPS:
            return Outcome(
                event=Event.RELEASE,
                cause=cause,
                detail=detail,
                spends_attempt=False,
                trips_endpoint=True,
                blames=others_pass,
            )
        return _retry(cause, detail, attempts, policy, jitter)
    if isinstance(error, OutcomeUnknown) and not remembers_keys:
        return Outcome(event=Event.DOUBT, cause=cause, detail=detail)
    if isinstance(error, TransientFailure):
        return _retry(cause, detail, attempts, policy, jitter, asked=error.retry_after)
    if isinstance(error, OutcomeUnknown):
        return _retry(cause, detail, attempts, policy, jitter)
    return Outcome(event=Event.KILL, cause=cause, detail=detail)


def _retry(
    cause: str, detail: str, attempts: int, policy: RetryPolicy, jitter: float, asked: timedelta | None = None
) -> Outcome:
    if policy.is_spent(attempts):
        return Outcome(event=Event.KILL, cause=cause, detail=f"{detail} (given up after {attempts} attempts)".strip())
    return Outcome(
        event=Event.FAIL, cause=cause, detail=detail, due_in=policy.delay(attempts, jitter=jitter, asked=asked)
    )


def worker_died(state: State, *, deaths: int) -> Outcome:
    """What the death of its worker makes of a delivery; `deaths` includes this one."""
    if state is State.SENDING:
        return Outcome(
            event=Event.DOUBT,
            cause="worker.killed-while-sending",
            detail="the worker died in mid-call",
            due_in=timedelta(0),
        )
    if deaths >= MAX_DEATHS:
        return Outcome(event=Event.KILL, cause="worker.killed", detail=f"{deaths} workers died with it")
    return release()
