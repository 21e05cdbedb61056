"""The stage: the small bus as real processes, and around it a broker, a store and lines to both that can be harmed."""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pika
from pika.adapters.blocking_connection import BlockingChannel
from sqlalchemy import func, select
from sqlalchemy.engine import make_url

from bus.broker.node import PrivateNode
from bus.control.orders import say_it_happened, say_it_is_absent
from bus.errors import NotAllowed, StoreUnavailable
from bus.model.delivery import Stage as Hop
from bus.model.delivery import State
from bus.ports import Actor
from bus.store import tables as t
from bus.store.sqlstore import SqlStore
from tests.faults.checker import MOVING, Finding, books_of, check
from tests.faults.proxy import Proxy
from tests.faults.workload import Publishing, Truth, workload
from tests.services import definitions_with_user
from tests.system.running_bus import ROLES, RunningBus, a_step, running_bus, until

PATIENCE = 90.0  # seconds for what must come, on a machine that is four times slower and busy
HEARTBEAT = 30
"""Seconds, on every connection of the bus; RabbitMQ gives a silent one up after at most three times as long."""

OWN_POSTGRESQL = "own-postgresql"
SMALL_DISK = "small-disk"
FAR_POSTGRESQL = "far-postgresql"
VHOSTS = ("sqlite", "postgresql", OWN_POSTGRESQL, SMALL_DISK, FAR_POSTGRESQL)
"""One for each stage: they share a broker."""
_USER, _PASSWORD = "mes", "secret"
_UNREAD = timedelta(seconds=15)
"""After which a call that its target never read is taken for one that was never made."""
_PERSON = Actor(name="person:a.checker", reason="looked into the target's book")


@dataclass(frozen=True)
class MortalStore:
    """A store that can go away and come back while its processes hold connections. `url`: what they are given."""

    url: str
    direct_url: str
    """For whoever looks from beside: it never goes away."""
    go_away: Callable[[], object]
    come_back: Callable[[], object]
    line: Proxy | None = None
    """What they reach it through, if they do."""


@contextlib.contextmanager
def sqlite_store(folder: Path) -> Iterator[MortalStore]:
    """Its folder is moved away."""
    mounted, away = folder / "disk", folder / "unmounted"
    mounted.mkdir(parents=True)
    url = f"sqlite:///{mounted}/bus.db"
    yield MortalStore(url, url, lambda: mounted.rename(away), lambda: away.rename(mounted))


@contextlib.contextmanager
def postgresql_store(direct_url: str) -> Iterator[MortalStore]:
    """Every connection is cut and new ones are refused."""
    url = make_url(direct_url)
    with Proxy(Path(str(url.query["host"])) / ".s.PGSQL.5432") as proxy:
        through = url.set(host="127.0.0.1", port=proxy.port, query={}).render_as_string(hide_password=False)
        yield MortalStore(through, direct_url, proxy.refuse, proxy.accept, proxy)


def mortal_node(folder: Path, *vhosts: str) -> PrivateNode:
    """A RabbitMQ of the test's own with these vhosts and a user who may do everything in them."""
    plain = definitions_with_user(_USER, _PASSWORD)
    rights = {"user": _USER, "configure": ".*", "write": ".*", "read": ".*"}
    named = {
        "vhosts": [{"name": vhost} for vhost in vhosts],
        "permissions": [rights | {"vhost": vhost} for vhost in vhosts],
    }
    return PrivateNode(folder, definitions=plain | named)


