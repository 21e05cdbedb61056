"""Latency of the bus at 20, 100 and 500 orders/s in an open loop, and beside it the machine's own noise."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from functools import partial

from bus.bench.comparison import LATENCY, THOROUGH
from bus.bench.frame import Benchmark
from bus.bench.latency import measure_latency
from bus.bench.services import Services
from tests.benchmarks.wanted import Wanted

BOX = timedelta(minutes=1)
"""At 20 orders/s 1,200 of them: enough for a 99.9th percentile that is not the largest alone."""


def benchmarks(services: Services, wanted: Wanted) -> list[Benchmark]:
    pace = replace(wanted.pace, box=min(wanted.box * 2, BOX))
    return [Benchmark(LATENCY, "ms", partial(measure_latency, services, THOROUGH.latency_rates, pace))]
