"""send: claim → send → settle, in lane order; checks, trials and probes of its endpoint are its work too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from bus.crash_points import crash_point
from bus.errors import DeliveryFailure, EndpointDown, NotAvailable, OutcomeUnknown, PermanentFailure
from bus.model.delivery import Event, Outcome, Stage, fail, release, succeed
from bus.model.system import Endpoint
from bus.pipeline.settle import Ended, until_stored
from bus.pipeline.worker import BATCH, BUDGET, Shift, in_flights, in_lane_order, portions
from bus.ports import (
    Adapter,
    Answer,
    Batch,
    Checking,
    Claimed,
    Doubt,
    EndpointRow,
    Parcel,
    Probing,
    SendingMany,
    Settled,
    Verdict,
)

FIRST_CHECK = timedelta(seconds=1)
LONGEST_CHECK = timedelta(seconds=30)
"""A tripped endpoint is checked after these pauses, doubling from the first to the longest."""

FIRST_PROBE = timedelta(seconds=1)
NEXT_PROBE = timedelta(seconds=15)
"""When a doubt is probed: soon, since what is found is certain at once, and then at this pace."""

BATCH_TIME = timedelta(seconds=0.5)
"""How long one batch should take at the endpoint's measured speed."""


@dataclass(slots=True)
class Window:
    """An endpoint with its adapter, as one worker process serves it."""

    endpoint: Endpoint
    adapter: Adapter
    passed: bool = False
    """Whether something was delivered since the last trip."""
    flaps: int = 0
    """Trips in a row with nothing delivered between them: a check that passes proves little then."""
    pace: timedelta = timedelta(0)
    """What one call took lately, with the note in the store that it begins."""

    @property
    def batch(self) -> int:
        """How many to claim at once: as many as take about BATCH_TIME, so that outcomes are stored soon.

        After a trip with nothing delivered before it as many as there are, so that others may pass the one to blame.
        """
        fitting = max(1, int(BATCH_TIME / self.pace)) if self.pace and not self.flaps else BATCH
        return min(fitting, self.endpoint.batch, BATCH)


def send(window: Window, *, shift: Shift) -> bool:
    """Do the endpoint's next work: check it, probe doubts, send one batch; whether there is more to send."""
    row = shift.store.endpoint(window.endpoint.name)
    if not _is_open(row, window, shift):
        return False
    if row.doubt_is_due:
        if not _probe_doubts(window, shift):
            return False
    elif not row.has_ready:
        return False  # another took what the hint was for
    with shift.claim(window.endpoint.queue, limit=window.batch) as batch:
        return bool(batch.claimed) and _send_batch(batch, window, shift)


def _send_batch(batch: Batch, window: Window, shift: Shift) -> bool:
    """Send in lane order and settle; a trip of the endpoint gives everything after it back.

    Returns whether there is more to send, and the endpoint still open.
    """
    claimed = _failed_last(batch.claimed)
    crash_point("send.after_claim", holding=len(claimed))
    trips: list[DeliveryFailure] = []

    def judge(sent: Sequence[tuple[Ended, DeliveryFailure | None]]) -> list[Ended]:
        trips.extend(failure for ended, failure in sent if failure and ended.settled.outcome.trips_endpoint)
        return [ended for ended, _ in sent]

    def step(claimed: Claimed) -> Ended:
        return _given_back(claimed) if trips else judge([_send_one(claimed, window, shift)])[0]

    def fly(several: Sequence[Claimed]) -> list[Ended]:
        return [_given_back(claimed) for claimed in several] if trips else judge(_send_many(several, window, shift))

    if isinstance(window.adapter, SendingMany):
        ended = in_flights(claimed, fly, _given_back, shift=shift)
    else:
        ended = in_lane_order(claimed, step, _given_back, shift=shift)
    more = has_tripped = False
    for portion in portions(ended):
        if trips and not has_tripped:
            _trip(window, trips[0], shift)
            has_tripped = True
            crash_point("send.after_trip", holding=len(claimed))
        crash_point("send.before_settle", holding=len(portion))
        more = shift.settle(portion, queue=window.endpoint.queue, leaves=batch.leaves)
        del portion  # let go before the next is sent
    return more and not trips


def _failed_last(batch: Sequence[Claimed]) -> list[Claimed]:
    """Lanes with one that failed before come after the others: else the oldest could trip the endpoint for ever,
    and nobody would ever pass to show that it alone is to blame."""
    failed = {c.lane or c.id for c in batch if c.cause}
    return sorted(batch, key=lambda c: (c.lane or c.id) in failed)


def _given_back(claimed: Claimed) -> Ended:
    return Ended(Settled(claimed=claimed, outcome=release()))


