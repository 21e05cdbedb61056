"""An outage that ends meets no herd: how often all processes ask for connections, meanwhile and when it is over."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest

from bus.pipeline.settle import RETRY_STORE
from tests.faults.proxy import Proxy
from tests.faults.stage import PATIENCE, Stage, lasts, under_load
from tests.faults.survival import Survival
from tests.system.running_bus import until

OUTAGE = 30.0  # seconds
MORE_WORKERS = ("second-worker", "third-worker")
CONSUMERS = 4 + 5 * (1 + len(MORE_WORKERS))
"""Connections that consume: one for each queue of the router, and of each worker."""
BROKER_PAUSE, STORE_PAUSE = 3.0, RETRY_STORE.total_seconds()
"""Seconds that pass at least, on the average of an outage, between two tries of one connection."""


@pytest.fixture
def many(stage: Stage) -> Iterator[Stage]:
    """Two more workers; everybody who consumes is there."""
    for name in MORE_WORKERS:
        stage.start_as(name, "worker")
    assert until(lambda: stage.line.open >= CONSUMERS, within=PATIENCE)
    yield stage
    stage.bus.stop(*MORE_WORKERS)


def connections(line: Proxy) -> int:
    """How many there are, once their number does not change any more."""
    seen = [line.open]

    def still() -> bool:
        seen.append(line.open)
        return len(seen) > 30 and len(set(seen[-30:])) == 1  # looked at ten times a second

    assert until(still, within=PATIENCE)
    return seen[-1]


@dataclass
class Herd:
    """What a line was asked for, in an outage and after it."""

    line: Proxy
    before: int
    began: float
    ended: float

    @property
    def seconds(self) -> float:
        return self.ended - self.began

    @property
    def meanwhile(self) -> list[float]:
        return [each for each in self.line.arrivals if self.began <= each < self.ended]

    @property
    def afterwards(self) -> list[float]:
        return [each for each in self.line.arrivals if each >= self.ended]

    def __str__(self) -> str:
        away, back = self.meanwhile, self.afterwards
        return (
            f"{self.before} connections; away {self.seconds:.0f} s: {len(away)} tries, at most {densest(away)} within "
            f"a second; back: {len(back)} tries, at most {densest(back)} within a second"
        )


def densest(moments: Sequence[float]) -> int:
    """The most moments that lie within one second."""
    return max((sum(1 for other in moments if 0 <= other - each < 1) for each in moments), default=0)


def outage(line: Proxy) -> Herd:
    """Every connection is cut, and new ones are refused for a while."""
    before, began = connections(line), time.monotonic()
    line.refuse()
    lasts(OUTAGE)
    ended = time.monotonic()
    line.accept()
    return Herd(line, before, began, ended)


@pytest.mark.timeout(400)
@pytest.mark.every_fault
def test_a_broker_that_was_away_is_not_stormed(many: Stage, survival: Survival) -> None:
    with under_load(many, survival.seed) as load:
        herd = outage(many.line)

    survival.tell(many.findings(load.truth), store=many.kind, holding=load.holding, measured=str(herd))
    assert len(herd.meanwhile) <= herd.before * (1 + herd.seconds / BROKER_PAUSE)
    assert len(herd.afterwards) <= 2 * herd.before


@pytest.mark.timeout(400)
@pytest.mark.every_fault
@pytest.mark.parametrize("lasting_stage", [pytest.param("postgresql", marks=pytest.mark.postgresql)], indirect=True)
def test_a_postgresql_that_was_away_is_not_stormed(many: Stage, survival: Survival) -> None:
    line = many.store.line
    assert line is not None
    with under_load(many, survival.seed, orders=48) as load:
        herd = outage(line)

    survival.tell(many.findings(load.truth), store=many.kind, holding=load.holding, measured=str(herd))
    assert len(herd.meanwhile) <= herd.before * (1 + herd.seconds / STORE_PAUSE)
    assert len(herd.afterwards) <= 2 * herd.before
