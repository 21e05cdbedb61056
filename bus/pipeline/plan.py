"""plan: select the routes of messages and give their deliveries a place in their lanes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from bus.model.catalogue import Catalogue
from bus.model.delivery import Stage, State, stands
from bus.model.lane import LaneKey
from bus.model.message import BUS, Opened, delivery_key
from bus.model.route import Route, Selection
from bus.ports import Kept, NewDelivery, Transaction

REENTRY = "(re-entry)"
"""Stands where the route stands in a delivery with which a canonical message queues up behind native ones of its
subject; no route can have this name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A message with the routes selected for it, outside any transaction."""

    opened: Opened
    selections: Sequence[Selection]
    parent: int | None = None
    """The delivery that made it; None: it was received."""
    kept: Kept | None = None
    """Where it is stored already: it plans at its turn in the bus lane."""
    out_of: LaneKey | None = None
    """The bus lane it comes out of: it was its turn there."""


def plan(entries: Sequence[Entry], *, catalogue: Catalogue, transaction: Transaction) -> tuple[list[Kept], set[str]]:
    """Keep the messages that are not kept yet and plan the deliveries of all, in their order; called by receive and by
    settle.

    While a delivery to the bus stands in the lane of a message's subject, the message queues up behind it and selects
    its routes when its turn comes, so that it cannot overtake a native one still being transformed. What makes it
    canonical stands in that lane itself.

    Returns the messages as kept, and the queues that have work now.
    """
    tails = _lock_tails(entries, catalogue, transaction)
    choices = _choose(entries, catalogue, {lane for lane, tail in tails.items() if tail.follows})
    kept = _keep(entries, choices, catalogue, transaction)
    deliveries: list[NewDelivery] = []
    for entry, k, (selections, queues_up_in) in zip(entries, kept, choices, strict=True):
        deliveries += [_delivery(entry.opened, k, selection, catalogue) for selection in selections]
        if queues_up_in is not None:
            deliveries.append(_reentry(k, queues_up_in, catalogue))
    placed = _place(deliveries, tails)
    transaction.add_deliveries(placed)
    return kept, {d.queue for d in placed if d.state is State.READY}


_Choice = tuple[Sequence[Selection], LaneKey | None]
"""What a message plans now, and the bus lane in which it queues up for the rest."""


@dataclass(slots=True)
class _Tail:
    """The end of a locked lane, as this plan leaves it."""

    follows: bool
    room: int
    place: int


def _lock_tails(entries: Sequence[Entry], catalogue: Catalogue, transaction: Transaction) -> dict[LaneKey, _Tail]:
    """Lock every lane that may get a delivery, and take a place there for each; places that stay unused do no harm."""
    lanes: Counter[LaneKey] = Counter()
    for entry in entries:
        lanes.update(LaneKey(s.route.to, key) for s in entry.selections if (key := s.route.lane_key(entry.opened)))
        if (lane := _bus_lane(entry.opened, catalogue)) is not None:
            lanes[lane] += 1
    places, rooms = transaction.lock_lanes(lanes), transaction.tail_rooms(lanes)
    return {lane: _Tail(*rooms[lane], places[lane]) for lane in lanes}


def _choose(entries: Sequence[Entry], catalogue: Catalogue, standing: set[LaneKey]) -> list[_Choice]:
    """`standing`: lanes in which something stands already."""
    choices: list[_Choice] = []
    for entry in entries:
        lane = _bus_lane(entry.opened, catalogue)
        waits = lane is not None and lane in standing and lane != entry.out_of
        now = [s for s in entry.selections if s.route.to == BUS] if waits else entry.selections
        queues_up = waits and (not now or len(now) < len(entry.selections))
        choices.append((now, lane if queues_up else None))
        standing |= {LaneKey(BUS, key) for s in now if s.route.to == BUS and (key := s.route.lane_key(entry.opened))}
        standing |= {lane} if queues_up and lane is not None else set()
    return choices


def _keep(
    entries: Sequence[Entry], choices: Sequence[_Choice], catalogue: Catalogue, transaction: Transaction
) -> list[Kept]:
    """Insert what is new with what it plans; note what the others plan."""
    counts = [_count(choice) for choice in choices]
    new = [(entry, count) for entry, count in zip(entries, counts, strict=True) if entry.kept is None]
    inserted = iter(
        transaction.add_messages(
            [entry.opened.message for entry, _ in new],
            searchable=[searchable(entry.opened, catalogue) for entry, _ in new],
            parents=[entry.parent for entry, _ in new],
            planned=[count for _, count in new],
        )
    )
    known = {e.kept.row: count for e, count in zip(entries, counts, strict=True) if e.kept is not None}
    transaction.note_planned(known)
    return [entry.kept or next(inserted) for entry in entries]


def _count(choice: _Choice) -> tuple[int, int]:
    """Deliveries planned, and those to the bus that still enter."""
    selections, queues_up_in = choice
    # Queueing up is no plan: a message may turn out to have no route when its turn comes.
    return len(selections), sum(s.route.to == BUS for s in selections) + (queues_up_in is not None)


def searchable(opened: Opened, catalogue: Catalogue) -> list[tuple[str, str]]:
    """(path, text) of what auditors may search the message by."""
    return list(catalogue.contracts[opened.message.type].searchable_values(opened.document))


def lanes_touched(opened: Opened, selections: Sequence[Selection], catalogue: Catalogue) -> set[LaneKey]:
    """Every lane that planning this message may lock."""
    lanes = {LaneKey(s.route.to, key) for s in selections if (key := s.route.lane_key(opened))}
    lane = _bus_lane(opened, catalogue)
    return lanes if lane is None else lanes | {lane}


def _bus_lane(opened: Opened, catalogue: Catalogue) -> LaneKey | None:
    """The bus lane of a message's subject, where native messages of that kind re-enter at all."""
    kind, colon, _ = opened.message.subject.partition(":")
    return LaneKey(BUS, opened.message.subject) if colon and kind in catalogue.entering_kinds else None


