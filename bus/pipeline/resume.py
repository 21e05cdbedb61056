"""resume: the relay's round; due retries, orphans of dead workers, hints for what nobody attends."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import timedelta

from bus.crash_points import crash_point
from bus.errors import NotAvailable, StoreConflict, StoreRefuses, StoreUnavailable
from bus.model.lease import LEASE
from bus.ports import Actor, MessageStore, Telemetry

BEATS = 5
"""How often within its lease a holder counts it on."""

UNATTENDED = timedelta(seconds=5)
"""READY for longer than this means that a hint was lost."""

ROUND = timedelta(seconds=0.25)

TURN = timedelta(minutes=1)
"""How often the store is asked whether the month is over."""

NO_TURN = timedelta(hours=1)
"""How long after the store refused, or put it off, it is asked again."""

RELAY = "relay"


@dataclass
class Observer:
    """Judges leases by their counters, on the observer's own monotonic clock.

    Only spans in which its own reads succeeded count: a store that was away for an hour makes nobody dead.
    """

    lease: timedelta = LEASE
    _seen: dict[str, tuple[tuple[str, int], timedelta]] = field(default_factory=dict)
    _last: timedelta | None = None

    def lapsed(self, leases: dict[str, tuple[str, int]], *, now: timedelta) -> set[str]:
        """The names whose counter has stood still for the whole lease. Call it after each successful read."""
        span = timedelta(0)
        if self._last is not None and now - self._last <= self.lease / 3:
            span = now - self._last
        self._last = now
        fresh: dict[str, tuple[tuple[str, int], timedelta]] = {}
        for name, state in leases.items():
            seen, still = self._seen.get(name, (state, timedelta(0)))
            fresh[name] = (state, still + span if seen == state else timedelta(0))
        self._seen = fresh
        return {name for name, (_, still) in fresh.items() if still >= self.lease}

    def missed(self) -> None:
        """A read failed: the span up to the next one does not count."""
        self._last = None


@dataclass
class Relay:
    """One relay process; of several only the one that holds the lease works."""

    store: MessageStore
    wake: Callable[[set[str]], None]
    without_hints: Callable[[Collection[str]], set[str]]
    """Of these queues those with no hint waiting at the broker: another one would only pile up."""
    queues: Collection[str]
    telemetry: Telemetry
    name: str
    clock: Callable[[], timedelta]
    observer: Observer = field(default_factory=Observer)
    _beaten: timedelta | None = None
    _looked: timedelta | None = None
    _holds: bool = False
    _turn_at: timedelta | None = None

    def run(self, stop: threading.Event) -> None:
        """Do rounds until told to stop; a store that is away is waited for."""
        try:
            while not stop.wait(ROUND.total_seconds()):
                try:
                    self.round()
                except StoreConflict:
                    continue
                except StoreUnavailable as error:
                    self.observer.missed()
                    self.telemetry.event("store away", detail=str(error))
                    stop.wait(1)
        except StoreRefuses as error:
            self._holds = False  # the store would refuse to release it as well
            self.telemetry.event("relay ends: the store refuses", detail=str(error))
        finally:
            if self._holds:
                self._release()

    def _release(self) -> None:
        try:
            self.store.drop_lease(RELAY, self.name)
        except NotAvailable as error:
            self.telemetry.event("store away", detail=str(error))

    def round(self) -> None:
        """One round: hold or seek the lease; if it is ours, wake what is due and bury who is dead."""
        now = self.clock()
        if self._beaten is None or now - self._beaten >= self.observer.lease / BEATS:
            self._beat(now)
        if not self._holds:
            return
        queues = self.store.wake_due(limit=500)
        if self._looked is None or now - self._looked >= ROUND * 4:
            self._looked = now
            unattended = self.store.queues_with_work(queues=self.queues, older_than=UNATTENDED)
            queues |= self.without_hints(unattended) if unattended else set()
        if queues:
            crash_point("resume.after_due", holding=len(queues))
            self.wake(queues)
        if self._turn_at is None or now >= self._turn_at:
            self._turn_at = now + self._turn_month()

    def _turn_month(self) -> timedelta:
        """Close the month in the store, if it is over; returns in how long to look again."""
        try:
            turn = self.store.turn_month(actor=Actor(name=self.name, reason="the month is over"))
        except StoreConflict:
            return TURN
        except StoreRefuses as error:
            self.telemetry.event("month cannot be turned", detail=str(error))
            return NO_TURN
        if turn is None:
            return TURN
        if turn.is_put_off:
            self.telemetry.event("month cannot be turned", month=turn.month, detail="too many deliveries are not ended")
            return NO_TURN
        self.telemetry.event("month turned", month=turn.month, moved_along=turn.moved_along)
        return TURN

    def _beat(self, now: timedelta) -> None:
        self._holds = self.store.beat(RELAY, self.name)
        self._beaten = now
        leases = self.store.leases()
        lapsed = self.observer.lapsed(leases, now=now)
        if not self._holds:
            self._holds = self._seek(leases, lapsed)
        if not self._holds:
            return
        for worker in sorted(lapsed - {RELAY}):
            # Who beat since it was seen is alive. Once its lease is gone, it cannot believe to be.
            if self.store.end_lease(worker, seen=leases[worker]):
                crash_point("resume.after_lease", holding=1)
                self._bury(worker, "its lease lapsed")
        for worker in sorted(self.store.workers_without_lease()):
            self._bury(worker, "it holds deliveries and no lease")
        self.store.fold_totals()
        self.store.checkpoint()

    def _bury(self, worker: str, reason: str) -> None:
        queues = self.store.bury_worker(worker, actor=Actor(name=self.name, reason=reason))
        crash_point("resume.after_bury", holding=1)
        self.telemetry.event("worker buried", worker=worker, reason=reason)
        self.wake(queues)

    def _seek(self, leases: dict[str, tuple[str, int]], lapsed: set[str]) -> bool:
        if RELAY not in leases:
            return self.store.take_lease(RELAY, self.name, instead_of=None)
        if RELAY in lapsed:
            return self.store.take_lease(RELAY, self.name, instead_of=leases[RELAY])
        return False


@dataclass
class Heart:
    """A worker's lease: beaten from a thread of its own, looked at before every call."""

    store: MessageStore
    name: str
    clock: Callable[[], timedelta]
    lease: timedelta = LEASE
    tend: Callable[[], None] = lambda: None
    """What else is done with every beat."""
    _beaten: timedelta | None = None

    def start(self) -> None:
        """Take the lease under this worker's own, unique name."""
        before = self.clock()
        if self.store.take_lease(self.name, self.name, instead_of=None):
            self._beaten = before

    def is_beating(self) -> bool:
        """Whether the last beat is recent enough that nobody can hold this worker to be dead."""
        return self._beaten is not None and self.clock() - self._beaten < self.lease / 2

    def run(self, stop: threading.Event) -> None:
        while not stop.wait((self.lease / BEATS).total_seconds()):
            before = self.clock()
            try:
                if not self.store.beat(self.name, self.name):
                    self.start()  # buried while it was stopped; what it held is settled, it starts anew
                else:
                    self._beaten = before
                self.tend()
            except (StoreUnavailable, StoreConflict):
                continue

    def stop(self) -> None:
        self.store.drop_lease(self.name, self.name)
