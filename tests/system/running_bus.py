"""A small project run as real processes at a real broker, between a publisher and targets with books of their own.

`native.step.v1` becomes `test.step.v1` (as many as `parts` says), and that goes `to` targets: keeper remembers
idempotency keys, ledger does not and can be searched, archive can do neither.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pika
import psycopg
from marshmallow import Schema
from sqlalchemy import func, select
from sqlalchemy.engine import make_url

from bus.broker.declare import declare
from bus.client import Fact, connect
from bus.model.contract import Contract, Contracts
from bus.model.delivery import ENDED
from bus.model.message_class import MessageClass
from bus.model.topology import plan_topology, queues_of
from bus.pipeline.resume import RELAY
from bus.settings import load_settings
from bus.store import schema
from bus.store import tables as t
from bus.store.engine import Database
from bus.store.leases import leases
from bus.store.overview import overview
from bus.store.verify import verify
from bus.workers import child
from tests.system.booking_target import CERTIFICATE, PATIENCE, BookingTarget

INBOUND = queues_of(MessageClass.TRANSACTION)[0]
NATIVE, CANONICAL = "native.step.v1", "test.step.v1"
ROLES = ("router", "worker", "relay")
LEASE = 4
"""Seconds."""

_REPOSITORY = Path(__file__).parents[2]
_TYPES = (NATIVE, CANONICAL, "target.posting.v1")

_BUS_TOML = """
[bus]
name = "steps"
lease = {lease}
partitions = {partitions}

[sites.P1]

[systems.mes]
role = "MES"
sites = ["P1"]
user = "{user}"
publishes = ["native.step.v1", "test.step.v1"]
owner = "it"
support = "line 1"

[systems.books]
role = "ERP"
sites = ["P1"]
user = "{user}-books"
owner = "it"
support = "desk"

[endpoints.keeper]
system = "books"
adapter = "http"
address = "{keeper.url}/post"
timeout = 60
options = {{ remembers_keys = true, check = "/health", document = "number"{ca_file} }}

[endpoints.ledger]
system = "books"
adapter = "adapters.ledger:Ledger"
address = "{ledger.url}/post"
timeout = {timeout}
visible_after = {timeout}
options = {{ document = "number" }}

[endpoints.archive]
system = "books"
adapter = "http"
address = "{archive.url}/post"
timeout = {timeout}
visible_after = {timeout}
options = {{ document = "number" }}
"""

_STEPS = '''
import os
import signal

from bus import Contract, OrderingKey, Outgoing, transformer, write_json
from marshmallow import Schema, fields

ORDER = OrderingKey("order", "order")


class StepSchema(Schema):
    order = fields.String(required=True)
    step = fields.Integer(required=True)
    to = fields.Dict(required=True)
    parts = fields.Integer(load_default=1)
    gate = fields.String(load_default="")


class PostingSchema(Schema):
    order = fields.String(required=True)
    step = fields.Integer(required=True)


def _contract(name, schema=StepSchema, canonical=False):
    return Contract(type=name, owner="MES", support="line 1", schema=schema, key=ORDER, canonical=canonical)


CONTRACTS = (
    _contract("native.step.v1"),
    _contract("test.step.v1", canonical=True),
    _contract("target.posting.v1", PostingSchema),
)


@transformer(takes="native.step.v1", makes="test.step.v1")
def make_canonical(opened, context):
    """Waits for whoever opens its gate, a pipe, for writing."""
    if opened.document["gate"]:
        with open(opened.document["gate"]) as gate:
            gate.read()
    first = opened.document["step"]
    made = {"order": opened.document["order"], "to": opened.document["to"]}
    steps = range(first, first + opened.document["parts"])
    return [Outgoing(type="test.step.v1", body=write_json(made | {"step": step})) for step in steps]


@transformer(takes="test.step.v1", makes="target.posting.v1")
def posting(opened, context):
    """Step 666 cannot be made a posting, step 667 ends the process."""
    if opened.document["step"] == 666:
        raise ZeroDivisionError("step 666")
    if opened.document["step"] == 667:
        os.kill(os.getpid(), signal.SIGKILL)
    posted = {name: opened.document[name] for name in ("order", "step")}
    return Outgoing(type="target.posting.v1", body=write_json(posted))
'''

_ROUTES = """
from datetime import timedelta

from bus import BUS, RetryPolicy, Route, field, on
from transformers.steps import make_canonical, posting

SOON = RetryPolicy(max_attempts=20, first=timedelta(seconds=0.3), factor=1.0, jitter=0.0)


def _to(name):
    return Route(name=f"steps-to-{name}", when=on("test.step.v1") & (field(f"to.{name}") == True), to=name,
                 transform=posting, retry=SOON)


