"""The thorough plan of `bus bench`: bus, peers and limit; latency is a part of its own here."""

from __future__ import annotations

from dataclasses import replace

from bus.bench import comparison
from bus.bench.frame import Benchmark
from bus.bench.services import Services
from tests.benchmarks.wanted import Wanted


def benchmarks(services: Services, wanted: Wanted) -> list[Benchmark]:
    plan = replace(comparison.THOROUGH, rounds=wanted.rounds, box=wanted.box)
    return [each for each in comparison.benchmarks(services, plan) if each.name != comparison.LATENCY]
