"""Release latency of orders, idle and with a flood of machine events queued: classes keep them apart.

An order's latency runs from the ERP writing it into its outbox to MES P200 having it in its book, so publishing,
routing, re-entry, sending and the plant's own work are all in it. Real broker, real processes, real HTTP.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import median, quantiles
from urllib.parse import quote

from sqlalchemy import func, select

from bus.bench.children import Children
from bus.bench.frame import Benchmark, Finding, rounded
from bus.bench.services import Services
from bus.bootstrap import private_node, upgrade_store
from bus.broker.declare import declare
from bus.client import Fact, connect
from bus.model.topology import VHOST
from bus.project import load_project, topology_of
from bus.store import tables as t
from bus.store.engine import Database
from tests.benchmarks.wanted import Wanted
from tests.plant.launch import Plant, running_plant, wait_until

ROOT = Path(__file__).parents[2]
ORDERS = 300
"""In each phase; a thorough run's p99 is the third slowest."""
PUBLISHED_AT_ONCE = 1000
PACE = 0.1  # seconds between two orders


@dataclass(frozen=True)
class Latencies:
    """Milliseconds of one phase."""

    count: int
    p50: float
    p99: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Latencies:
        return cls(len(values), round(median(values), 1), round(quantiles(values, n=100, method="inclusive")[98], 1))


@dataclass(frozen=True)
class Flooded:
    """One round: both phases, the events that were still queued at its end, and how many went out in a second."""

    idle: Latencies
    flooded: Latencies
    events_left: int
    events_rate: float


@dataclass(frozen=True)
class Stage:
    database: Database
    folder: Path
    plant: Plant
    environment: Mapping[str, str]
    publisher: str

    @contextmanager
    def processes(self, *roles: Sequence[str]) -> Iterator[None]:
        """Bus processes of these roles while the block runs."""
        children = Children(self.folder, self.environment)
        with ExitStack() as stack:
            stack.callback(children.stop)
            for role in roles:
                children.start("-".join(role), "bus", "--project", str(ROOT), *role)
            yield
            children.require_alive()

    def delivered(self, destination: str) -> int:
        d = t.delivery.c
        query = select(func.count()).where(d.destination == destination, d.state == "DELIVERED")
        with self.database.read() as connection:
            return int(connection.execute(query).scalar_one())


@contextmanager
def a_stage(folder: Path) -> Iterator[Stage]:
    """Private broker, fresh store, the plant; MES P200 takes orders and carries none out."""
    own = {"BUS_FOLDER": str(folder), "BUS_STORE": f"sqlite:///{folder}/bus.db"}
    with _environment(own):
        project = load_project(ROOT)
    with ExitStack() as stack:
        store = stack.enter_context(closing(upgrade_store(project)))
        node = stack.enter_context(private_node(project))
        urls = {
            name: f"amqp://{name}:{quote(_password(folder, name), safe='')}@127.0.0.1:{node.amqp_port}/{VHOST}"
            for name in ("bus", "erp", "mes-p100", "mes-p200")
        }
        declare(topology_of(project), urls["bus"])
        plant = stack.enter_context(running_plant(folder, brokers=urls))
        plant.mes_p200.command("pace", held=True)
        environment = (
            own
            | plant.secrets.as_environment()
            | {
                "BUS_BROKER": urls["bus"],
                "PLANT_ERP_ADDRESS": plant.erp.url,
                "PLANT_MES_P100_ADDRESS": f"{plant.mes_p100.url}/b2mml/operations-schedule",
                "PLANT_MES_P200_ADDRESS": f"{plant.mes_p200.url}/orders",
            }
        )
        yield Stage(store.database, folder, plant, environment, urls["mes-p100"])


@contextmanager
def _environment(own: Mapping[str, str]) -> Iterator[None]:
    """This process's environment with these variables, while the block runs."""
    before = dict(os.environ)
    os.environ.update(own)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _password(folder: Path, name: str) -> str:
    return (folder / "secrets" / name).read_text()