ROUTES = (
    Route(name="steps-become-canonical", when=on("native.step.v1"), to=BUS, transform=make_canonical, retry=SOON),
    _to("keeper"),
    _to("ledger"),
    _to("archive"),
)
"""

_LEDGER = '''
import json

from bus import Finding, Verdict
from bus.connectors.http_adapter import HttpAdapter
from bus.connectors.http_outcome import refuse_question


class Ledger(HttpAdapter):
    """A target that does not remember keys; its book can be searched for them."""

    def probe(self, parcel):
        deadline = self._connector.deadline()
        reply = self._connector.get(f"/book?key={parcel.key}", headers={"accept": "*/*"}, deadline=deadline)
        if not reply.is_success:
            refuse_question(reply)
        number = json.loads(reply.body)["number"]
        verdict = Verdict.FOUND if number else Verdict.ABSENT
        return Finding(verdict=verdict, document=number, exchange=reply.exchange)
'''


def until(what: Callable[[], bool], *, within: float = PATIENCE) -> bool:
    """Whether it comes true; for what tells nobody when it changes: rows, queues, processes."""
    pause = threading.Event()
    give_up_at = time.monotonic() + within
    while not what():
        if time.monotonic() > give_up_at:
            return False
        pause.wait(0.1)
    return True


def a_step(order: str, step: int, *to: str, type_name: str = CANONICAL, **more: object) -> Fact:
    """A step of an order; its message id is made of type, order and step."""
    body = {"order": order, "step": step, "to": dict.fromkeys(to or ("keeper",), True), **more}
    return Fact(type=type_name, body=body, subject=f"order:{order}", message_id=f"{type_name} {order}-{step}")


def a_native_step(order: str, step: int, *to: str, **more: object) -> Fact:
    return a_step(order, step, *to, type_name=NATIVE, **more)


@dataclass
class RunningBus:
    """The processes by role, and everything they talk to."""

    folder: Path
    store_url: str
    broker_url: str
    keeper: BookingTarget
    ledger: BookingTarget
    archive: BookingTarget
    database: Database
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    _starts: int = 0

    # --- processes ---------------------------------------------------------------------------------------------------

    def start(
        self,
        *roles: str,
        broker_url: str = "",
        store_url: str = "",
        crash_at: str = "",
        environ: Mapping[str, str] | None = None,
    ) -> None:
        """Start these processes, each once; they need a second or two. `crash_at`: see bus.crash_points."""
        for role in roles:
            self.start_as(role, role, broker_url=broker_url, store_url=store_url, crash_at=crash_at, environ=environ)

    def start_as(
        self,
        name: str,
        role: str,
        *options: str,
        broker_url: str = "",
        store_url: str = "",
        crash_at: str = "",
        environ: Mapping[str, str] | None = None,
    ) -> None:
        """Start one of several processes of a role; it goes by this name."""
        assert name not in self.processes
        given = os.environ | {
            "BUS_STORE": store_url or self.store_url,
            "BUS_BROKER": broker_url or self.broker_url,
            "PLANTBUS_CRASH_AT": crash_at,
            **(environ or {}),
        }
        self._starts += 1
        command = (sys.executable, "-m", "bus", role, *options, "-o", "json", "--project", str(self.folder))
        with open(self.folder / f"{name}-{self._starts}.log", "wb") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-I", "-S", child.__file__, str(os.getpid()), *command],
                env=given,
                cwd=_REPOSITORY,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def complete(self) -> None:
        """Start what does not run, and let the targets behave."""
        for target in (self.keeper, self.ledger, self.archive):
            target.behave()
        for role in [role for role, process in self.processes.items() if process.poll() is not None]:
            del self.processes[role]
        self.start(*(role for role in ROLES if role not in self.processes))

    def kill(self, *roles: str) -> None:
        """kill -9."""
        self._end(signal.SIGKILL, roles)

    def stop(self, *roles: str) -> None:
        """Ask them to end, as a restart does."""
        self._end(signal.SIGTERM, roles)

    def send(self, role: str, number: signal.Signals) -> None:
        self.processes[role].send_signal(number)

    def _end(self, number: signal.Signals, roles: Sequence[str]) -> None:
        ended = [self.processes.pop(role) for role in roles]
        for process in ended:
            process.send_signal(number)
        for process in ended:
            process.wait(PATIENCE)

    def wait_for_router(self) -> None:
        """Return when the router that runs now is sent what arrives."""
        log = sorted(self.folder.glob("router-*.log"), key=lambda path: path.stat().st_mtime_ns)[-1]
        opened = f'"event": "consumer opened", "queue": "{INBOUND}"'
        assert until(lambda: opened in log.read_text()), self.tail()

    def wait_for_relay(self) -> None:
        """Return when a relay holds the lease: it is at work."""
        assert until(lambda: RELAY in leases(self.database)), self.tail()

    def told(self, event: str, by: str = "*", **fields: object) -> list[dict[str, Any]]:
        """What the processes (or those of one name) logged of this event, in each process's order."""
        found = []
        for path in sorted(self.folder.glob(f"{by}-[0-9]*.log")):
            lines = path.read_text(errors="replace").splitlines()
            entries = [json.loads(line) for line in lines if f'"event": "{event}"' in line and line.endswith("}")]
            found += [entry for entry in entries if fields.items() <= entry.items()]
        return found

    # --- the broker --------------------------------------------------------------------------------------------------

    def publish(self, *facts: Fact) -> None:
        """Publish them in this order, each confirmed."""
        with connect(self.broker_url, system="mes", site="P1") as line:
            outcomes = line.publish_many(facts)
        assert outcomes == [None] * len(facts), [str(outcome) for outcome in outcomes]

    def ready(self, queue: str = INBOUND) -> int:
        """Messages of a queue that nobody holds: those sent to a consumer and not acknowledged do not count.

        0 is also what a quorum queue's leader says that is too busy to look (RabbitMQ 3.10).
        """
        connection = pika.BlockingConnection([pika.URLParameters(url) for url in self.broker_url.split(";")])
        try:
            return int(connection.channel().queue_declare(queue, passive=True).method.message_count)
        finally:
            connection.close()

    # --- the store ---------------------------------------------------------------------------------------------------

    def receipts(self, about: str = "") -> Counter[str]:
        """How often what was received: each kind that became no message, and `accepted`; of ids with these words."""
        receipt, message = t.receipt.c, t.message.c
        kinds = select(receipt.kind, func.count()).where(receipt.message_id.contains(about)).group_by(receipt.kind)
        accepted = select(func.count()).where(message.parent.is_(None), message.message_id.contains(about))
        with self.database.read() as connection:
            counts: Counter[str] = Counter({row[0]: row[1] for row in connection.execute(kinds)})
            return counts + Counter(accepted=connection.execute(accepted).scalar_one())

    def deliveries(self, order: str, to: str = "") -> list[Any]:
        """The deliveries of an order's messages, oldest first."""
        query = select(t.delivery).join(t.message, t.message.c.id == t.delivery.c.message)
        query = query.where(t.message.c.subject == f"order:{order}").order_by(t.delivery.c.id)
        if to:
            query = query.where(t.delivery.c.destination == to)
        with self.database.read() as connection:
            return list(connection.execute(query))

    def states(self, order: str, to: str = "") -> list[str]:
        return [row.state for row in self.deliveries(order, to)]

    def journal(self, delivery: int) -> list[Any]:
        with self.database.read() as connection:
            query = select(t.journal).where(t.journal.c.delivery == delivery).order_by(t.journal.c.id)
            return list(connection.execute(query))

    def attempts(self, delivery: int) -> list[Any]:
        with self.database.read() as connection:
            query = select(t.attempt).where(t.attempt.c.delivery == delivery).order_by(t.attempt.c.id)
            return list(connection.execute(query))

    def open_deliveries(self) -> int:
        """Deliveries that are still under way or wait."""
        with self.database.read() as connection:
            query = select(func.count()).select_from(t.delivery)
            return int(connection.execute(query.where(t.delivery.c.state.not_in([*map(str, ENDED)]))).scalar_one())

    def comes_to_rest(self, *, received: int, open_deliveries: int = 0, within: float = PATIENCE) -> None:
        """Return when so many were received, and no more than these deliveries wait for something."""
        at_rest = until(
            lambda: sum(self.receipts().values()) >= received and self.open_deliveries() <= open_deliveries,
            within=within,
        )
        assert at_rest, (self.receipts(), self.open_deliveries(), self.tail())
        assert sum(self.receipts().values()) == received

    def sums(self) -> set[str]:
        return {str(each) for each in overview(self.database).equations}

    def delivers(self, *orders: str, count: int = 0) -> None:
        """Return when everything about these orders was delivered; `count`: so many, queueing up included."""

        def states() -> Counter[str]:
            return Counter(state for order in orders for state in self.states(order))

        assert until(lambda: set(states()) == {"DELIVERED"} and count in (0, states().total())), (states(), self.tail())

    def proves_itself(self) -> None:
        """Sums balance, no row contradicts another, and each target's own book says what the store says."""
        assert [found.text for found in verify(self.database)] == []
        assert [str(each) for each in overview(self.database).equations if not each.balances] == []
        for name, target in (("keeper", self.keeper), ("ledger", self.ledger), ("archive", self.archive)):
            with self.database.read() as connection:
                d = t.delivery.c
                delivered = select(d.key, d.document).where(d.destination == name, d.state == "DELIVERED")
                rows = Counter(tuple(row) for row in connection.execute(delivered))
                doubtful = select(d.key).where(d.destination == name, d.state == "IN_DOUBT")
                unknown = set(connection.execute(doubtful).scalars())
            book = Counter((entry.key, entry.number) for entry in target.book if entry.key not in unknown)
            assert rows == book, name
            assert max(book.values(), default=0) <= 1, name

    def tail(self) -> str:
        """The end of every log, for whoever reads a failure."""
        logs = sorted(self.folder.glob("*.log"))
        return "\n".join(f"--- {path.name}\n" + "\n".join(path.read_text().splitlines()[-8:]) for path in logs)

    # --- the operator ------------------------------------------------------------------------------------------------

    def order(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Type a command: `bus` and these words."""
        environ = {"BUS_STORE": self.store_url, "BUS_BROKER": self.broker_url, "BUS_ACTOR": "a.operator"}
        return subprocess.run(
            [sys.executable, "-m", "bus", *words, "--project", str(self.folder)],
            env=os.environ | environ,
            cwd=_REPOSITORY,
            capture_output=True,
            text=True,
            timeout=60,
        )


@contextlib.contextmanager
def running_bus(
    folder: Path,
    store_url: str,
    broker_url: str,
    *,
    roles: Sequence[str] = ROLES,
    tls: bool = False,
    timeout: int = 3,
    partitions: int = 1,
) -> Iterator[RunningBus]:
    """The project in the folder, declared, its processes started. `tls`: keeper speaks it.

    `timeout`: seconds a call to ledger or archive may take, and after which "absent" counts there.
    """
    with contextlib.ExitStack() as stack:
        keeper = stack.enter_context(BookingTarget(remembers_keys=True, tls=tls))
        ledger = stack.enter_context(BookingTarget(remembers_keys=False))
        archive = stack.enter_context(BookingTarget(remembers_keys=False))
        database = Database(store_url)
        stack.callback(database.close)
        bus = RunningBus(folder, store_url, broker_url, keeper, ledger, archive, database)
        write_project(bus, user=make_url(broker_url).username or "", timeout=timeout, partitions=partitions)
        declare_project(folder, broker_url)
        schema.upgrade(database)
        stack.callback(lambda: bus.kill(*bus.processes))
        bus.start(*roles)
        yield bus


def write_project(bus: RunningBus, *, user: str, timeout: int, partitions: int = 1) -> None:
    """`user`: the broker's user that publishes as system mes."""
    settings = _BUS_TOML.format(
        lease=LEASE,
        user=user,
        timeout=timeout,
        partitions=partitions,
        keeper=bus.keeper,
        ledger=bus.ledger,
        archive=bus.archive,
        ca_file=f', ca_file = "{CERTIFICATE}"' if bus.keeper.tls else "",
    )
    texts = {
        "bus.toml": settings,
        "transformers/__init__.py": "",
        "transformers/steps.py": _STEPS,
        "routes/__init__.py": "",
        "routes/steps.py": _ROUTES,
        "adapters/__init__.py": "",
        "adapters/ledger.py": _LEDGER,
    }
    for name, text in texts.items():
        path = bus.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def declare_project(folder: Path, broker_url: str) -> None:
    """Declare the project at the broker without importing it: its modules are named like this repository's own."""
    settings = load_settings(folder, {})
    contracts = Contracts(Contract(type=name, owner="MES", support="line 1", schema=Schema) for name in _TYPES)
    topology = plan_topology(
        systems=settings.systems.values(),
        endpoints=settings.endpoints.values(),
        contracts=contracts,
        partitions=settings.partitions,
    )
    declare(topology, broker_url)


# --- stores that are locked or away ----------------------------------------------------------------------------------


@contextlib.contextmanager
def locked_for_writers(store_url: str) -> Iterator[None]:
    """Nobody can commit a message while the block runs; everybody can read."""
    url = make_url(store_url)
    if url.get_backend_name() == "sqlite":
        with contextlib.closing(sqlite3.connect(url.database or "", isolation_level=None)) as writer:
            writer.execute("BEGIN IMMEDIATE")
            yield
            writer.execute("ROLLBACK")
    else:
        with psycopg.connect(host=str(url.query["host"]), user=url.username, dbname=url.database) as writer:
            # Conflicts with INSERT; a transaction that got as far as its messages stops there, in its middle.
            writer.execute("LOCK TABLE message IN EXCLUSIVE MODE")
            yield
            writer.rollback()
