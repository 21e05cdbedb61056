"""The thorough plan of `bus bench`: bus, peers, limit and latency."""

from __future__ import annotations

from dataclasses import replace

from bus.bench import comparison
from bus.bench.frame import Benchmark
from bus.bench.services import Services
from tests.benchmarks.wanted import Wanted


def benchmarks(services: Services, wanted: Wanted) -> list[Benchmark]:
    plan = replace(comparison.THOROUGH, rounds=wanted.rounds, latency_rounds=wanted.rounds)
    return comparison.benchmarks(services, plan)