def release_orders(stage: Stage, count: int, *, start: int) -> list[float]:
    """Publish orders one by one at a steady pace; the milliseconds each took to the MES's book."""
    begun = time.monotonic()
    for number in range(count):
        wait_until(lambda due=begun + number * PACE: time.monotonic() >= due, within=60, what="the pace")  # type: ignore[misc]  # a default binds the loop's value
        stage.plant.erp.command("publish-orders", count=1, sites=["P200"], start=start + number, seed=start + number)
    numbers = {str(start + number) for number in range(count)}
    arrived = _eventually(lambda: _arrivals(stage, numbers), len(numbers))
    written = {
        row["order_number"]: _moment(row["written_at"])
        for row in stage.plant.erp.rows("SELECT order_number, written_at FROM publication")
    }
    return [(arrived[number] - written[number]).total_seconds() * 1000 for number in numbers]


def _arrivals(stage: Stage, numbers: set[str]) -> dict[str, datetime]:
    rows = stage.plant.mes_p200.rows("SELECT order_number, received_at FROM job")
    return {row["order_number"]: _moment(row["received_at"]) for row in rows if row["order_number"] in numbers}


def _eventually(look: Callable[[], dict[str, datetime]], size: int) -> dict[str, datetime]:
    wait_until(lambda: len(look()) == size, within=300, what="every order reached the MES")
    return look()


def _moment(written: str) -> datetime:
    return datetime.fromisoformat(written)


def flood(stage: Stage, count: int) -> None:
    """Queue that many machine events; nobody reads them yet."""
    with connect(stage.publisher, system="mes-p100", site="P100") as line:
        for first in range(0, count, PUBLISHED_AT_ONCE):
            line.publish_many([_event(number) for number in range(first, min(first + PUBLISHED_AT_ONCE, count))])


def _event(number: int) -> Fact:
    machine = f"P1-CUT-{number % 50:02d}"
    body = {
        "equipment": {"id": machine, "site": "P100"},
        "state": ("Running", "Idle", "Down")[number % 3],
        "since": f"2026-03-02T07:{number // 60 % 60:02d}:{number % 60:02d}Z",
        "sequence": number,
    }
    return Fact(
        type="equipment.status-changed.v1", body=body, subject=f"equipment:{machine}", message_id=f"{machine}-{number}"
    )


def measure(folder: Path, *, events: int, orders: int) -> Flooded:
    """One round: idle first, then with the events queued and being worked off."""
    with (
        a_stage(folder) as stage,
        stage.processes(("router", "--class", "transaction"), ("worker", "--class", "transaction"), ("relay",)),
    ):
        release_orders(stage, 20, start=1_000_000)  # everything is warm and connected
        idle = Latencies.of(release_orders(stage, orders, start=2_000_000))
        flood(stage, events)
        with stage.processes(("router", "--class", "event"), ("worker", "--class", "event")):
            wait_until(lambda: stage.delivered("machine-events") > 0, within=120, what="the first event went out")
            began, before = time.monotonic(), stage.delivered("machine-events")
            flooded = Latencies.of(release_orders(stage, orders, start=3_000_000))
            span, done = time.monotonic() - began, stage.delivered("machine-events")
    return Flooded(idle, flooded, events - done, (done - before) / span)


def benchmarks(services: Services, wanted: Wanted) -> list[Benchmark]:
    """`services` are not used: the plant has a broker and a store of its own."""

    def found() -> Iterator[Finding]:
        rounds = []
        for _ in range(wanted.rounds):
            with tempfile.TemporaryDirectory(prefix="plantbus-bench-") as folder:
                rounds.append(measure(Path(folder), events=wanted.messages, orders=min(ORDERS, wanted.messages // 10)))
        for phase in ("idle", "flooded"):
            latencies = [getattr(each, phase) for each in rounds]
            for percentile in ("p50", "p99"):
                values = tuple(getattr(each, percentile) for each in latencies)
                notes = {"events": wanted.messages, "events_left": [each.events_left for each in rounds]}
                yield Finding(name=f"classes.{phase}.{percentile}", unit="ms", values=values, notes=notes)
        rates = rounded(each.events_rate for each in rounds)  # what it costs the events that orders come first
        yield Finding(name="classes.flooded.events", unit="msg/s", values=rates, notes={"events": wanted.messages})

    return [Benchmark("classes", "ms", found)]
