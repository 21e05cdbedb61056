"""settle: write how a batch ended, and make what follows ready, in one transaction that is repeated until stored."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TypeVar

from bus.crash_points import crash_point
from bus.errors import DataRefused, StoreConflict, StoreUnavailable
from bus.model.catalogue import Catalogue
from bus.model.delivery import FINAL, Event, Outcome, Stage, State, after, release
from bus.model.lane import LaneKey
from bus.model.message import BUS, Message, Opened
from bus.model.route import Selection
from bus.pipeline.plan import Entry, lanes_touched, plan, searchable
from bus.ports import Actor, Kept, MessageStore, NewDelivery, Owned, Settled, Telemetry, Transaction

T = TypeVar("T")

RETRY_STORE = timedelta(seconds=0.5)
"""Pause before an outcome is offered to the store again."""


@dataclass(frozen=True, slots=True)
class Child:
    """A message a transform made, with its routes selected (re-entry) or its way given (an ordinary route)."""

    message: Message
    opened: Opened
    selections: Sequence[Selection] = ()


@dataclass(frozen=True, slots=True)
class Ended:
    """How one claimed delivery ended: its outcome, and the messages it made."""

    settled: Settled
    children: Sequence[Child] = ()
    plans_itself: Sequence[Selection] | None = None
    """Routes of the delivery's own message, where it was queued up for re-entry."""

    @property
    def size(self) -> int:
        """Bytes that are held for it until it is settled."""
        made = sum(len(child.message.body) for child in self.children)
        if self.settled.output is not None:
            made += len(self.settled.output.body)
        if self.settled.attempt is not None:
            made += len(self.settled.attempt.exchange.sent) + len(self.settled.attempt.exchange.received)
        return made


def settle(
    ended: Sequence[Ended],
    *,
    store: MessageStore,
    catalogue: Catalogue,
    actor: Actor,
    telemetry: Telemetry,
    stop: threading.Event,
) -> set[str]:
    """Write the outcomes, children and plans; returns the queues that have work now.

    Repeated until the store took it: an outcome that happened must not be forgotten. What is not ours any more is
    recorded as a late attempt.
    """

    def store_all(batch: Sequence[Ended]) -> tuple[set[str], dict[int, State]]:
        return until_stored(lambda: _settle_once(batch, store, catalogue, actor), stop)

    try:
        queues, states = store_all(ended)
    except DataRefused:
        ended, queues, states = _one_by_one(ended, store_all)
    crash_point("settle.after_commit", holding=len(ended))
    for e in ended:
        c, outcome = e.settled.claimed, e.settled.outcome
        state = states.get(c.id)
        telemetry.event(
            f"delivery {outcome.event.name.lower()}" if state else "delivery late",
            delivery=c.id,
            message=c.kept.row,
            route=c.route,
            destination=c.destination,
            cause=outcome.cause,
            correlation=c.kept.message.correlation_id,
            attempts=c.attempts,
            document=outcome.document,
        )
    return queues


def _one_by_one(
    ended: Sequence[Ended], store_all: Callable[[Sequence[Ended]], tuple[set[str], dict[int, State]]]
) -> tuple[list[Ended], set[str], dict[int, State]]:
    """The database cannot keep a value of the batch: every outcome alone, that of the culprit without its values."""
    stored: list[Ended] = []
    queues: set[str] = set()
    states: dict[int, State] = {}
    stopped: set[LaneKey] = set()
    for e in ended:
        claimed = e.settled.claimed
        if claimed.lane in stopped and claimed.destination == BUS:
            e = Ended(Settled(claimed=claimed, outcome=release()))  # what stands before it did not end well after all
        try:
            woken, found = store_all([e])
        except DataRefused as error:
            e = _without_values(e, error)
            woken, found = store_all([e])
            if claimed.lane is not None:
                stopped.add(claimed.lane)
        stored.append(e)
        queues |= woken
        states |= found
    return stored, queues, states


def _without_values(e: Ended, error: DataRefused) -> Ended:
    """What happened at a target stays true; what was only to be stored is dead."""
    claimed, outcome = e.settled.claimed, e.settled.outcome
    happened = claimed.stage is Stage.SEND and outcome.event in (Event.SUCCEED, Event.DOUBT, Event.RELEASE)
    told = Outcome(
        event=outcome.event if happened else Event.KILL,
        cause="store.refused-value",
        detail=str(error),
        due_in=outcome.due_in,
        spends_attempt=outcome.spends_attempt,
        trips_endpoint=outcome.trips_endpoint,
        blames=outcome.blames,
    )
    attempt = e.settled.attempt
    kept = replace(attempt, cause=told.cause, detail=told.detail, document="") if attempt is not None else None
    return Ended(Settled(claimed=claimed, outcome=told, attempt=kept))


def until_stored(step: Callable[[], T], stop: threading.Event) -> T:
    """Do the step until the store takes it; only a stop ends the wait, with StoreUnavailable."""
    while True:
        try:
            return step()
        except StoreConflict:
            continue
        except StoreUnavailable:
            if stop.wait(RETRY_STORE.total_seconds()):
                raise


