"""The bus with orders of 0.5 kB, 20 kB and 1 MB: how many, and how many megabytes, in a second.

An order of 20 kB has many operations; one of 1 MB has a thousand, with instructions for each, since the bus takes no
document of more than some ten thousand values. The job made of an order leaves the instructions out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from bus.bench.contenders import measure
from bus.bench.frame import Benchmark, Finding, rate_finding
from bus.bench.orders import Orders
from bus.bench.pipeline import pipeline
from bus.bench.services import Services
from tests.benchmarks.wanted import Wanted

SIZES: Mapping[str, Orders] = {
    "0.5kB": Orders(operations=1),
    "20kB": Orders(operations=205),
    "1MB": Orders(operations=1_000, instructions=905),
}


def benchmarks(services: Services, wanted: Wanted) -> list[Benchmark]:
    def rates(size: str, orders: Orders) -> Iterable[Finding]:
        messages = rate_finding(f"payload.{size}", measure(pipeline(orders), services, wanted.pace))
        length = len(orders.body(0))
        megabytes = tuple(round(rate * length / 1e6, 2) for rate in messages.values)
        notes = {**messages.notes, "bytes": length}
        yield replace(messages, notes=notes)
        yield replace(messages, name=f"payload.{size}.volume", unit="MB/s", values=megabytes, notes=notes)

    return [
        Benchmark(f"payload.{size}", "msg/s", lambda size=size, orders=orders: rates(size, orders))  # type: ignore[misc]  # defaults bind the loop's values
        for size, orders in SIZES.items()
    ]
