"""The bus with 10,000 and 100,000 orders at once: on both stores, canonical and native in and out."""

from __future__ import annotations

from datetime import timedelta

from bus.bench.comparison import rate_of
from bus.bench.contenders import pipeline
from bus.bench.frame import Benchmark, Pace
from bus.bench.services import Services
from tests.benchmarks.wanted import Wanted

SIZES = (10_000, 100_000)
LONGEST = timedelta(minutes=10)
"""Of a round, as expected; it is given up after three times that."""


def benchmarks(services: Services, wanted: Wanted) -> list[Benchmark]:
    return [
        rate_of(contender, services, pace, name=f"{contender.name}.{pace.messages}")
        for pace in (Pace(rounds=wanted.rounds, box=LONGEST, messages=size) for size in SIZES)
        for contender in (
            pipeline(sqlite=sqlite, native=native) for sqlite in (False, True) for native in (False, True)
        )
    ]
