"""How long an order takes from the moment it is due to be published until its job is in the MES's queue.

Open loop: send times are fixed beforehand, and an order that is sent late counts from its time all the same. Beside
each rate stands the machine's own noise: by how much an empty loop misses the same times.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from bus.bench.contenders import Course, troubles_told
from bus.bench.frame import BenchFailure, Finding, Pace, Percentiles
from bus.bench.load import publish, wait_until_due
from bus.bench.orders import PLAIN
from bus.bench.pipeline import running_bus
from bus.bench.services import Services
from bus.broker.publisher import Publisher

LEAD = timedelta(seconds=1)
"""The first orders of a run are left out: caches fill, and the reader connects."""
_PATIENCE = 30.0  # seconds
_LOOK = 0.1  # seconds


@dataclass(frozen=True)
class Latency:
    """One run at a rate, and the noise beside it."""

    spans: Percentiles
    noise: Percentiles


def due_times(rate: int, count: int, *, start: float) -> list[float]:
    return [start + number / rate for number in range(count)]


def findings(rate: int, runs: Sequence[Latency], *, count: int) -> list[Finding]:
    """The percentiles at a rate, one value for each run."""
    return [
        Finding(
            name=f"{what}.{rate}.{percentile.replace('_', '.')}",
            unit="ms",
            values=tuple(getattr(getattr(run, attribute), percentile) for run in runs),
            notes={"rate": rate, "messages": count},
        )
        for what, attribute in (("latency", "spans"), ("noise", "noise"))
        for percentile in ("p50", "p99", "p99_9")
    ]


def measure_latency(services: Services, rates: Sequence[int], pace: Pace) -> Iterator[Finding]:
    """The bus on PostgreSQL at each of these rates (orders/s), a box long.

    Raises:
        BenchFailure: an order did not arrive.
        NotAvailable: this machine lacks what it needs.
    """
    pace.require_time()
    with (
        troubles_told(),
        services.stage() as stage,
        running_bus(stage, PLAIN) as running,
        closing(Course(stage, running, pace)) as course,
        closing(Publisher(stage.broker_url, name="plantbus bench publisher")) as publisher,
    ):
        course.round(20)
        course.round(500)
        arrivals = stage.folder / "arrivals"
        running.children.start("reader", "bus.bench.reader", str(arrivals))
        for rate in rates:
            pace.require_time()
            count = round(rate * pace.box.total_seconds())
            runs = [_run(course, publisher, arrivals, rate, count) for _ in range(pace.rounds)]
            yield from findings(rate, runs, count=count)
        course.wait_until_recorded()
        course.require_complete()


def noise(rate: int, count: int) -> list[float]:
    """By how many seconds an empty loop misses each of the times."""
    late = []
    for due in due_times(rate, count, start=time.monotonic()):
        wait_until_due(due)
        late.append(time.monotonic() - due)
    return late


def _run(course: Course, publisher: Publisher, arrivals: Path, rate: int, count: int) -> Latency:
    idle = noise(rate, count)
    lead = round(rate * LEAD.total_seconds())
    publications = course.publications(lead + count)
    dues = due_times(rate, len(publications), start=time.monotonic())
    sent = 0
    while sent < len(publications):
        wait_until_due(dues[sent])
        now = time.monotonic()
        due = next((at for at in range(sent, len(dues)) if dues[at] > now), len(dues))
        publish(publisher, publications[sent:due])  # all that is due: a slow confirm delays them, and is counted
        sent = due
    numbers = [str(publication.properties["message_id"]) for publication in publications]
    arrived = _arrived(arrivals, set(numbers))
    spans = [arrived[number] - due for number, due in zip(numbers, dues, strict=True)]
    return Latency(Percentiles.of(spans[lead:]), Percentiles.of(idle))


def _arrived(path: Path, numbers: set[str]) -> dict[str, float]:
    """When each of these orders arrived first."""
    give_up_at = time.monotonic() + _PATIENCE
    while True:
        found = _read(path, numbers)
        if len(found) == len(numbers):
            return found
        if time.monotonic() > give_up_at:
            raise BenchFailure(f"{len(found):,} of {len(numbers):,} orders arrived within {_PATIENCE:.0f} s")
        time.sleep(_LOOK)


def _read(path: Path, numbers: set[str]) -> dict[str, float]:
    found: dict[str, float] = {}
    if path.exists():
        for line in path.read_text().splitlines():
            moment, _, number = line.partition(" ")
            if number in numbers:
                found.setdefault(number, float(moment))
    return found
