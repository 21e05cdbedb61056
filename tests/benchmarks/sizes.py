"""The bus with 10,000 and 100,000 orders at once: on both stores, canonical and native in and out."""

from __future__ import annotations

from bus.bench.comparison import rate_of
from bus.bench.frame import Benchmark
from bus.bench.orders import Orders
from bus.bench.pipeline import pipeline
from bus.bench.services import Services
from tests.benchmarks.wanted import Wanted


def benchmarks(services: Services, wanted: Wanted) -> list[Benchmark]:
    return [
        rate_of(contender, services, wanted.pace_of(size), name=f"{contender.name}.{size}")
        for size in (wanted.messages // 10, wanted.messages)
        for contender in (
            pipeline(Orders(native=native), sqlite=sqlite) for sqlite in (False, True) for native in (False, True)
        )
    ]
