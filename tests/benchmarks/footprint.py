"""What the bus takes: memory of each process of `bus run` idle, under load and over time, of the broker; cold starts.

Memory is what a process has in RAM, what it shares with others counted whole. PostgreSQL is the store. The slope is
that of a line through what was seen in the second half of the watch, at a steady rate of orders: at first caches fill.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from statistics import linear_regression, median

from bus.bench.contenders import troubles_told
from bus.bench.frame import BenchFailure, Benchmark, Finding, rounded
from bus.bench.latency import due_times
from bus.bench.load import publish, targets_at, wait_until_due
from bus.bench.orders import PLAIN
from bus.bench.pipeline import RunningBus, running_bus
from bus.bench.process import children_of, resident_bytes, words_of
from bus.bench.services import Services, Stage
from bus.broker.publisher import Publisher
from tests.benchmarks.wanted import LONGEST, Wanted

RATE = 100
"""Orders/s while memory is watched."""
EVERY = timedelta(seconds=1)
SETTLES = timedelta(seconds=5)
"""Before memory is read idle."""
COMMANDS = 3
"""How often each command is started in a round."""
_ROLES = ("run", "router", "worker", "relay")
_LOOK = 0.02  # seconds


@dataclass
class Memory:
    """MB of each process of `bus run`, at each moment it was looked at."""

    seen: dict[str, list[tuple[float, float]]] = field(default_factory=dict)

    def look(self, supervisor: int) -> None:
        now = time.monotonic()
        for pid in (supervisor, *children_of(supervisor)):
            with suppress(ProcessLookupError):
                self.seen.setdefault(role_of(words_of(pid)), []).append((now, resident_bytes(pid) / 1e6))

    def most(self) -> dict[str, float]:
        return {name: max(memory for _, memory in looks) for name, looks in self.seen.items()}

    def slopes(self) -> dict[str, float]:
        """MB per hour in the second half of what was seen."""
        return {name: _slope(looks[len(looks) // 2 :]) for name, looks in self.seen.items() if len(looks) > 3}


def role_of(words: Sequence[str]) -> str:
    """The role in a command line of the bus: `run`, `relay`, `router.transaction` …"""
    role = next((word for word in words if word in _ROLES), "other")
    return f"{role}.{words[words.index('--class') + 1]}" if "--class" in words else role


def _slope(looks: Sequence[tuple[float, float]]) -> float:
    moments, memory = zip(*looks, strict=True)
    return linear_regression(moments, memory).slope * 3600


@dataclass
class Bus:
    """`bus run` on a stage, started and ended again and again."""

    services: Services
    stage: Stage
    bus: RunningBus
    publisher: Publisher
    published: int = 0

    def start(self) -> int:
        """The supervisor's process."""
        self.bus.start("run")
        return self.bus.children.pid("run")

    def stop(self) -> None:
        self.bus.children.stop()

    def publish(self, count: int) -> None:
        numbers = range(self.published, self.published + count)
        self.published += count
        publish(self.publisher, [self.bus.publication(number) for number in numbers])

    def until(self, done: Callable[[], bool], what: str, *, look: Callable[[], None] = lambda: None) -> None:
        """
        Raises:
            BenchFailure: it did not come true, or a process ended.
        """
        give_up_at = time.monotonic() + LONGEST.total_seconds() * 3
        looks_at = 0.0
        while not done():
            self.bus.children.require_alive()
            if time.monotonic() > give_up_at:
                raise BenchFailure(f"not within {LONGEST * 3}: {what}")
            if time.monotonic() >= looks_at:
                look()
                looks_at = time.monotonic() + EVERY.total_seconds()
            time.sleep(_LOOK)

    def is_idle(self) -> bool:
        return self.bus.ends() == self.published

    def broker_memory(self) -> float:
        return resident_bytes(self.services.broker_pid) / 1e6


