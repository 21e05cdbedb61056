"""What every worker's hop shares: the ports it works with, its own lease, and lane order within a batch."""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta

from bus.crash_points import crash_point
from bus.errors import Exchange, PermanentFailure
from bus.model.catalogue import Catalogue
from bus.model.delivery import Event, Outcome, Stage
from bus.model.lane import LaneKey
from bus.model.message import BUS
from bus.model.retry import RetryPolicy
from bus.model.route import Route
from bus.pipeline.settle import Ended, settle, until_stored
from bus.ports import Actor, AttemptRecord, Batch, Claimed, MessageStore, Telemetry

BATCH = 128
"""Deliveries claimed at once, where nothing speaks for fewer."""

BUDGET = timedelta(seconds=5)
"""How long one batch may take: what was not begun by then goes back."""

PORTION = 4 * 1024 * 1024
"""Bytes made, sent and received from which on what has ended is settled, before the rest of the batch goes on; and
bytes that are sent in one flight at the most."""

LARGE = 256 * 1024
"""Bytes that are a portion and a flight by themselves."""


@dataclass(frozen=True, kw_only=True)
class Shift:
    """A worker at work: store, catalogue, identity, clocks. `wake` puts hints on queues."""

    store: MessageStore
    catalogue: Catalogue
    telemetry: Telemetry
    wake: Callable[[set[str]], None]
    worker: str
    release: str
    """Release of the bus, recorded with every attempt."""
    clock: Callable[[], timedelta]
    """Monotonic."""
    jitter: Callable[[], float]
    new_token: Callable[[], str]
    stop: threading.Event
    still_alive: Callable[[], bool]
    """Whether this worker's own lease was beaten recently enough to call anybody."""
    batch: int = BATCH
    """Deliveries claimed at once at the most."""
    claims: set[str] = field(default_factory=set)
    """Tokens of the claims being worked on; `tend` gives back what the store holds under any other."""
    broken: set[str] = field(default_factory=set)
    """Tokens of claims whose work ended with an error, until `tend` gave back what is left of them."""

    @property
    def actor(self) -> Actor:
        return Actor(name=self.worker)

    @contextmanager
    def claim(self, queue: str, *, limit: int | None = None, trial: bool = False) -> Iterator[Batch]:
        """A batch to work on, ours until the end of the block; whatever is not settled by then is given back."""
        if self.stop.is_set() or not self.still_alive():
            yield Batch([], leaves=False)
            return
        token = self.new_token()
        self.claims.add(token)  # before the claim: its answer may be lost after the store committed it
        try:
            if trial:
                batch = Batch(self.store.claim_trial(queue, worker=self.worker, token=token), leaves=True)
            else:
                at_most = min(limit or self.batch, self.batch)
                batch = self.store.claim(queue, worker=self.worker, token=token, limit=at_most)
            try:
                yield batch
            except BaseException:
                self.broken.add(token)
                raise
        finally:
            self.claims.discard(token)

    def with_body(self, claimed: Claimed) -> Claimed:
        """The delivery with the body that its next step works on; let go of it when that is done.

        Raises:
            PermanentFailure: body.missing, body.altered.
            NotAvailable: a stop ended the wait for the store, or it refuses for good.
        """
        if claimed.stage is Stage.SEND and claimed.output is not None:
            if claimed.output.check is None:
                return claimed
            return replace(claimed, output=until_stored(lambda: self.store.output_of(claimed), self.stop))
        if claimed.kept.check is None:
            return claimed
        message = until_stored(lambda: self.store.message_of(claimed), self.stop)
        return replace(claimed, kept=replace(claimed.kept, message=message, check=None))

    def tend(self) -> None:
        """Give back what the store holds for this worker and nobody works on: a claim whose answer was lost, a batch
        that ended with an error. Only the latter is held against its deliveries. Called with every beat of the heart.
        """
        broken = self.broken - self.claims
        held = self.store.claims_of(self.worker)
        lost = held - self.claims  # compared after the look: a claim made meanwhile is worked on, and not held yet
        actor = Actor(name=self.worker, reason="claimed, and not worked on")
        for claims, died in ((lost - self.broken, False), (lost & self.broken, True)):
            if claims:
                self.wake(self.store.bury_worker(self.worker, actor=actor, claims=claims, died=died))
        self.broken.difference_update(broken)

    def settle(self, ended: Sequence[Ended], *, queue: str = "", leaves: bool = False) -> bool:
        """Store the outcomes, then wake whoever else has work now; returns whether this queue has.

        `leaves`: see Batch; what became READY since the claim has a hint of its own.
        """
        queues = settle(
            ended,
            store=self.store,
            catalogue=self.catalogue,
            actor=self.actor,
            telemetry=self.telemetry,
            stop=self.stop,
        )
        self.wake(queues - {queue})
        crash_point("settle.after_wake", holding=len(ended))
        return queue in queues or (leaves and self.store.has_ready(queue))

    def route_of(self, claimed: Claimed) -> Route:
        """The route of a delivery.

        Raises:
            PermanentFailure: route.unknown: it was planned by a route that is no longer declared.
        """
        route = self.catalogue.routes.get(claimed.route)
        if route is None:
            raise PermanentFailure("route.unknown", f"no route is named {claimed.route!r} now")
        return route

    def policy_of(self, claimed: Claimed) -> RetryPolicy:
        route = self.catalogue.routes.get(claimed.route)
        return route.retry if route else RetryPolicy()

    def attempt(
        self,
        claimed: Claimed,
        stage: Stage,
        outcome: Outcome,
        *,
        began: timedelta,
        ended: timedelta,
        exchange: Exchange | None = None,
    ) -> AttemptRecord:
        """The record of one try, for the store."""
        now = self.clock()
        digests = claimed.output.digest if claimed.output else self._digests_now(claimed)
        return AttemptRecord(
            delivery=claimed.id,
            stage=stage,
            number=claimed.attempts + 1,
            began=now - began,
            ended=now - ended,
            outcome=outcome.event.name.lower(),
            cause=outcome.cause,
            detail=outcome.detail,
            exchange=exchange or Exchange(),
            document=outcome.document,
            worker=self.worker,
            digests=f"bus={self.release} {digests}".strip(),
        )

    def _digests_now(self, claimed: Claimed) -> str:
        route = self.catalogue.routes.get(claimed.route)
        return self.catalogue.digests(route, sender=claimed.kept.message.system) if route is not None else ""


