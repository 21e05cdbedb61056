"""A soak: processes are killed at random for as long as asked, others never; what these take must not grow.

    python -m tests.faults --soak MINUTES [-k postgresql]

Beside a router, worker and relay that are killed every 1-5 s runs one of each that is not. Their memory, descriptors
and threads are watched, and what broker and store hold for all of them.
"""

from __future__ import annotations

import os
import random
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import linear_regression, median

import pytest

from tests.faults.checker import Finding
from tests.faults.stage import Stage, lasts, under_load
from tests.faults.survival import Survival
from tests.system.running_bus import ROLES

MINUTES = "PLANTBUS_SOAK"
WARM_UP = 1 / 3
"""Of the time: until then caches and pools fill."""
TURNS = 8
"""Kills in one round; after each round everything comes to rest and is checked."""

Sample = Mapping[str, float]

_MAY_GROW: Mapping[str, float] = {"MB": 16, "descriptors": 8, "threads": 8, "connections": 8}
"""By its unit, what a watched thing may grow by without a word; a tenth of what it was is allowed besides."""


@dataclass
class Watch:
    """What was seen of each thing, at which second; a thing's name ends with its unit."""

    seen: dict[str, list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))

    def note(self, second: float, sample: Sample) -> None:
        for name, value in sample.items():
            self.seen[name].append((second, value))

    def findings(self) -> list[Finding]:
        """Everything that grew, by the slope of its line after the warm-up."""
        found = []
        for name, moments in self.seen.items():
            growth, usual = growth_of(moments)
            if growth > _MAY_GROW[name.rpartition(" ")[2]] + usual / 10:
                found.append(Finding("I4", f"{name} grew by {growth:.1f}, usual is {usual:.1f}"))
        return found

    def __str__(self) -> str:
        told = []
        for name, moments in self.seen.items():
            growth, usual = growth_of(moments)
            told.append(f"{name} {usual:.0f} {growth:+.1f}")
        return ", ".join(told)


def growth_of(moments: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """(growth by the slope over the time after the warm-up, median of that time)."""
    begin = moments[0][0] + WARM_UP * (moments[-1][0] - moments[0][0])
    late = [moment for moment in moments if moment[0] >= begin]
    seconds, values = zip(*late, strict=True)
    if len(set(seconds)) < 2:
        return 0.0, median(values)
    return linear_regression(seconds, values).slope * (seconds[-1] - seconds[0]), median(values)


def of_process(name: str, pid: int) -> Sample:
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {
        f"{name} MB": int(status["VmRSS"].split()[0]) / 1024,
        f"{name} descriptors": len(os.listdir(f"/proc/{pid}/fd")),
        f"{name} threads": int(status["Threads"]),
    }


def sample(stage: Stage) -> Sample:
    """Of those that live all the time: the processes that nobody kills, the broker, the lines."""
    taken: dict[str, float] = {}
    for role in ROLES:
        taken |= of_process(role, stage.bus.processes[steady(role)].pid)
    taken |= of_process("broker", stage.node.pid)
    taken["broker connections"] = stage.line.open
    if stage.store.line is not None:
        taken["store connections"] = stage.store.line.open
    return taken


def steady(role: str) -> str:
    return f"steady-{role}"


@pytest.fixture
def lasting(stage: Stage) -> Iterator[Stage]:
    """Beside each process one that nobody kills."""
    for role in ROLES:
        stage.start_as(steady(role), role)
    yield stage
    stage.bus.stop(*map(steady, ROLES))


@pytest.mark.timeout(0)
def test_a_soak(lasting: Stage, survival: Survival) -> None:
    stage, chance, watch = lasting, random.Random(survival.seed), Watch()
    began, found, holding, kills = time.monotonic(), list[Finding](), 0, 0
    while (second := time.monotonic() - began) < 60 * float(os.environ[MINUTES]) and not found:
        with under_load(stage, chance.getrandbits(32)) as load:
            for _ in range(TURNS):
                lasts(chance.uniform(1, 5))
                victim = chance.choice(ROLES)
                stage.bus.kill(victim)
                stage.start(victim)
                kills += 1
        watch.note(second, sample(stage))  # at rest, so that one round is like the other
        holding += load.holding
        found += stage.findings(load.truth)
    ended = [role for role in ROLES if stage.bus.processes[steady(role)].poll() is not None]
    found += [Finding("I5", f"a {role} that nobody killed ended") for role in ended]
    told = f"{len(next(iter(watch.seen.values())))} rounds, {kills} kills; {watch}"
    survival.tell([*found, *watch.findings()], store=stage.kind, holding=holding, measured=told)
