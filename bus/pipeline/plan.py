"""plan: select the routes of messages and give their deliveries a place in their lanes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from bus.model.catalogue import Catalogue
from bus.model.delivery import Stage, State
from bus.model.lane import LaneKey
from bus.model.message import BUS, Opened, delivery_key
from bus.model.route import Route, Selection
from bus.ports import Kept, NewDelivery, Transaction

REENTRY = "(re-entry)"
"""Stands where the route stands in a delivery with which a canonical message queues up behind native ones of its
subject; no route can have this name."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A kept message with the routes selected for it, outside any transaction."""

    kept: Kept
    opened: Opened
    selections: Sequence[Selection]
    out_of: LaneKey | None = None
    """The bus lane it comes out of: it was its turn there."""


def plan(entries: Sequence[Entry], *, catalogue: Catalogue, transaction: Transaction) -> set[str]:
    """Plan the deliveries of kept messages, in their order; called by receive and by settle.

    While a delivery to the bus stands in the lane of a message's subject, the message queues up behind it and selects
    its routes when its turn comes, so that it cannot overtake a native one still being transformed. What makes it
    canonical stands in that lane itself.

    Returns the queues that have work now.
    """
    standing = _standing_bus_lanes(entries, catalogue, transaction)
    deliveries: list[NewDelivery] = []
    for entry in entries:
        lane = _bus_lane(entry.opened, catalogue)
        waits = lane is not None and lane in standing and lane != entry.out_of
        now = [s for s in entry.selections if s.route.to == BUS] if waits else entry.selections
        deliveries += [_delivery(entry, selection, catalogue) for selection in now]
        if waits and lane is not None and (not now or len(now) < len(entry.selections)):
            deliveries.append(_reentry(entry, lane, catalogue))
        standing |= {d.lane for d in deliveries if d.destination == BUS and d.lane is not None}
    placed = _place(deliveries, transaction)
    transaction.add_deliveries(placed)
    _note(entries, placed, transaction)
    lanes = {d.lane for d in placed if d.lane is not None and d.state is State.WAITING}
    return {d.queue for d in placed if d.state is State.READY} | transaction.advance(lanes)


def lanes_touched(opened: Opened, selections: Sequence[Selection], catalogue: Catalogue) -> set[LaneKey]:
    """Every lane that planning this message may lock."""
    lanes = {LaneKey(s.route.to, key) for s in selections if (key := s.route.lane_key(opened))}
    lane = _bus_lane(opened, catalogue)
    return lanes if lane is None else lanes | {lane}


def _bus_lane(opened: Opened, catalogue: Catalogue) -> LaneKey | None:
    """The bus lane of a message's subject, where native messages of that kind re-enter at all."""
    kind, colon, _ = opened.message.subject.partition(":")
    return LaneKey(BUS, opened.message.subject) if colon and kind in catalogue.entering_kinds else None


def _standing_bus_lanes(entries: Sequence[Entry], catalogue: Catalogue, transaction: Transaction) -> set[LaneKey]:
    """Lock the bus lanes of all subjects first; those in which something stands."""
    lanes = {lane for entry in entries if (lane := _bus_lane(entry.opened, catalogue)) is not None}
    transaction.lock_lanes(dict.fromkeys(lanes, 0))
    return transaction.lanes_standing(lanes)


def _reentry(entry: Entry, lane: LaneKey, catalogue: Catalogue) -> NewDelivery:
    message = entry.kept.message
    return NewDelivery(
        message=entry.kept.row,
        route=REENTRY,
        destination=BUS,
        queue=catalogue.transform_queue(message.type),
        stage=Stage.TRANSFORM,
        key=delivery_key(message, route=REENTRY, replay=0),
        lane=lane,
    )


def _delivery(entry: Entry, selection: Selection, catalogue: Catalogue) -> NewDelivery:
    route = selection.route
    key = route.lane_key(entry.opened)
    return new_delivery(
        entry.kept,
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


def _place(deliveries: Sequence[NewDelivery], transaction: Transaction) -> list[NewDelivery]:
    """Give each laned delivery the next place of its lane: tail + 1, under the lane's lock."""
    tails = transaction.lock_lanes(Counter(d.lane for d in deliveries if d.lane is not None))
    placed = []
    for d in deliveries:
        if d.lane is not None:
            tails[d.lane] += 1
            d = replace(d, place=tails[d.lane])
        placed.append(d)
    return placed


def _note(entries: Sequence[Entry], placed: Sequence[NewDelivery], transaction: Transaction) -> None:
    planned = {entry.kept.row: (0, 0) for entry in entries}
    for d in placed:
        more, entering = planned[d.message]
        # Queueing up is no plan: a message may turn out to have no route when its turn comes.
        planned[d.message] = (more + (d.route != REENTRY), entering + (d.destination == BUS))
    transaction.note_planned(planned)