def _settle_once(
    ended: Sequence[Ended], store: MessageStore, catalogue: Catalogue, actor: Actor
) -> tuple[set[str], dict[int, State]]:
    with store.transaction() as transaction:
        lanes, of_children = _lanes(ended), _lanes_of_children(ended, catalogue)
        if of_children:
            transaction.lock_lanes(dict.fromkeys(lanes | of_children, 0))
        else:
            transaction.lock_known_lanes(lanes)
        owned = transaction.own([(e.settled.claimed.id, e.settled.claimed.token) for e in ended])
        ours = [e for e in ended if e.settled.claimed.id in owned and _may_happen(owned, e)]
        transaction.settle([e.settled for e in ours], owned=owned, actor=actor)
        settled = {e.settled.claimed.id for e in ours}
        transaction.record_late([e.settled for e in ended if e.settled.claimed.id not in settled])
        _note_entered(ours, owned, transaction)
        queues = _write_children(ours, catalogue, transaction)
        queues |= {e.settled.queue or e.settled.claimed.queue for e in ours if _may_run(e.settled, owned)}
        queues |= transaction.advance(_lanes(e for e in ours if _moves_its_lane(e, owned)))
        crash_point("settle.before_commit", holding=len(ended))
        return queues, {e.settled.claimed.id: owned[e.settled.claimed.id].state for e in ours}


def _may_happen(owned: Mapping[int, Owned], e: Ended) -> bool:
    """A doubt about a delivery already in doubt changes nothing."""
    return not (owned[e.settled.claimed.id].state is State.IN_DOUBT and e.settled.outcome.event is Event.DOUBT)


def _may_run(settled: Settled, owned: Mapping[int, Owned]) -> bool:
    """Given back or transformed, and in no lane or alone there: READY at once."""
    laned = settled.claimed.lane is not None and (
        settled.claimed.stage is Stage.SEND
        or settled.claimed.destination == BUS
        or settled.outcome.event is Event.TRANSFORMED
    )
    goes_on = settled.outcome.event in (Event.RELEASE, Event.TRANSFORMED)
    return goes_on and (owned[settled.claimed.id].alone or not laned)


def _moves_its_lane(e: Ended, owned: Mapping[int, Owned]) -> bool:
    """Others stand in its lane, or come to stand there: the parts of a split."""
    return bool(e.children) or not owned[e.settled.claimed.id].alone


def _lanes(ended: Iterable[Ended]) -> set[LaneKey]:
    return {e.settled.claimed.lane for e in ended if e.settled.claimed.lane is not None}


def _lanes_of_children(ended: Sequence[Ended], catalogue: Catalogue) -> set[LaneKey]:
    """Lanes that planning the children will touch: locked together with the others, in the one order."""
    lanes: set[LaneKey] = set()
    for e in ended:
        for child in e.children:
            selections = e.plans_itself if e.plans_itself is not None else child.selections
            lanes |= lanes_touched(child.opened, selections, catalogue)
    return lanes


def _note_entered(ours: Sequence[Ended], owned: Mapping[int, Owned], transaction: Transaction) -> None:
    """A bus delivery that ended no longer enters."""
    ended: Counter[int] = Counter()
    for e in ours:
        claimed = e.settled.claimed
        if claimed.destination == BUS and after(owned[claimed.id].state, e.settled.outcome.event) in FINAL:
            ended[claimed.kept.row] += 1
    transaction.note_planned({message: (0, -count) for message, count in ended.items()})


def _write_children(ours: Sequence[Ended], catalogue: Catalogue, transaction: Transaction) -> set[str]:
    """Insert what was made, in the order of the lane and of the index, and plan it."""
    entries: list[Entry] = []
    parts: list[NewDelivery] = []
    for e in ours:
        claimed = e.settled.claimed
        if e.plans_itself is not None:
            entries.append(
                Entry(opened=e.children[0].opened, selections=e.plans_itself, kept=claimed.kept, out_of=claimed.lane)
            )
        elif claimed.destination == BUS:
            entries += [
                Entry(opened=c.opened, selections=c.selections, parent=claimed.id, out_of=claimed.lane)
                for c in e.children
            ]
        elif e.children:
            parts += _parts(e, catalogue, transaction)
    transaction.add_deliveries(parts)
    queues = plan(entries, catalogue=catalogue, transaction=transaction)[1] if entries else set()
    return queues | {part.queue for part in parts if part.state is State.READY}


def _parts(e: Ended, catalogue: Catalogue, transaction: Transaction) -> list[NewDelivery]:
    """The children of a split, kept, each with one delivery."""
    kept = transaction.add_messages(
        [child.message for child in e.children],
        searchable=[searchable(child.opened, catalogue) for child in e.children],
        parents=[e.settled.claimed.id] * len(e.children),
        planned=[(1, 0)] * len(e.children),
    )
    return [_part(e.settled, k, index) for index, k in enumerate(kept)]


def _part(settled: Settled, kept: Kept, index: int) -> NewDelivery:
    """The delivery of one child of a split: same route, stage send, the parent's place extended by the index."""
    claimed = settled.claimed
    return NewDelivery(
        message=kept.row,
        route=claimed.route,
        destination=claimed.destination,
        queue=settled.queue,
        stage=Stage.SEND,
        key=kept.message.id,
        lane=claimed.lane,
        state=State.READY if claimed.lane is None else State.WAITING,
        blocks=claimed.blocks,
        place=claimed.place,
        part=index + 1,
        replay=claimed.replay,
    )