def _send_one(claimed: Claimed, window: Window, shift: Shift) -> tuple[Ended, DeliveryFailure | None]:
    """One call, outside any transaction; every error is translated into what it means for the delivery."""
    adapter, turn = window.adapter, shift.clock()
    try:
        parcel = parcel_of(shift.with_body(claimed))
    except PermanentFailure as failure:
        return _judged(claimed, failure, window, shift, began=turn, ended=shift.clock())
    if not adapter.remembers_keys and not _marked(claimed, shift):
        return _given_back(claimed), None
    crash_point("send.after_mark", holding=1)
    began = shift.clock()
    try:
        result: Answer | DeliveryFailure = adapter.send(parcel)
    except (Exception, SystemExit) as error:  # noqa: BLE001  # the delivery records it
        result = _failure(error)
    ended = shift.clock()
    crash_point("send.after_call", holding=1)
    window.pace = (window.pace * 3 + (ended - turn)) / 4
    return _judged(claimed, result, window, shift, began=began, ended=ended)


def _send_many(several: Sequence[Claimed], window: Window, shift: Shift) -> list[tuple[Ended, DeliveryFailure | None]]:
    """One call for deliveries of different lanes, to a target that remembers keys."""
    assert isinstance(window.adapter, SendingMany)
    parcels, results = _parcels(several, shift)
    began = shift.clock()
    try:
        answers = window.adapter.send_many(list(parcels.values())) if parcels else ()
        results |= zip(parcels, answers, strict=True)
    except (Exception, SystemExit) as error:  # noqa: BLE001  # the deliveries record it
        results |= dict.fromkeys(parcels, _failure(error))
    ended = shift.clock()
    crash_point("send.after_call", holding=len(several))
    window.pace = (window.pace * 3 + (ended - began) / len(several)) / 4
    return [_judged(claimed, results[claimed.id], window, shift, began=began, ended=ended) for claimed in several]


def _parcels(several: Sequence[Claimed], shift: Shift) -> tuple[dict[int, Parcel], dict[int, Answer | DeliveryFailure]]:
    """The parcels by delivery, and the failures of those whose body cannot be had."""
    parcels: dict[int, Parcel] = {}
    failures: dict[int, Answer | DeliveryFailure] = {}
    for claimed in several:
        try:
            parcels[claimed.id] = parcel_of(shift.with_body(claimed))
        except PermanentFailure as failure:
            failures[claimed.id] = failure
    return parcels, failures


def _failure(error: Exception | SystemExit) -> DeliveryFailure:
    if isinstance(error, DeliveryFailure):
        return error
    # Whether it was sent nobody knows.
    return OutcomeUnknown("adapter.raised", f"{type(error).__name__}: {error}")


def _judged(
    claimed: Claimed,
    result: Answer | DeliveryFailure,
    window: Window,
    shift: Shift,
    *,
    began: timedelta,
    ended: timedelta,
) -> tuple[Ended, DeliveryFailure | None]:
    """What the target's answer, or its absence, means for the delivery."""
    failure: DeliveryFailure | None = None
    if isinstance(result, DeliveryFailure):
        failure = result
        outcome = fail(
            failure,
            attempts=claimed.attempts + 1,
            trips=claimed.trips,
            others_pass=window.passed,
            policy=shift.policy_of(claimed),
            remembers_keys=window.adapter.remembers_keys,
            jitter=shift.jitter(),
        )
        if outcome.event is Event.DOUBT and isinstance(window.adapter, Probing):
            outcome = replace(outcome, due_in=FIRST_PROBE)
    else:
        outcome = succeed(result.document)
        window.passed, window.flaps = True, 0
    attempt = shift.attempt(claimed, Stage.SEND, outcome, began=began, ended=ended, exchange=result.exchange)
    return Ended(Settled(claimed=claimed, outcome=outcome, attempt=attempt)), failure


def _marked(claimed: Claimed, shift: Shift) -> bool:
    """Note in the store that the call begins: after a kill nobody would know whether it was made."""
    return until_stored(lambda: shift.store.mark_sending(claimed.id, claimed.token), shift.stop)


def parcel_of(claimed: Claimed) -> Parcel:
    """What is sent: the transform's output under the message's header, or the message as it came."""
    message = claimed.kept.message
    if claimed.output is not None:
        output = claimed.output
        message = replace(message, type=output.type, content_type=output.content_type, body=output.body)
    return Parcel(message=message, key=claimed.key)


# --- the endpoint's state --------------------------------------------------------------------------------------------


def _trip(window: Window, failure: DeliveryFailure, shift: Shift) -> None:
    name = window.endpoint.name
    pause = _pause(window.flaps, shift)
    window.flaps, window.passed = (0 if window.passed else window.flaps + 1), False
    tripped = until_stored(
        lambda: shift.store.trip(name, cause=failure.cause, detail=failure.detail, check_in=pause, actor=shift.actor),
        shift.stop,
    )
    if tripped:
        shift.telemetry.event("endpoint tripped", endpoint=name, cause=failure.cause, detail=failure.detail)


def _pause(failures: int, shift: Shift) -> timedelta:
    doubled: timedelta = FIRST_CHECK * 2 ** min(failures, 10)
    return min(doubled, LONGEST_CHECK) * (0.75 + shift.jitter() / 2)


