"""The frame of all measurements: named benchmarks, rounds, what was found and how it is summed up."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from statistics import median, quantiles

from bus.errors import BusError, NotAvailable

Tell = Callable[[str], None]
"""Shows progress to whoever waits."""


class BenchFailure(BusError):
    """A measurement went wrong (something was lost, did not end in time or died): there is no number."""


@dataclass(frozen=True)
class Spread:
    """Several values of one measure in short."""

    median: float
    minimum: float
    maximum: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(median(values), min(values), max(values))


@dataclass(frozen=True)
class Percentiles:
    """How long something took, in milliseconds."""

    p50: float
    p99: float
    p99_9: float

    @classmethod
    def of(cls, spans: Sequence[float]) -> Percentiles:
        """`spans`: seconds, two at least; of few spans the high percentiles are the largest span."""
        cuts = quantiles(spans, n=1000, method="inclusive")
        return cls(*(round(cuts[at] * 1000, 2) for at in (499, 989, 998)))


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one benchmark found: a value for each round, or the sentence that says why there is none."""

    name: str
    unit: str
    values: tuple[float, ...] = ()
    error: str = ""
    failed: bool = False
    """It went wrong, where else something is only missing on this machine."""
    notes: Mapping[str, object] = field(default_factory=dict)
    """What belongs to the number: sizes, seconds."""

    @property
    def spread(self) -> Spread | None:
        return Spread.of(self.values) if self.values else None


@dataclass(frozen=True)
class Round:
    """One run of a number of messages through a contender, from the first publish to the last recorded end."""

    messages: int
    seconds: float

    @property
    def rate(self) -> float:
        """Messages per second."""
        return self.messages / self.seconds


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How long and how often to measure."""

    rounds: int
    box: timedelta
    """A round is given as many messages as the contender should need this long for."""
    messages: int = 0
    """As many messages for a round instead; 0: the box decides."""
    give_up_after: float = float("inf")
    """On the clock `time.monotonic`; nothing new is begun later."""
    enough_after: float = float("inf")
    """On the same clock; no further round is begun later: others wait for their first."""

    def require_time(self) -> None:
        if time.monotonic() > self.give_up_after:
            raise BenchFailure("not measured: the time for the whole run was used up")


@dataclass(frozen=True)
class Benchmark:
    """A named measurement; `measure` may raise any BusError: the finding bears its text then."""

    name: str
    unit: str
    measure: Callable[[], Iterable[Finding]]


def run(benchmarks: Iterable[Benchmark], *, tell: Tell) -> Iterator[Finding]:
    """Run one after another; what fails is found to have failed, and the next one is run.

    What a benchmark found before it failed is kept.
    """
    for benchmark in benchmarks:
        tell(f"{benchmark.name} …")
        for finding in _findings(benchmark):
            tell(f"{finding.name}: {in_words(finding)}")
            yield finding


def _findings(benchmark: Benchmark) -> Iterator[Finding]:
    try:
        yield from benchmark.measure()
    except BusError as error:
        failed = not isinstance(error, NotAvailable)
        yield Finding(name=benchmark.name, unit=benchmark.unit, error=str(error), failed=failed)


def rounded(values: Iterable[float]) -> tuple[float, ...]:
    """As values of a finding: four digits say more than any round repeats."""
    return tuple(float(f"{value:.4g}") for value in values)


def in_words(finding: Finding) -> str:
    spread = finding.spread
    if spread is None:
        return finding.error
    return f"{spread.median:,.5g} {finding.unit} ({spread.minimum:,.5g} to {spread.maximum:,.5g})"


def measured_rounds(attempt: Callable[[int], Round], pace: Pace) -> list[Round]:
    """Warm up, then run the rounds, one at least; `attempt` runs so many messages.

    Raises:
        BenchFailure: a round went wrong: no number at all is better than one of a contender that loses messages.
    """
    rate = _warmed_up(attempt, pace)
    rounds: list[Round] = []
    for _ in range(pace.rounds):
        if rounds and time.monotonic() > pace.enough_after:
            break
        pace.require_time()
        count = pace.messages or max(1, round(rate * pace.box.total_seconds()))
        rounds.append(attempt(count))
        rate = rounds[-1].rate
    return rounds


def _warmed_up(attempt: Callable[[int], Round], pace: Pace) -> float:
    """The rate of a run that took long enough to tell one; the very first waits until everything is connected."""
    enough = min(1.0, pace.box.total_seconds() / 4)
    count = 20
    attempt(count)
    while True:
        pace.require_time()
        trial = attempt(count)
        if trial.seconds >= enough / 2 or count >= 50_000:
            return trial.rate
        count = min(max(round(trial.rate * enough), count * 2), count * 20)


def rate_finding(name: str, rounds: Sequence[Round]) -> Finding:
    return Finding(
        name=name,
        unit="msg/s",
        values=tuple(round(each.rate, 1) for each in rounds),
        notes={"messages": [each.messages for each in rounds], "seconds": [round(each.seconds, 2) for each in rounds]},
    )
