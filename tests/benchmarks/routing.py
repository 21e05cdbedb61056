"""What selecting a message's routes costs where there are 10, 1,000 or 100,000 of them, and three match.

CPU time of `RouteTable.select`; every three routes are for a plant of their own. Messages come from one plant, which
shows what finding its routes costs; and from up to 1,000 plants by turns, which adds what it costs to fetch the routes
of a large table into the processor's cache.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from statistics import median

from bus import Route, field, on
from bus.bench.frame import Benchmark, Finding, rounded
from bus.bench.services import Services
from bus.model.message import Message, Opened
from bus.model.route import RouteTable
from tests.benchmarks.wanted import Wanted

COUNTS = (10, 1_000, 100_000)
MATCHING = 3
MESSAGES = 1_000
SPAN = 0.2
"""Seconds of CPU in which one table is measured in a round."""
ORDER = "order.release.v1"


def a_table(count: int) -> RouteTable:
    """So many routes, three for each plant; the last plant may have fewer."""
    return RouteTable(
        Route(
            name=f"orders-to-mes-{number}",
            when=on(ORDER) & (field("site") == f"P{number // MATCHING}") & (field("quantity.value") > 0),
            to=f"mes-{number}",
        )
        for number in range(count)
    )


def messages(plants: int) -> Sequence[Opened]:
    """One of each of so many plants, evenly chosen where they are too many."""
    step = max(1, plants // MESSAGES)
    return [_message(f"P{plant}") for plant in range(0, plants, step)]


def _message(plant: str) -> Opened:
    header = Message(
        id="1", type=ORDER, system="erp", site=plant, subject="order:1", content_type="application/json", body=b""
    )
    return Opened(header, {"site": plant, "quantity": {"value": 120, "uom": "EA"}})


def microseconds(table: RouteTable, opened: Sequence[Opened]) -> float:
    """CPU time of one selection: the median of runs through all the messages."""
    runs: list[float] = []
    began = time.process_time()
    while time.process_time() - began < SPAN or not runs:
        run_began = time.process_time()
        for each in opened:
            table.select(each)
        runs.append((time.process_time() - run_began) / len(opened) * 1e6)
    return median(runs)


def benchmarks(services: Services, wanted: Wanted) -> list[Benchmark]:
    """`services` are not used: it is CPU alone."""

    def found() -> Iterable[Finding]:
        tables = {count: a_table(count) for count in COUNTS}
        ways = {
            "routing": {count: messages(1) for count in COUNTS},
            "routing.by-turns": {count: messages(count // MATCHING) for count in COUNTS},
        }
        for way, given in ways.items():
            values: dict[int, list[float]] = {count: [] for count in COUNTS}
            for _ in range(wanted.rounds):
                for count in COUNTS:
                    values[count].append(microseconds(tables[count], given[count]))
            for count in COUNTS:
                notes = {"plants": len(given[count])}
                yield Finding(name=f"{way}.{count}", unit="µs", values=rounded(values[count]), notes=notes)
            ratios = [most / least for least, most in zip(values[COUNTS[0]], values[COUNTS[-1]], strict=True)]
            yield Finding(name=f"{way}.ratio", unit="times", values=rounded(ratios))

    return [Benchmark("routing", "µs", found)]