def _round(bus: Bus, waiting: int) -> dict[tuple[str, str], float]:
    """(name, unit) → value."""
    found = {("cold-start", "s"): _cold_start(bus)}
    supervisor = bus.bus.children.pid("run")
    settled_at = time.monotonic() + SETTLES.total_seconds()
    bus.until(lambda: time.monotonic() >= settled_at, "its memory settles")
    idle, loaded = Memory(), Memory()
    idle.look(supervisor)
    found["broker.idle", "MB"] = bus.broker_memory()
    for name in ("help", "status"):
        found[f"cli.{name}", "ms"] = median(_command(bus, name) for _ in range(COMMANDS))
    bus.stop()
    bus.publish(waiting)
    found["broker.waiting", "MB"] = bus.broker_memory()
    supervisor = bus.start()
    bus.until(bus.is_idle, "everything is delivered", look=lambda: loaded.look(supervisor))
    bus.stop()
    found |= {(f"idle.{role}", "MB"): memory for role, memory in idle.most().items()}
    return found | {(f"backlog.{role}", "MB"): memory for role, memory in loaded.most().items()}


def _cold_start(bus: Bus) -> float:
    """Seconds from the start of `bus run` until an order that waits is with its MES."""
    bus.publish(1)
    with targets_at(bus.stage.broker_url) as targets:
        targets.empty()
        began = time.monotonic()
        bus.start()
        bus.until(lambda: targets.depth() > 0, "the first order is delivered")
        return time.monotonic() - began


def _command(bus: Bus, name: str) -> float:
    """Milliseconds that a command takes, as typed."""
    began = time.perf_counter()
    if name == "help":
        bus.bus.children.run("bus", "--help")
    else:
        bus.bus.order(name)
    return (time.perf_counter() - began) * 1000


def _watch(bus: Bus, span: timedelta) -> Memory:
    """Its memory at a steady rate of orders."""
    supervisor = bus.start()
    memory = Memory()
    for number, due in enumerate(due_times(RATE, round(RATE * span.total_seconds()), start=time.monotonic())):
        wait_until_due(due)
        bus.publish(1)
        if number % round(RATE * EVERY.total_seconds()) == 0:
            bus.bus.children.require_alive()
            memory.look(supervisor)
    bus.until(bus.is_idle, "everything is delivered")
    bus.stop()
    return memory


@contextmanager
def _a_bus(services: Services) -> Iterator[Bus]:
    with (
        troubles_told(),
        services.stage() as stage,
        running_bus(stage, PLAIN, roles=()) as running,
        closing(Publisher(stage.broker_url, name="plantbus bench publisher")) as publisher,
    ):
        bus = Bus(services, stage, running, publisher)
        yield bus
        if complaint := running.complaint(bus.published):
            raise BenchFailure(complaint)


def benchmarks(services: Services, wanted: Wanted) -> list[Benchmark]:
    def rounds() -> Iterator[Finding]:
        found: dict[tuple[str, str], list[float]] = {}
        for _ in range(wanted.rounds):
            with _a_bus(services) as bus:
                for key, value in _round(bus, wanted.messages).items():
                    found.setdefault(key, []).append(value)
        for (name, unit), values in sorted(found.items()):
            notes = {"waiting": wanted.messages} if name.startswith(("backlog", "broker.waiting")) else {}
            yield Finding(name=f"footprint.{name}", unit=unit, values=rounded(values), notes=notes)

    def slope() -> Iterator[Finding]:
        with _a_bus(services) as bus:
            memory = _watch(bus, wanted.watch)
        notes = {"seconds": wanted.watch.total_seconds(), "rate": RATE}
        for role, value in sorted(memory.slopes().items()):
            yield Finding(name=f"footprint.slope.{role}", unit="MB/h", values=rounded([value]), notes=notes)

    return [Benchmark("footprint", "", rounds), Benchmark("footprint.slope", "MB/h", slope)]