@dataclass(kw_only=True)
class AnyStage:
    """The processes reach the broker at `processes_broker_url` and the store at `store.url`; the checker directly."""

    bus: RunningBus
    store: MortalStore
    _cases: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    @property
    def processes_broker_url(self) -> str:
        return self.bus.broker_url

    @property
    def kind(self) -> str:
        """Of its store."""
        return "sqlite" if self.bus.database.is_sqlite else "postgresql"

    def new_name(self) -> str:
        """What the orders of the next truth begin with."""
        return f"c{next(self._cases)}"

    # --- processes ---------------------------------------------------------------------------------------------------

    def start(self, *roles: str, crash_at: str = "", environ: Mapping[str, str] | None = None) -> None:
        """`environ`: variables that these processes are given besides."""
        for role in roles:
            self.start_as(role, role, crash_at=crash_at, environ=environ)

    def start_as(self, name: str, role: str, *, crash_at: str = "", environ: Mapping[str, str] | None = None) -> None:
        """Start one of several processes of a role; it goes by this name."""
        self.bus.start_as(
            name,
            role,
            broker_url=self.processes_broker_url,
            store_url=self.store.url,
            crash_at=crash_at,
            environ=environ,
        )

    def complete(self) -> None:
        """Every process runs, nothing harms anybody."""
        for target in (self.bus.keeper, self.bus.ledger, self.bus.archive):
            target.behave()
        for role in [role for role, process in self.bus.processes.items() if process.poll() is not None]:
            del self.bus.processes[role]
        self.start(*(role for role in ROLES if role not in self.bus.processes))

    def replace(self, role: str, *, crash_at: str) -> subprocess.Popen[bytes]:
        """End the process as an operator does, and start one that is armed."""
        self.bus.stop(role)
        self.start(role, crash_at=crash_at)
        return self.bus.processes[role]

    def says(self, words: str) -> int:
        """How often the processes' logs say this."""
        return sum(path.read_text(errors="replace").count(words) for path in self.bus.folder.glob("*.log"))

    # --- the way to rest ---------------------------------------------------------------------------------------------

    def comes_to_rest(self, truth: Truth) -> None:
        """Return when nothing of this truth is under way any more, or when that takes too long: the checker tells.

        What is in doubt at a target that cannot be asked is decided as a person would: by a look into its book, once no
        call can still be on its way there. One last message goes behind all others: when it is delivered, whatever the
        broker had to send again was received.
        """
        last = a_step(f"{truth.name}-last", 0)
        self.bus.publish(last)
        truth.expect_last(last)

        def at_rest() -> bool:
            with contextlib.suppress(StoreUnavailable):  # a connection of ours that ended with its server
                self._decide_doubts(truth)
                return self.bus.states(f"{truth.name}-last", "keeper") == [State.DELIVERED] and not self.moving(truth)
            return False

        until(at_rest, within=PATIENCE)

    def findings(self, truth: Truth, *, exact: bool = False) -> list[Finding]:
        books = books_of(keeper=self.bus.keeper, ledger=self.bus.ledger, archive=self.bus.archive)
        return [*check(truth, self.bus.database, books, exact=exact), *self._left_lying()]

    def _left_lying(self) -> list[Finding]:
        """What stays in queues and leases although nothing is under way: processes that run empty the ones and have
        the others; the last hints, and the lease of whoever was killed last, are waited for."""
        left: list[str] = []

        def is_nothing() -> bool:
            queues = [f"queue {name} holds {ready}" for name in QUEUES if (ready := self.bus.ready(name))]
            left[:] = [*queues, *(f"lease {name} is held by nobody" for name in self._leases_of_the_dead())]
            return not left

        until(is_nothing, within=PATIENCE)
        return [Finding("I4", each) for each in left]

    def _leases_of_the_dead(self) -> list[str]:
        alive = {str(process.pid) for process in self.bus.processes.values() if process.poll() is None}
        with self.bus.database.read() as connection:
            leases = connection.execute(select(t.lease.c.name, t.lease.c.holder)).all()
        return [row.name for row in leases if not alive & set(row.holder.split(":"))]

    def moving(self, truth: Truth) -> int:
        """How many of its deliveries are under way: neither at an end, nor behind one that is dead."""
        d, m = t.delivery.c, t.message.c
        ahead = t.delivery.alias("ahead").c
        blocked = (
            select(ahead.id).where(ahead.lane == d.lane, ahead.place < d.place, ahead.state == State.DEAD).exists()
        )
        waits = (d.state == State.WAITING) & ~blocked
        moving = d.state.in_([*MOVING, State.IN_DOUBT]) | waits
        query = select(func.count()).select_from(t.delivery.join(t.message, m.id == d.message))
        with self.bus.database.read() as connection:
            of_truth = m.subject.like(f"order:{truth.name}-%")
            return int(connection.execute(query.where(of_truth, moving)).scalar_one())

    def _decide_doubts(self, truth: Truth) -> None:
        d, m = t.delivery.c, t.message.c
        calls = select(func.count()).where(t.attempt.c.delivery == d.id, t.attempt.c.stage == Hop.SEND)
        query = select(d.id, d.key, d.changed_at, calls.scalar_subquery().label("calls"))
        query = query.join_from(t.delivery, t.message, m.id == d.message)
        with self.bus.database.read() as connection:
            doubts = connection.execute(
                query.where(
                    d.state == State.IN_DOUBT, d.destination == "archive", m.subject.like(f"order:{truth.name}-%")
                )
            ).all()
            now = self.bus.database.now(connection)
        store = SqlStore(self.bus.database)
        for row in doubts:
            with contextlib.suppress(NotAllowed):  # its worker lives and said so meanwhile
                if number := self.bus.archive.number_of(row.key):
                    say_it_happened(row.id, document=number, store=store, actor=_PERSON)
                elif self.bus.archive.ended(row.key) >= row.calls or now - row.changed_at > _UNREAD:
                    say_it_is_absent(row.id, store=store, actor=_PERSON)

    # --- what a stopped process leaves -------------------------------------------------------------------------------

    def leftovers(self) -> list[Finding]:
        """Stop everything; what then still lies in queues and leases."""
        self.bus.stop(*ROLES)
        found = [
            Finding("I4", f"queue {queue} holds {ready}")
            for queue in QUEUES
            if (ready := self.bus.ready(queue)) and not until(lambda queue=queue: not self.bus.ready(queue), within=3)  # type: ignore[misc]  # bound now, called now
        ]
        with self.bus.database.read() as connection:
            leases = list(connection.execute(select(t.lease.c.name)).scalars())
        return [*found, *(Finding("I4", f"lease {name} is held by nobody") for name in leases)]


