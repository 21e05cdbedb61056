"""The comparison that `bus bench` runs: the bus on both stores, the peers, the limit and the bus's latency."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial

from bus.bench.contenders import CELERY, FASTSTREAM, HANDWRITTEN, LIMIT, Contender, measure
from bus.bench.frame import Benchmark, Finding, Pace, Tell, rate_finding, run
from bus.bench.job import order
from bus.bench.latency import measure_latency
from bus.bench.machine import machine, versions
from bus.bench.orders import Orders
from bus.bench.pipeline import pipeline
from bus.bench.report import Report
from bus.bench.services import Services

LATENCY = "latency"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is measured, how long and how often."""

    rounds: int
    box: timedelta
    latency_rates: Sequence[int]
    latency_rounds: int
    latency_box: timedelta
    native: bool
    within: timedelta
    """Nothing new is begun after so long."""


QUICK = Plan(
    rounds=3,
    box=timedelta(seconds=10),
    latency_rates=(100,),
    latency_rounds=1,
    latency_box=timedelta(seconds=10),
    native=False,
    within=timedelta(minutes=4, seconds=30),
)
"""Ends within five minutes."""

THOROUGH = Plan(
    rounds=3,
    box=timedelta(seconds=30),
    latency_rates=(20, 100, 500),
    latency_rounds=3,
    latency_box=timedelta(seconds=20),
    native=True,
    within=timedelta(hours=1),
)


def benchmarks(services: Services, plan: Plan, only: Collection[str] = ()) -> list[Benchmark]:
    """The plan's benchmarks, or those named in `only`, to be run one after another on these services.

    What they are for comes first, should the time run out.
    """
    contenders = [pipeline(sqlite=True), CELERY, FASTSTREAM, HANDWRITTEN, LIMIT]
    if plan.native or only:
        contenders += [pipeline(Orders(native=True)), pipeline(Orders(native=True), sqlite=True)]

    def latency(pace: Pace) -> Benchmark:
        own = replace(pace, rounds=plan.latency_rounds, box=plan.latency_box)
        return Benchmark(LATENCY, "ms", partial(measure_latency, services, plan.latency_rates, own))

    def rate(contender: Contender) -> tuple[str, Callable[[Pace], Benchmark]]:
        return contender.name, partial(rate_of, contender, services)

    planned = [rate(pipeline()), (LATENCY, latency), *map(rate, contenders)]
    wanted = [make for name, make in planned if not only or name in only]
    return [make(pace) for make, pace in zip(wanted, paces(plan, len(wanted), now=time.monotonic()), strict=True)]


def paces(plan: Plan, count: int, *, now: float) -> list[Pace]:
    """One for each of so many benchmarks: what is slow is measured less often, so that all are measured.

    The first one has two shares of the time: the services start in it.
    """
    within = plan.within.total_seconds()
    return [
        Pace(
            rounds=plan.rounds,
            box=plan.box,
            give_up_after=now + within,
            enough_after=now + within * (at + 2) / (count + 1),
        )
        for at in range(count)
    ]


def rate_of(contender: Contender, services: Services, pace: Pace, *, name: str = "") -> Benchmark:
    """How many messages/s a contender gets through; `name`: instead of its own."""

    def found() -> Iterable[Finding]:
        found = rate_finding(name or contender.name, measure(contender, services, pace))
        yield replace(found, notes={**found.notes, "about": contender.about})

    return Benchmark(name or contender.name, "msg/s", found)


def report(services: Services, planned: Sequence[Benchmark], *, tell: Tell) -> Report:
    """Run them, and say on what they ran."""
    at, before = datetime.now(UTC).astimezone(), machine()
    findings = list(run(planned, tell=tell))
    return Report(
        at=at,
        machine=before,
        versions={**versions(), **services.versions()},
        findings=findings,
        message_bytes=len(order(0)),
    )