def _is_open(row: EndpointRow, window: Window, shift: Shift) -> bool:
    """Whether the endpoint takes deliveries; checks it first when its check is due."""
    name = row.name
    if row.state == "open":
        return True
    if not row.check_is_due:
        return False
    pause = _pause(row.checks + window.flaps, shift)
    # Taking the check puts the next one off, so that one thread calls the endpoint and the others do not.
    if not shift.store.put_off_check(name, check_in=max(pause, window.endpoint.timeout)):
        return False
    try:
        if isinstance(window.adapter, Checking):
            window.adapter.check()
        else:
            return _try_endpoint(window, shift)
    except DeliveryFailure as error:
        shift.store.put_off_check(name, check_in=pause, cause=error.cause, detail=error.detail)
        shift.telemetry.event("endpoint check failed", endpoint=name, cause=error.cause, detail=error.detail)
        return False
    except (Exception, SystemExit) as error:  # noqa: BLE001  # the endpoint's row records it
        shift.store.put_off_check(
            name, check_in=pause, cause="adapter.raised", detail=f"{type(error).__name__}: {error}"
        )
        return False
    _reopen(window, shift)
    return True


def _reopen(window: Window, shift: Shift) -> None:
    if shift.store.reopen(window.endpoint.name, actor=shift.actor):
        shift.telemetry.event("endpoint open", endpoint=window.endpoint.name)


def _try_endpoint(window: Window, shift: Shift) -> bool:
    """An adapter that cannot check is tried with the head of a lane; any answer but EndpointDown means it is back."""
    with shift.claim(window.endpoint.queue, trial=True) as trial:
        if trial.claimed:
            ended, failure = _send_one(trial.claimed[0], window, shift)
            if isinstance(failure, EndpointDown):
                # A trial says nothing about this delivery: it does not count as a trip of its own.
                released = replace(release(), cause=failure.cause, detail=failure.detail)
                shift.settle([Ended(replace(ended.settled, outcome=released))])
                raise failure
            shift.settle([ended])
        elif shift.store.has_ready(window.endpoint.queue):
            return False  # its lane heads are at work or out of sight: tried when the next check is due
    _reopen(window, shift)
    return True


# --- doubts ----------------------------------------------------------------------------------------------------------


def _probe_doubts(window: Window, shift: Shift) -> bool:
    """Ask the target about what is in doubt here, one by one; whether the endpoint is still open."""
    until = shift.clock() + BUDGET
    again_in = max(NEXT_PROBE, window.endpoint.timeout * 2)
    while not shift.stop.is_set() and shift.still_alive() and shift.clock() < until:
        doubts = shift.store.claim_doubts(window.endpoint.queue, limit=1, again_in=again_in)
        if not doubts:
            return True
        try:
            _probe_one(doubts[0], window, shift)
        except EndpointDown as failure:
            _trip(window, failure, shift)
            return False
    return not shift.stop.is_set()


def _probe_one(doubt: Doubt, window: Window, shift: Shift) -> None:
    """
    Raises:
        EndpointDown: nobody can be asked there; the doubt stays.
    """
    claimed = doubt.claimed
    if not isinstance(window.adapter, Probing):
        shift.store.put_off_doubt(claimed.id, of_claim=claimed.token, attempt=None, again_in=None)
        return
    began = shift.clock()
    try:
        finding = window.adapter.probe(parcel_of(shift.with_body(claimed)))
    except NotAvailable:  # stopped while the store was away: nobody was asked
        raise
    except (Exception, SystemExit) as error:  # recorded; no answer leaves it in doubt
        failure = error if isinstance(error, DeliveryFailure) else PermanentFailure("adapter.raised", repr(error))
        outcome = Outcome(event=Event.DOUBT, cause=failure.cause, detail=failure.detail)
        attempt = shift.attempt(
            claimed, Stage.SEND, outcome, began=began, ended=shift.clock(), exchange=failure.exchange
        )
        attempt = replace(attempt, outcome="probe: no answer")
        shift.store.put_off_doubt(claimed.id, of_claim=claimed.token, attempt=attempt, again_in=NEXT_PROBE)
        if isinstance(failure, EndpointDown):
            raise failure from error
        return
    crash_point("send.after_probe", holding=1)
    event = Event.FOUND if finding.verdict is Verdict.FOUND else Event.ABSENT
    outcome = Outcome(event=event, document=finding.document)
    attempt = shift.attempt(claimed, Stage.SEND, outcome, began=began, ended=shift.clock(), exchange=finding.exchange)
    attempt = replace(attempt, outcome=f"probe: {finding.verdict}")
    # "Absent" counts only when the target had time to show what it may have booked.
    rest = window.endpoint.visible_after - doubt.doubted_for
    if event is Event.ABSENT and rest > timedelta(0):
        shift.store.put_off_doubt(claimed.id, of_claim=claimed.token, attempt=attempt, again_in=max(rest, FIRST_PROBE))
        return
    queues = shift.store.settle_doubt(
        claimed.id,
        event,
        actor=shift.actor,
        of_claim=claimed.token,
        attempt=attempt,
        document=finding.document,
    )
    shift.telemetry.event(
        f"doubt {finding.verdict}", delivery=claimed.id, endpoint=window.endpoint.name, document=finding.document
    )
    shift.wake(queues)
