"""The bus with many orders on one key, on 100, and each on its own: order costs what it must, and no more.

On one key every order is for one plant and in one lane.
"""

from __future__ import annotations

from bus.bench.comparison import rate_of
from bus.bench.frame import Benchmark
from bus.bench.orders import Orders
from bus.bench.pipeline import pipeline
from bus.bench.services import Services
from tests.benchmarks.wanted import Wanted

KEYS = (1, 100)


def benchmarks(services: Services, wanted: Wanted) -> list[Benchmark]:
    return [
        rate_of(pipeline(Orders(keys=keys)), services, wanted.pace_of(wanted.messages), name=f"lanes.{keys}")
        for keys in (*KEYS, wanted.messages)
    ]
