"""What reading and checking one document by its contract costs: the exact way for all, and as it is done.

    python -m tests.benchmarks.contract_check [--rounds 7] [-o json]

Microseconds of CPU per document, the median of the rounds, both ways measured by turns. `exact` reads with the readers
that explain refusals and loads with marshmallow; `now` is `Contract.read`. The orders are order.release.v1.

`python -m tests.benchmarks contract` measures the orders as it is done, and which share of the pipeline's CPU it is:
what reading by contract takes in router and worker for an order, of all that router, worker and relay take for it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import runpy
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import msgspec

from bus import Contract, write_json
from bus.bench.contenders import Course, troubles_told
from bus.bench.frame import Benchmark, Finding, Round, measured_rounds, rounded
from bus.bench.job import order
from bus.bench.orders import PLAIN
from bus.bench.pipeline import ROLES, running_bus
from bus.bench.process import cpu_seconds
from bus.bench.project import CANONICAL, write_project
from bus.bench.services import Services
from bus.model import document
from bus.model.message import Opened
from bus.model.transformer import TransformContext
from bus.model.values import ValueMaps
from bus.testing import a_message
from tests.benchmarks.wanted import Wanted
from tests.project.project import contracts

SPAN = 0.01
"""Seconds of one round."""

Sample = tuple[str, Contract, bytes]


def orders() -> Iterator[Sample]:
    """An order of 0.7 kB with one operation and one component, and one of 20 kB with many of both."""
    contract = contracts()["order.release.v1"]
    order = json.loads(contract.examples[0])
    yield "order 0.7 kB", contract, write_json(order)
    yield "order 20 kB", contract, write_json(order | {name: order[name] * 58 for name in ("operations", "components")})


def examples() -> Iterator[Sample]:
    for contract in contracts().values():
        for number, body in enumerate(contract.examples, start=1):
            yield f"{contract.type} #{number}", contract, body


@contextmanager
def everything_read_exactly() -> Iterator[None]:
    quick = document._is_plain_json, document._is_plain_xml

    def never(_: bytes, /) -> bool:
        return False

    try:
        document._is_plain_json, document._is_plain_xml = never, never  # type: ignore[assignment]  # named otherwise
        yield
    finally:
        document._is_plain_json, document._is_plain_xml = quick


def microseconds(work: Callable[[], object]) -> float:
    """CPU time of one call, in one round."""
    began, calls = time.process_time(), 0
    while (now := time.process_time()) - began < SPAN:
        for _ in range(10):
            work()
        calls += 10
    return (now - began) / calls * 1e6


def measured(contract: Contract, body: bytes, *, rounds: int) -> dict[str, Any]:
    """{"exact" and "now": {"parse", "bounds", "schema", "total"}, "ratio"}; bounds are what reading adds to parsing.

    A body in XML is not split: `parse` is all of its reading.
    """
    is_json = contract.content_types == ("application/json",)
    read = contract.reader(body)
    ways: dict[str, dict[str, Callable[[], object]]] = {
        "exact": {"parse": lambda: json.loads(body), "schema": lambda: contract.checker.load(read)},
        "now": {"parse": lambda: msgspec.json.decode(body), "schema": lambda: contract._load(read)},
    }
    found: dict[str, dict[str, list[float]]] = {way: {"read": [], "parse": [], "schema": []} for way in ways}
    for _ in range(rounds):
        for way, steps in ways.items():
            if way == "exact":
                with everything_read_exactly():
                    found[way]["read"].append(microseconds(lambda: contract.reader(body)))
            else:
                found[way]["read"].append(microseconds(lambda: contract.reader(body)))
            found[way]["schema"].append(microseconds(steps["schema"]))
            if is_json:
                found[way]["parse"].append(microseconds(steps["parse"]))
    result = {
        way: _split({name: median(values) for name, values in each.items() if values}) for way, each in found.items()
    }
    return {**result, "ratio": round(result["exact"]["total"] / result["now"]["total"], 1)}


def _split(steps: dict[str, float]) -> dict[str, float]:
    parse = steps.get("parse", steps["read"])
    split = {"parse": parse, "bounds": steps["read"] - parse, "schema": steps["schema"]}
    return {name: round(value, 1) for name, value in (split | {"total": sum(split.values())}).items()}


def benchmarks(services: Services, wanted: Wanted) -> list[Benchmark]:
    def checks() -> Iterable[Finding]:
        for name, contract, body in orders():
            values = tuple(round(microseconds(lambda c=contract, b=body: c.read(b)), 1) for _ in range(wanted.rounds))  # type: ignore[misc]  # defaults bind the loop's values
            size = name.removeprefix("order ").replace(" ", "")
            yield Finding(name=f"contract.{size}", unit="µs", values=values, notes={"bytes": len(body)})

    return [Benchmark("contract", "µs", checks), Benchmark("contract.share", "%", lambda: _share(services, wanted))]


def _share(services: Services, wanted: Wanted) -> Iterable[Finding]:
    """Of the pipeline's orders, on PostgreSQL."""
    used: list[float] = []
    with (
        troubles_told(),
        services.stage() as stage,
        running_bus(stage, PLAIN) as running,
        closing(Course(stage, running, wanted.pace)) as course,
    ):
        processes = [running.children.pid(role) for role in ROLES]

        def attempt(count: int) -> Round:
            before = sum(map(cpu_seconds, processes))
            done = course.round(count)
            used.append((sum(map(cpu_seconds, processes)) - before) / count * 1e6)
            return done

        rounds = measured_rounds(attempt, wanted.pace)
        course.require_complete()
    used = used[-len(rounds) :]
    reads = [reading_an_order() for _ in rounds]
    notes = {"messages": [each.messages for each in rounds]}
    yield Finding(name="contract.reading", unit="µs CPU/order", values=rounded(reads), notes=notes)
    yield Finding(name="contract.pipeline", unit="µs CPU/order", values=rounded(used), notes=notes)
    shares = [one / whole * 100 for one, whole in zip(reads, used, strict=True)]
    yield Finding(name="contract.share", unit="%", values=rounded(shares), notes=notes)