def _reentry(kept: Kept, lane: LaneKey, catalogue: Catalogue) -> NewDelivery:
    message = kept.message
    return NewDelivery(
        message=kept.row,
        route=REENTRY,
        destination=BUS,
        queue=catalogue.transform_queue(message.type),
        stage=Stage.TRANSFORM,
        key=delivery_key(message, route=REENTRY, replay=0),
        lane=lane,
    )


def _delivery(opened: Opened, kept: Kept, selection: Selection, catalogue: Catalogue) -> NewDelivery:
    route = selection.route
    key = route.lane_key(opened)
    return new_delivery(
        kept,
        route,
        catalogue=catalogue,
        lane=LaneKey(route.to, key) if key else None,
        error=selection.error,
        cause=selection.cause,
    )


def new_delivery(
    kept: Kept,
    route: Route,
    *,
    catalogue: Catalogue,
    lane: LaneKey | None,
    error: str = "",
    cause: str = "predicate.raised",
    replay: int = 0,
) -> NewDelivery:
    """The first state of a delivery: to be transformed, to be sent, or DEAD where the predicate raised."""
    stage = Stage.SEND if route.transform is None and not error else Stage.TRANSFORM
    laned = lane is not None and (stage is Stage.SEND or route.to == BUS)
    if error:
        state = State.DEAD
    else:
        state = State.WAITING if laned else State.READY
    return NewDelivery(
        message=kept.row,
        route=route.name,
        destination=route.to,
        queue=send_queue(route.to) if stage is Stage.SEND else catalogue.transform_queue(kept.message.type),
        stage=stage,
        key=delivery_key(kept.message, route=route.name, replay=replay),
        lane=lane,
        state=state,
        blocks=route.on_dead == "block",
        replay=replay,
        cause=cause if error else "",
        detail=error,
    )


def send_queue(endpoint: str) -> str:
    """The queue of an endpoint's workers."""
    return f"send.{endpoint}"


def _place(deliveries: Sequence[NewDelivery], tails: Mapping[LaneKey, _Tail]) -> list[NewDelivery]:
    """Give each laned delivery the next place of its lane, under the lane's lock; READY where all before it in the
    lane run."""
    placed = []
    for d in deliveries:
        if d.lane is not None:
            tail, state = tails[d.lane], d.state
            tail.place += 1
            if state is State.WAITING and tail.room:
                tail.room -= 1
                state = State.READY
            elif stands(state, blocks=d.blocks):
                tail.room = 0  # it waits, or it stops what comes behind it
            d = replace(d, place=tail.place, state=state)
        placed.append(d)
    return placed
