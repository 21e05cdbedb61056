"""What a long history costs: the bus, its commands and the relay on an empty store and on one with a million messages.

Both run at the same time and are measured by turns. What is measured on the empty one is in it, some ten thousand
messages at the end. Ratios say by how many times the full one is slower. Commands are whole processes, as typed; of
them `statements` are what they ask the store, without starting a program.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from statistics import median

from bus.bench.contenders import Course, troubles_told
from bus.bench.frame import Benchmark, Finding, Pace, measured_rounds, rounded
from bus.bench.job import SITES, order_id
from bus.bench.orders import PLAIN
from bus.bench.pipeline import RunningBus, running_bus
from bus.bench.services import Services
from bus.pipeline.resume import UNATTENDED
from bus.store.engine import Database
from bus.store.follow import message_numbers, trace
from bus.store.overview import MEASURED, endpoint_lines, overview
from bus.store.search import MessageQuery, list_messages
from bus.store.sqlstore import SqlStore
from tests.benchmarks.past import Pattern, fill
from tests.benchmarks.wanted import LONGEST, Wanted

SEARCHABLE = "order.id"
LIMIT = 20
FIRST = 10**9
"""The past is numbered from here on."""
RATE, COMMAND, ASKED = "msg/s", "ms (command)", "ms (statements)"
TIMES = {COMMAND: 3, ASKED: 20}
"""How often each is asked in a round; the median counts."""
QUEUES = ("transform.transaction", "transform.event", *(f"send.mes-{site.lower()}" for site in SITES))


@dataclass
class Side:
    """A running bus on one of the two stores, and what was measured of it: (measure, unit) → a value for each round."""

    bus: RunningBus
    course: Course
    known: str
    """The id of a message in the middle of its history."""
    values: dict[tuple[str, str], list[float]] = field(default_factory=dict)

    def note(self, measure: str, unit: str, value: float) -> None:
        self.values.setdefault((measure, unit), []).append(value)

    def asked(self) -> Mapping[tuple[str, str], Callable[[], object]]:
        """What people and the relay ask, by measure and unit."""
        database, known = self.bus.database, self.known
        (number,) = message_numbers(database, known)
        query = MessageQuery(where=((SEARCHABLE, known),))
        return {
            ("status", COMMAND): lambda: self.bus.order("status"),
            ("list", COMMAND): lambda: self.bus.order("message", "list", "--where", f"{SEARCHABLE}={known}"),
            ("trace", COMMAND): lambda: self.bus.order("message", "trace", str(number)),
            ("status", ASKED): lambda: (overview(database), endpoint_lines(database, ())),
            ("list", ASKED): lambda: list_messages(database, query, limit=LIMIT),
            ("trace", ASKED): lambda: trace(database, number),
            ("relay", ASKED): lambda: relay_poll(SqlStore(database)),
        }


def measure_round(sides: Sequence[Side], count: int) -> None:
    """So many messages through the pipelines, then everything that is asked: all by turns."""
    for side in sides:
        side.note("pipeline", RATE, side.course.round(count).rate)
    asked = [side.asked() for side in sides]
    for measure, unit in asked[0]:
        spans: list[list[float]] = [[] for _ in sides]
        for _ in range(TIMES[unit]):
            for each, found in zip(asked, spans, strict=True):
                found.append(_milliseconds(each[measure, unit]))
        for side, found in zip(sides, spans, strict=True):
            side.note(measure, unit, median(found))


def _milliseconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1000


def relay_poll(store: SqlStore) -> None:
    """What the relay asks the store again and again, and what it does with every beat."""
    store.wake_due(limit=500)
    store.queues_with_work(queues=QUEUES, older_than=UNATTENDED)
    store.leases()
    store.workers_without_lease()
    store.fold_totals()


def benchmarks(services: Services, wanted: Wanted) -> list[Benchmark]:
    def found(sqlite: bool) -> Iterator[Finding]:
        with troubles_told(), ExitStack() as stack:
            empty = _side(stack, services, sqlite)
            (done,) = measured_rounds(empty.course.round, Pace(rounds=1, box=wanted.box))
            empty.course.round(MEASURED)  # as many as status looks at: it is not to be quick for having too few
            pattern = Pattern.of(empty.bus.database, empty.known)
            full = _side(
                stack, services, sqlite, lambda database: fill(database, pattern, first=FIRST, count=wanted.history)
            )
            full.known = order_id(FIRST + wanted.history // 2)
            measured_rounds(
                full.course.round, Pace(rounds=1, box=timedelta(seconds=min(wanted.box.total_seconds(), 5)))
            )
            for number in range(wanted.rounds):  # by turns: what the first one leaves to be written slows the second
                measure_round((full, empty) if number % 2 else (empty, full), done.messages)
            for side in (empty, full):
                side.course.require_complete()
        name = "sqlite" if sqlite else "postgresql"
        yield from findings(name, empty.values, full.values, history=wanted.history, messages=done.messages)

    return [
        Benchmark(f"history.{'sqlite' if sqlite else 'postgresql'}", "", partial(found, sqlite))
        for sqlite in (False, True)
    ]


def _side(
    stack: ExitStack, services: Services, sqlite: bool, fill_it: Callable[[Database], None] = lambda database: None
) -> Side:
    stage = stack.enter_context(services.stage())
    running = stack.enter_context(running_bus(stage, PLAIN, sqlite=sqlite, searchable=(SEARCHABLE,), fill=fill_it))
    course = stack.enter_context(closing(Course(stage, running, Pace(rounds=1, box=LONGEST))))
    return Side(running, course, known=order_id(0))


Measured = Mapping[tuple[str, str], Sequence[float]]


def findings(name: str, empty: Measured, full: Measured, *, history: int, messages: int) -> Iterator[Finding]:
    """Each measure on both stores, and by how many times the full one is slower."""
    for (measure, unit), values in empty.items():
        label = f"history.{name}.{measure}{'.statements' if unit == ASKED else ''}"
        slower = [b / a if unit != RATE else a / b for a, b in zip(values, full[measure, unit], strict=True)]
        notes = {"messages": [messages] * len(values)} if unit == RATE else {}
        yield Finding(name=f"{label}.0", unit=unit, values=rounded(values), notes=notes)
        yield Finding(name=f"{label}.{history}", unit=unit, values=rounded(full[measure, unit]), notes=notes)
        yield Finding(name=f"{label}.ratio", unit="times", values=rounded(slower), notes={"history": history})