def in_flights(
    batch: Sequence[Claimed],
    fly: Callable[[Sequence[Claimed]], Sequence[Ended]],
    give_back: Callable[[Claimed], Ended],
    *,
    shift: Shift,
    budget: timedelta = BUDGET,
) -> Iterator[Ended]:
    """As `in_lane_order`, for a step that takes several at once: of each lane one at a time.

    What is in one flight may end in any order, so nothing of a lane starts before what stands before it ended well.
    """
    lanes: dict[LaneKey | int, deque[Claimed]] = {}
    for claimed in batch:
        lanes.setdefault(claimed.lane or claimed.id, deque()).append(claimed)
    deadline = shift.clock() + budget
    while lanes and not shift.stop.is_set() and shift.clock() <= deadline and shift.still_alive():
        flown = _flight(lanes)
        for lane, result in zip(flown, fly([lanes[lane].popleft() for lane in flown]), strict=True):
            yield result
            if result.settled.outcome.event is not Event.SUCCEED:
                yield from map(give_back, lanes.pop(lane))
            elif not lanes[lane]:
                del lanes[lane]
    yield from [give_back(claimed) for waiting in lanes.values() for claimed in waiting]


def _flight(lanes: Mapping[LaneKey | int, deque[Claimed]]) -> list[LaneKey | int]:
    """The lanes of which one is sent now: as many as fit into PORTION; one that is large alone."""
    sizes = itertools.accumulate(_weight(waiting[0].size) for waiting in lanes.values())
    fitting = sum(1 for size in sizes if size <= PORTION)
    return list(itertools.islice(lanes, max(fitting, 1)))


def in_lane_order(
    batch: Sequence[Claimed],
    step: Callable[[Claimed], Ended],
    give_back: Callable[[Claimed], Ended],
    *,
    shift: Shift,
    budget: timedelta = BUDGET,
) -> Iterator[Ended]:
    """Do the step for each delivery; the first that does not go well in a lane stops that lane only.

    `batch` is in lane order. What was not begun within the budget, at a stop, behind a failure, or when this worker
    may be held to be dead, is given back.
    """
    stopped: set[LaneKey] = set()
    deadline = shift.clock() + budget
    for claimed in batch:
        laned = claimed.lane is not None and (claimed.stage is Stage.SEND or claimed.destination == BUS)
        too_late = shift.stop.is_set() or shift.clock() > deadline or not shift.still_alive()
        if too_late or (laned and claimed.lane in stopped):
            result = give_back(claimed)
        else:
            result = step(claimed)
        yield result
        if laned and claimed.lane is not None and result.settled.outcome.event is not Event.SUCCEED:
            stopped.add(claimed.lane)


def portions(ended: Iterable[Ended]) -> Iterator[list[Ended]]:
    """What ended, to be settled portion by portion: what was made and sent is let go before the next is begun.

    What is given back behind a failure in its lane stands in one portion with it: nobody sees it claimed out of turn.
    """
    portion: list[Ended] = []
    size = 0
    for e in ended:
        if size >= PORTION and not _is_stopped_by(portion[-1], e):
            yield portion
            portion, size = [], 0
        portion.append(e)
        size += _weight(e.size)
    if portion:
        yield portion


def _weight(size: int) -> int:
    return size if size < LARGE else PORTION


def _is_stopped_by(before: Ended, e: Ended) -> bool:
    same = before.settled.claimed.lane is not None and before.settled.claimed.lane == e.settled.claimed.lane
    return same and before.settled.outcome.event not in (Event.SUCCEED, Event.TRANSFORMED)