def reading_an_order() -> float:
    """What the contracts' part of carrying one order takes, in µs: it is read when it is received and when it is
    transformed, and the job is read before it is sent."""
    with tempfile.TemporaryDirectory(prefix="plantbus-bench-") as folder:
        write_project(Path(folder))
        declared = runpy.run_path(f"{folder}/transformers/orders.py")
    known = {contract.type: contract for contract in declared["CONTRACTS"]}
    body = order(0)
    opened = Opened(a_message(type=CANONICAL, body=body), known[CANONICAL].read(body))
    job = declared["job"](opened, TransformContext(maps=ValueMaps(), key="k"))
    read_order = microseconds(lambda: known[CANONICAL].read(body))
    return 2 * read_order + microseconds(lambda: known[job.type].read(job.body))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("-o", "--output", choices=["text", "json"], default="text")
    arguments = parser.parse_args()
    documents = {
        name: {"bytes": len(body), **measured(contract, body, rounds=arguments.rounds)}
        for name, contract, body in (*orders(), *examples())
    }
    versions = {name: version(name) for name in ("marshmallow", "msgspec")}
    machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    result = {"machine": machine, "versions": versions, "rounds": arguments.rounds, "documents": documents}
    sys.stdout.write(json.dumps(result, indent=2) if arguments.output == "json" else table(documents))
    sys.stdout.write("\n")


def table(documents: dict[str, dict[str, Any]]) -> str:
    steps = ("parse", "bounds", "schema", "total")
    lines = [
        f"{'µs':40}{'bytes':>7}{'exact':>36}{'now':>36}{'ratio':>8}",
        " " * 47 + 2 * "".join(f"{step:>9}" for step in steps),
    ]
    for name, found in documents.items():
        figures = "".join(f"{found[way][step]:9.1f}" for way in ("exact", "now") for step in steps)
        lines.append(f"{name:40}{found['bytes']:7}{figures}{found['ratio']:8.1f}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