@dataclass(kw_only=True)
class Stage(AnyStage):
    """Around the bus one node, and a line to it that can be harmed."""

    node: PrivateNode
    line: Proxy

    @property
    def processes_broker_url(self) -> str:
        return self.line.url(self.bus.broker_url)

    def complete(self) -> None:
        self.line.flow()
        self.line.lose_nothing()
        self.line.accept()
        super().complete()


QUEUES = (
    "bus.in.transaction.0",
    "bus.in.event.0",
    "bus.unrouted",
    "bus.dead",
    "transform.transaction",
    "send.keeper",
    "send.ledger",
    "send.archive",
)


@contextlib.contextmanager
def stage(folder: Path, node: PrivateNode, vhost: str, store: MortalStore) -> Iterator[Stage]:
    """The bus on this broker and store, its processes started."""
    url = f"amqp://{_USER}:{_PASSWORD}@127.0.0.1:{node.amqp_port}/{vhost}"
    broker = urlsplit(url)
    with (
        Proxy((str(broker.hostname), broker.port or 5672), amqp=True) as line,
        running_bus(folder / "project", store.direct_url, url, roles=()) as bus,
    ):
        made = Stage(bus=bus, node=node, line=line, store=store)
        made.start(*ROLES)
        yield made


@contextlib.contextmanager
def channel(stage: Stage) -> Iterator[BlockingChannel]:
    """An AMQP channel of an administrator."""
    connection = pika.BlockingConnection(pika.URLParameters(stage.bus.broker_url))
    try:
        yield connection.channel()
    finally:
        connection.close()


@dataclass(frozen=True)
class Loaded:
    """What is true about the messages on their way, and how many deliveries were in work when the fault came."""

    truth: Truth
    holding: int


@contextlib.contextmanager
def under_load(
    stage: AnyStage, seed: int, *, orders: int = 18, steps: int = 6, pause: timedelta = timedelta(0)
) -> Iterator[Loaded]:
    """Publishers are at work and a worker is in mid-call when the block begins; at its end everything comes to rest.

    `pause`: of a publisher after each batch, so that they are at work while a long fault lasts.
    """
    load = workload(stage.bus, seed=seed, name=stage.new_name(), orders=orders, steps=steps)
    keeper, mine = stage.bus.keeper, f"{load.truth.name}-"
    keeper.hold()
    publishing = Publishing(load, stage.bus.broker_url, pause=pause)
    try:
        assert keeper.wait_until(lambda: any(each.order.startswith(mine) for each in keeper.posted), within=PATIENCE)
        loaded = Loaded(load.truth, stage.moving(load.truth))
        assert loaded.holding > 0
        keeper.release()
        yield loaded
        publishing.finish(within=PATIENCE)
    finally:
        publishing.give_up()
    stage.comes_to_rest(load.truth)


# --- holding a process at a point --------------------------------------------------------------------------------


@dataclass
class Hold:
    """A named pipe that a crash point waits at."""

    pipe: Path
    _end: int | None = None

    def is_reached(self) -> bool:
        if self._end is None:
            with contextlib.suppress(OSError):  # ENXIO: nobody waits at its other end yet
                self._end = os.open(self.pipe, os.O_WRONLY | os.O_NONBLOCK)
        return self._end is not None

    def release(self) -> None:
        if self._end is not None:
            os.close(self._end)
            self._end = None


@contextlib.contextmanager
def held_at(folder: Path, point: str) -> Iterator[Hold]:
    """A pipe for this point; released at the end of the block, whatever happened in it."""
    hold = Hold(folder / f"{point}.pipe")
    hold.pipe.unlink(missing_ok=True)
    os.mkfifo(hold.pipe)
    try:
        yield hold
    finally:
        hold.release()


def lasts(seconds: float) -> None:
    """Let a fault last: its length is what is tested."""
    threading.Event().wait(seconds)
