"""The bus as a contender: its real processes on a project of its own, on either store."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from sqlalchemy import func, select

from bus.bench.children import Children
from bus.bench.contenders import Contender
from bus.bench.job import route_of
from bus.bench.load import declare_queues
from bus.bench.orders import PLAIN, Orders
from bus.bench.project import write_project
from bus.bench.services import Stage
from bus.broker.publisher import Publication
from bus.store import tables as t
from bus.store.clock import store_clock
from bus.store.engine import Database
from bus.store.overview import overview, totals

ROLES = ("router", "worker", "relay")
"""The bus's processes, one of each."""
_ABOUT = f"one transaction per batch at each hop; order per key, claims, history; {len(ROLES)} processes"


@dataclass(frozen=True)
class RunningBus:
    """The bus at work on a stage."""

    children: Children
    database: Database
    project: Path
    orders: Orders
    before: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """The ledger's sums when the count began."""
    delivery: int = 0
    """The last delivery before the count began."""

    def publication(self, number: int) -> Publication:
        return self.orders.publication(number)

    def given(self, orders: Orders) -> RunningBus:
        """The same bus, given these orders; what it did before does not count."""
        with self.database.read() as connection:
            last = connection.execute(select(func.max(t.delivery.c.id))).scalar() or 0
            return replace(self, orders=orders, before=totals(connection), delivery=last)

    def ends(self) -> int:
        return self._count("delivered")

    def planned(self) -> int:
        """Deliveries of these orders that came to be."""
        return self._count("planned")

    def _count(self, measure: str) -> int:
        with self.database.read() as connection:
            now = totals(connection)
        routes = [(measure, route_of(site)) for site in self.orders.sites]
        return sum(now.get(each, 0) - self.before.get(each, 0) for each in routes)

    def clock(self) -> float:
        """Now, by the store's clock: seconds since 1970."""
        with self.database.read() as connection:
            return float(connection.execute(select(store_clock())).scalar_one().timestamp())

    def last_end(self) -> float:
        d = t.delivery.c
        sent = d.route.in_([route_of(site) for site in self.orders.sites])
        query = select(func.max(d.changed_at)).where(d.id > self.delivery, d.state == "DELIVERED", sent)
        with self.database.read() as connection:
            return float(connection.execute(query).scalar_one().timestamp())

    def complaint(self, published: int) -> str:
        found = overview(self.database)
        receipts, _, deliveries = found.equations
        wrong = [str(each) for each in found.equations if not each.balances]
        if receipts.whole["received"] != receipts.parts["accepted"]:
            wrong.append(f"not every order was accepted: {receipts}")
        if (accepted := receipts.parts["accepted"] - self.before.get(("accepted", ""), 0)) != published:
            wrong.append(f"of {published:,} orders {accepted:,} were accepted")
        if self.ends() != published or deliveries.parts["delivered"] != deliveries.whole["planned"]:
            wrong.append(f"of {published:,} orders {self.ends():,} were delivered: {deliveries}")
        return "; ".join(wrong)

    def order(self, *words: str) -> None:
        """Run a command of the bus.

        Raises:
            BenchFailure: it failed; with what it said.
        """
        self.children.run("bus", *words, "--project", str(self.project))

    def start(self, role: str) -> None:
        self.children.start(role, "bus", role, "--project", str(self.project))


@contextmanager
def running_bus(
    stage: Stage,
    orders: Orders,
    *,
    sqlite: bool = False,
    roles: Sequence[str] = ROLES,
    searchable: Sequence[str] = (),
    urls: Mapping[str, str] | None = None,
    fill: Callable[[Database], None] = lambda database: None,
) -> Iterator[RunningBus]:
    """The bus on an empty store, with these processes.

    `searchable`: see write_project; `urls`: site → URL at which its MES is reached, where it is not the bus's own
    broker. `fill` is called before the processes are started.
    """
    folder = stage.folder / "project"
    variables = {site: f"BENCH_MES_{site}" for site in urls or {}}
    write_project(folder, searchable=searchable, urls=variables)
    with ExitStack() as stack:
        url = f"sqlite:///{stage.folder / 'store.db'}" if sqlite else stack.enter_context(stage.postgresql())
        environment = {"BUS_STORE": url, "BUS_BROKER": stage.broker_url, "BENCH_BROKER": stage.broker_url}
        environment |= {variables[site]: given for site, given in (urls or {}).items()}
        children = Children(stage.folder, environment)
        database = stack.enter_context(closing(Database(url)))
        bus = RunningBus(children, database, folder, orders)
        bus.order("store", "upgrade")
        bus.order("topology", "apply")
        declare_queues(stage.broker_url)
        fill(database)
        stack.callback(children.stop)
        for role in roles:
            bus.start(role)
        yield bus.given(orders)


def pipeline(orders: Orders = PLAIN, *, sqlite: bool = False) -> Contender:
    """The bus with its real processes; native orders are made canonical first and enter again."""

    def start(stage: Stage) -> AbstractContextManager[RunningBus]:
        return running_bus(stage, orders, sqlite=sqlite)

    name = f"pipeline.{'sqlite' if sqlite else 'postgresql'}{'.native' if orders.native else ''}"
    return Contender(name, _ABOUT, start)
