"""One MES is away, with a few and with 100,000 orders for it: what it costs its own endpoint, and the other MES.

The MES of P1 is reached over a line that is shut: whoever comes is turned away, and counted. Both MES take what they
get over AMQP. `calls` are counted in the same span from the first one on, whatever the backlog; `drain` runs from the
line being open again, which the bus finds out with its next check, to the last recorded delivery.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from statistics import mean

from sqlalchemy import select

from bus.bench.contenders import Course, troubles_told
from bus.bench.frame import BenchFailure, Benchmark, Finding, Pace, measured_rounds, rounded
from bus.bench.job import SITES
from bus.bench.load import publish, targets_at
from bus.bench.orders import PLAIN, Orders
from bus.bench.pipeline import RunningBus, running_bus
from bus.bench.services import Services, Stage
from bus.broker.publisher import Publisher
from bus.model.delivery import State
from bus.store import tables as t
from bus.store.states import HELD, in_state
from tests.benchmarks.door import Door
from tests.benchmarks.wanted import LONGEST, Wanted

AWAY, THERE = SITES
FEW = 100
"""A small backlog."""
FAR = 10**9
"""Orders for the one MES are numbered from here on."""
SHORTEST = timedelta(seconds=15)
"""Calls are counted for at least so long: the pauses between them grow from 1 s to 30 s."""
_LOOK = 0.05  # seconds
_D = t.delivery.c
_TRANSFORMS = [
    select(_D.id).where(_D.queue == "transform.transaction", in_state(_D.state, *states)).limit(1)
    for states in ((State.READY,), HELD)
]


@dataclass(frozen=True)
class Found:
    """One round; calls within `span` seconds of the first one, drains in seconds."""

    span: float
    calls_few: int
    calls_many: int
    rate_without: float
    """Of the other MES, before the outage and after it."""
    rate_meanwhile: float
    drain: float
    noticed: float
    """Of the drain: until the endpoint was open again."""


class Outage:
    """The bus with one of its two MES behind a door."""

    def __init__(self, stage: Stage, bus: RunningBus, door: Door, box: timedelta) -> None:
        self._stage = stage
        self._door = door
        self._bus = bus
        self._away = bus.given(Orders(site=AWAY, first=FAR))
        self._others = Course(stage, bus.given(Orders(site=THERE)), Pace(rounds=1, box=LONGEST))
        self._publisher = Publisher(stage.broker_url, name="plantbus bench publisher")
        self._box = box
        self._published = 0

    def close(self) -> None:
        self._others.close()
        self._publisher.close()

    def warm_up(self) -> int:
        """Both ways; how many orders for the MES that is there a round gets."""
        self._publish(FEW)
        self._wait_until_drained()
        (done,) = measured_rounds(self._others.round, Pace(rounds=1, box=self._box))
        return done.messages

    def round(self, count: int, many: int) -> Found:
        before = self._others.round(count).rate
        self._door.shut()
        self._publish(many)
        self._until(self._is_planned, "all orders are planned")
        meanwhile = self._others.round(count).rate
        first = self._first_call()
        self._until(lambda: time.monotonic() >= first + SHORTEST.total_seconds(), "the calls are counted")
        span = time.monotonic() - first
        calls_many = self._calls(first + span)
        drain, noticed = self._drain()
        without = mean((before, self._others.round(count).rate))
        return Found(span, self._calls_with_few(span), calls_many, without, meanwhile, drain, noticed)

    def _calls_with_few(self, span: float) -> int:
        self._door.shut()
        self._publish(FEW)
        first = self._first_call()
        self._until(lambda: time.monotonic() >= first + span, "the calls are counted")
        calls = self._calls(first + span)
        self._drain()
        return calls

    def require_complete(self) -> None:
        """
        Raises:
            BenchFailure: the bus's records do not agree with what was published.
        """
        if complaint := self._bus.complaint(self._published + self._others.published):
            raise BenchFailure(complaint)

    def _publish(self, count: int) -> None:
        numbers = range(self._published, self._published + count)
        self._published += count
        publish(self._publisher, [self._away.publication(number) for number in numbers])

    def _is_planned(self) -> bool:
        """Everything for the endpoint is in its own queue."""
        if self._away.planned() < self._published:
            return False
        with self._bus.database.read() as connection:
            return not any(connection.execute(each).first() for each in _TRANSFORMS)

    def _first_call(self) -> float:
        self._until(lambda: bool(self._door.turned_away), "the endpoint was called")
        return self._door.turned_away[0]

    def _calls(self, until: float) -> int:
        return sum(at <= until for at in self._door.turned_away)

    def _drain(self) -> tuple[float, float]:
        """Seconds until everything was delivered, and until the endpoint was open again."""
        opened = self._away.clock()
        self._door.open()
        self._wait_until_drained()
        e = t.endpoint.c
        with self._bus.database.read() as connection:
            since = connection.execute(select(e.since).where(e.name == f"mes-{AWAY.lower()}")).scalar_one()
        return self._away.last_end() - opened, since.timestamp() - opened

    def _wait_until_drained(self) -> None:
        self._until(lambda: self._away.ends() == self._published, "everything is delivered")
        with targets_at(self._stage.broker_url) as targets:
            targets.empty()

    def _until(self, done: Callable[[], bool], what: str) -> None:
        give_up_at = time.monotonic() + LONGEST.total_seconds() * 3
        while not done():
            self._bus.children.require_alive()
            if time.monotonic() > give_up_at:
                raise BenchFailure(f"not within {LONGEST * 3}: {what}")
            time.sleep(_LOOK)


def benchmarks(services: Services, wanted: Wanted) -> list[Benchmark]:
    def found() -> Iterator[Finding]:
        with troubles_told(), an_outage(services, wanted.box) as outage:
            count = outage.warm_up()
            rounds = [outage.round(count, wanted.messages) for _ in range(wanted.rounds)]
            outage.require_complete()
        yield from findings(rounds, many=wanted.messages, others=count)

    return [Benchmark("outage", "", found)]


@contextmanager
def an_outage(services: Services, box: timedelta) -> Iterator[Outage]:
    with (
        services.stage() as stage,
        Door(stage.broker_url) as door,
        running_bus(stage, PLAIN, urls={AWAY: door.url}) as bus,
        closing(Outage(stage, bus, door, box)) as outage,
    ):
        yield outage


def findings(rounds: Sequence[Found], *, many: int, others: int) -> Iterator[Finding]:
    """One value for each round; `others`: how many orders for the other MES a round had."""

    def finding(name: str, unit: str, value: Callable[[Found], float], **notes: object) -> Finding:
        return Finding(name=f"outage.{name}", unit=unit, values=rounded(map(value, rounds)), notes=notes)

    spans = rounded(each.span for each in rounds)
    yield finding(f"calls.{FEW}", "calls", lambda each: each.calls_few, within_seconds=spans)
    yield finding(f"calls.{many}", "calls", lambda each: each.calls_many, within_seconds=spans)
    yield finding("others.without", "msg/s", lambda each: each.rate_without, messages=[others] * len(rounds))
    yield finding("others.meanwhile", "msg/s", lambda each: each.rate_meanwhile, messages=[others] * len(rounds))
    yield finding("others.share", "%", lambda each: each.rate_meanwhile / each.rate_without * 100)
    yield finding("drain", "s", lambda each: each.drain, messages=[many] * len(rounds))
    yield finding("drain.noticed", "s", lambda each: each.noticed)
    yield finding("drain.rate", "msg/s", lambda each: many / (each.drain - each.noticed))
