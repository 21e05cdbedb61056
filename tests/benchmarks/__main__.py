"""Every measurement in one run, side by side on one machine; nothing fails for being slow.

    python -m tests.benchmarks [PART…] [--quick] [--rounds 3] [--messages 100000] [--history 1000000] [--minutes 10]
                               [--postgresql URL] [--results FILE] [-o json]

A part is a module with a function `benchmarks(services, wanted)`; its line in PARTS is all it takes to add one. What a
part found stands in FILE as soon as it is known; Ctrl-C and SIGTERM end the run, and show what was found until then.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from rich.console import Console
from rich.text import Text

from bus.bench.frame import Benchmark, Finding, run
from bus.bench.job import order
from bus.bench.machine import machine, versions
from bus.bench.report import Report
from bus.bench.services import Services, unwind_on_sigterm
from bus.errors import ConfigurationError
from tests.benchmarks import (
    comparison,
    contract_check,
    event_flood,
    footprint,
    history,
    lanes,
    latency,
    outage,
    payload,
    routing,
    sizes,
)
from tests.benchmarks.wanted import QUICK, THOROUGH, Wanted

PARTS: dict[str, Callable[[Services, Wanted], list[Benchmark]]] = {
    "comparison": comparison.benchmarks,
    "sizes": sizes.benchmarks,
    "latency": latency.benchmarks,
    "routing": routing.benchmarks,
    "contract": contract_check.benchmarks,
    "history": history.benchmarks,
    "lanes": lanes.benchmarks,
    "outage": outage.benchmarks,
    "classes": event_flood.benchmarks,
    "footprint": footprint.benchmarks,
    "payload": payload.benchmarks,
}


@dataclass(frozen=True)
class Progress:
    """Told on stderr; results go to stdout."""

    console: Console

    def __call__(self, text: str) -> None:
        self.console.print(Text(text), soft_wrap=True)


@dataclass
class Course:
    """What was found so far, and on what."""

    tell: Progress
    at: datetime = field(default_factory=lambda: datetime.now(UTC).astimezone())
    machine: Mapping[str, object] = field(default_factory=machine)
    versions: dict[str, str] = field(default_factory=versions)
    findings: list[Finding] = field(default_factory=list)

    def measure(self, parts: Sequence[str], wanted: Wanted, *, postgresql: str) -> Iterator[Finding]:
        """Each part on services of its own, so that none inherits what another left in a broker or a cache."""
        for name in parts:
            self.tell(f"--- {name}")
            try:
                for finding in self._part(name, wanted, postgresql):
                    self.findings.append(finding)
                    yield finding
            except Exception as error:  # noqa: BLE001  # it is a finding: hours of the other parts are not lost for it
                failed = Finding(name=name, unit="", error=f"{type(error).__name__}: {error}", failed=True)
                self.tell(f"{name}: {failed.error}")
                self.findings.append(failed)
                yield failed

    def _part(self, name: str, wanted: Wanted, postgresql: str) -> Iterator[Finding]:
        with Services(postgresql=postgresql, tell=self.tell) as services:
            yield from run(PARTS[name](services, wanted), tell=self.tell)
            self.versions |= services.versions()

    @property
    def report(self) -> Report:
        return Report(
            at=self.at,
            machine=self.machine,
            versions=self.versions,
            findings=self.findings,
            message_bytes=len(order(0)),
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all of them")
    parser.add_argument("--quick", action="store_true", help="a hundredth of the sizes: shows that everything runs")
    parser.add_argument("--rounds", type=_count, metavar="N", help="how often each is measured: 3, quick 1")
    parser.add_argument("--messages", type=_count, metavar="N", help="where many are to be there at once: 100,000")
    parser.add_argument("--history", type=_count, metavar="N", help="finished messages of a full store: 1,000,000")
    parser.add_argument("--minutes", type=_minutes, metavar="N", help="how long memory is watched: 10")
    parser.add_argument("--postgresql", metavar="URL", default="", help="a server whose user may create databases")
    parser.add_argument("--results", type=Path, metavar="FILE", help="write the JSON there, too")
    parser.add_argument("-o", dest="output", choices=("table", "json"), default="table")
    asked = parser.parse_args()
    if unknown := set(asked.parts) - PARTS.keys():
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(PARTS)}")
    course = Course(Progress(Console(file=sys.stderr, highlight=False)))
    if asked.results:
        try:
            course.report.write(asked.results)
        except ConfigurationError as error:  # said now, not after hours
            parser.error(str(error))
    unwind_on_sigterm()
    code = _run(course, asked)
    if asked.results:
        course.report.write(asked.results)
    _show(course.report, asked.output)
    return code


def _run(course: Course, asked: argparse.Namespace) -> int:
    try:
        for _ in course.measure(asked.parts or [*PARTS], _wanted(asked), postgresql=asked.postgresql):
            if asked.results:
                course.report.write(asked.results)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except SystemExit as ended:  # of SIGTERM: everything that was started is ended by now
        return ended.code if isinstance(ended.code, int) else 1
    return int(any(finding.failed for finding in course.findings))


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r}: a whole number above 0 is expected, 100000 say")
    return int(text)


def _minutes(text: str) -> timedelta:
    try:
        minutes = timedelta(minutes=float(text))
    except (ValueError, OverflowError):
        minutes = timedelta()
    if minutes <= timedelta():
        raise argparse.ArgumentTypeError(f"{text!r}: a number above 0 is expected, 0.5 say")
    return minutes


def _wanted(asked: argparse.Namespace) -> Wanted:
    given = {name: getattr(asked, name) for name in ("rounds", "messages", "history") if getattr(asked, name)}
    if asked.minutes:
        given["watch"] = asked.minutes
    return replace(QUICK if asked.quick else THOROUGH, **given)


def _show(report: Report, output: str) -> None:
    if output == "json":
        print(json.dumps(report.as_value(), indent=2))  # noqa: T201  # its output
    else:
        console = Console(highlight=False)
        console.print(report.table())
        console.print(Text(report.caption(), style="dim"))


if __name__ == "__main__":
    sys.exit(main())
