"""Every measurement in one run, side by side on one machine; nothing fails for being slow.

    python -m tests.benchmarks [PART…] [--rounds 3] [--postgresql URL] [--results FILE] [-o json]

A part is a module with a function `benchmarks(services, wanted)`; its line in PARTS is all it takes to add one.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.text import Text

from bus.bench.frame import Benchmark, Finding, run
from bus.bench.job import order
from bus.bench.machine import machine, versions
from bus.bench.report import Report
from bus.bench.services import Services, unwind_on_sigterm
from tests.benchmarks import comparison, event_flood, sizes
from tests.benchmarks.wanted import Wanted

PARTS: Mapping[str, Callable[[Services, Wanted], list[Benchmark]]] = {
    "comparison": comparison.benchmarks,
    "sizes": sizes.benchmarks,
    "classes": event_flood.benchmarks,
}


@dataclass(frozen=True)
class Progress:
    """Told on stderr; results go to stdout."""

    console: Console

    def __call__(self, text: str) -> None:
        self.console.print(Text(text), soft_wrap=True)


def measure(parts: list[str], wanted: Wanted, *, postgresql: str, tell: Progress) -> Report:
    """Each part on services of its own, so that none inherits what another left in a broker or a cache."""
    at, before, used = datetime.now(UTC).astimezone(), machine(), versions()
    findings: list[Finding] = []
    for name in parts:
        tell(f"--- {name}")
        with Services(postgresql=postgresql, tell=tell) as services:
            findings += run(PARTS[name](services, wanted), tell=tell)
            used |= services.versions()
    return Report(at=at, machine=before, versions=used, findings=findings, message_bytes=len(order(0)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all of them")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--postgresql", metavar="URL", default="", help="a server whose user may create databases")
    parser.add_argument("--results", type=Path, metavar="FILE", help="write the JSON there, too")
    parser.add_argument("-o", dest="output", choices=("table", "json"), default="table")
    asked = parser.parse_args()
    if unknown := set(asked.parts) - PARTS.keys():
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(PARTS)}")
    unwind_on_sigterm()
    tell = Progress(Console(file=sys.stderr, highlight=False))
    found = measure(asked.parts or [*PARTS], Wanted(rounds=asked.rounds), postgresql=asked.postgresql, tell=tell)
    if asked.results:
        found.write(asked.results)
    if asked.output == "json":
        print(json.dumps(found.as_value(), indent=2))  # noqa: T201  # its output
    else:
        console = Console(highlight=False)
        console.print(found.table())
        console.print(Text(found.caption(), style="dim"))
    sys.exit(any(finding.failed for finding in found.findings))


if __name__ == "__main__":
    main()
