"""The small project as an installation: users and queues at a real broker, a store, router, worker and relay processes.

Run as a program it is one of these processes: `python -m tests.system.small_plant router|worker|relay PLANT`.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from marshmallow import Schema, fields
from sqlalchemy import select

from bus import processes
from bus.broker.declare import declare
from bus.broker.management import Management
from bus.broker.publisher import Outcome, Publication, Publisher
from bus.model.catalogue import Catalogue
from bus.model.contract import Contract, Contracts
from bus.model.document import read_xml
from bus.model.message import Opened
from bus.model.message_class import MessageClass
from bus.model.predicate import Opaque, on
from bus.model.predicate import field as field_of
from bus.model.route import Route, RouteTable
from bus.model.system import Endpoint, Site, System
from bus.model.topology import Topology, plan_topology
from bus.pipeline.receive import MAX_BYTES
from bus.project import Project
from bus.settings import Settings
from bus.store import tables as t
from bus.store.engine import Database
from bus.store.schema import upgrade
from bus.store.sqlstore import SqlStore
from bus.telemetry.logs import configure_logs
from bus.workers import child
from tests import small_project as small

T = TypeVar("T")

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 60.0  # seconds a test waits for what must come
SOON = timedelta(seconds=30)

STEP, XML_STEP, TEXT_STEP, LOOSE_STEP = "test.step.v1", "xml.step.v1", "text.step.v1", "loose.step.v1"
KEPT_STEP, PLAIN_STEP = "kept.step.v1", "plain.step.v1"
POSTING = "sap.material-document.v1"
KILLER = b"4711;1;kill"


def eventually(condition: Callable[[], T], *, within: float = PATIENCE, why: Callable[[], object] = str) -> T:
    """What the condition says as soon as it is true; nobody tells when a row or a queue changes, so it is asked."""
    give_up_at = time.monotonic() + within
    breath = threading.Event()
    while not (found := condition()):
        assert time.monotonic() < give_up_at, why()
        breath.wait(0.02)
    return found


# --- the project -----------------------------------------------------------------------------------------------------


class LooseSchema(Schema):
    """Where nothing is required, so that key and identity may be missing."""

    order = fields.String()
    serial = fields.String()
    lines = fields.List(fields.Dict())


class PostingSchema(Schema):
    ReferenceDocument = fields.String(required=True)


def read_step_xml(body: bytes) -> dict[str, str]:
    """`<step order="4711" step="1"/>`."""
    return dict(read_xml(body).attrib)


def read_step_line(body: bytes) -> dict[str, str]:
    """`4711;1;a remark`; made to be attacked: it reads what no store keeps, stumbles, and ends its process."""
    order, step, remark = body.split(b";", 2)
    if remark == b"kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if remark == b"stumble":
        raise LookupError("no such remark")
    return {"order": order.decode(), "step": step.decode(), "remark": remark.decode("utf-8", "surrogateescape")}


class LineSchema(small.OrderSchema):
    remark = fields.String()


def _contract(name: str, schema: type[Schema], **more: Any) -> Contract:
    fields_: dict[str, Any] = {"type": name, "owner": "MES", "support": "line 1", "schema": schema, "key": small.ORDER}
    return Contract(**fields_ | more)


CONTRACTS = Contracts(
    [
        *small.CONTRACTS.values(),
        _contract(KEPT_STEP, small.OrderSchema),
        _contract(PLAIN_STEP, small.OrderSchema),
        _contract(XML_STEP, small.OrderSchema, reader=read_step_xml, content_types=("application/xml",)),
        _contract(TEXT_STEP, LineSchema, reader=read_step_line, content_types=("text/plain",), searchable=("remark",)),
        _contract(LOOSE_STEP, LooseSchema, identity=("order", "serial")),
        _contract("several.step.v1", LooseSchema, key=replace(small.ORDER, path="lines.*.order")),
        _contract(POSTING, PostingSchema, key=replace(small.ORDER, path="ReferenceDocument")),
    ]
)


def thirteen_is_no_step(opened: Opened) -> bool:
    if opened.document["step"] == 13:
        raise ArithmeticError("thirteen")
    return False


ROUTES = (
    small.TO_BUS,
    small.TO_TARGET,
    Route(name="picky-steps", when=on(STEP) & Opaque(thirteen_is_no_step), to="archive", retry=small.SOON),
    Route(name="xml-steps", when=on(XML_STEP), to="target", retry=small.SOON),
    Route(name="text-steps", when=on(TEXT_STEP), to="target", retry=small.SOON),
    Route(name="lines-by-remark", when=on(TEXT_STEP), to="archive", key="remark", retry=small.SOON),
    Route(name="kept-steps", when=on(KEPT_STEP), to="target", retry=small.SOON),
    Route(name="plain-steps", when=on(PLAIN_STEP), to="archive", retry=small.SOON),
    Route(name="postings", when=on(POSTING), to="erp", retry=small.SOON),
    Route(name="machine-states", when=on("machine.state.v1") & (field_of("machine") != "unheard"), to="archive"),
)


@dataclass(frozen=True)
class Installation:
    """All a process needs to be part of it; JSON in the command line."""

    name: str
    broker: str
    """URL with the engine's login."""
    store: str
    folder: str
    endpoints: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @cached_property
    def catalogue(self) -> Catalogue:
        return Catalogue(
            contracts=CONTRACTS,
            routes=RouteTable(ROUTES),
            sites={"P1": Site(name="P1"), "P2": Site(name="P2")},
            systems={
                "mes-1": self._system("mes-1", tuple(CONTRACTS)),
                "mes-2": self._system("mes-2", (STEP,)),
                "target-1": self._system("target-1", ()),
            },
            endpoints={name: self._endpoint(name) for name in ("target", "archive", "erp")},
        )

    def _system(self, name: str, publishes: tuple[str, ...]) -> System:
        user = f"{self.name}-{name}"
        return System(
            name=name,
            role="MES",
            sites=("P1",),
            user=user,
            publishes=publishes,
            owner="it",
            support="it",
            password=name,
        )

    def _endpoint(self, name: str) -> Endpoint:
        plain = Endpoint(
            name=name,
            system="target-1",
            adapter="http",
            address="http://127.0.0.1:9/",
            options={"remembers_keys": True},
            timeout=timedelta(seconds=5),
            visible_after=timedelta(seconds=5),
        )
        given: dict[str, Any] = dict(self.endpoints.get(name, {}))
        spans: dict[str, Any] = {
            key: timedelta(seconds=given[key]) for key in ("timeout", "visible_after") if key in given
        }
        return replace(plain, **given | spans)

    def project(self) -> Project:
        settings = Settings(
            root=Path(self.folder),
            folder=Path(self.folder),
            name=self.name,
            store=self.store,
            broker=self.broker,
            management="",
            password="",
            max_bytes=MAX_BYTES,
            partitions=dict.fromkeys(MessageClass, 1),
            sites=self.catalogue.sites,
            systems=self.catalogue.systems,
            endpoints=self.catalogue.endpoints,
        )
        complaints = tuple(self.catalogue.complaints())
        return Project(root=Path(self.folder), settings=settings, catalogue=self.catalogue, complaints=complaints)

    def topology(self) -> Topology:
        return plan_topology(
            systems=self.catalogue.systems.values(),
            endpoints=self.catalogue.endpoints.values(),
            contracts=CONTRACTS,
            engine=f"{self.name}-bus",
            engine_password="bus",
        )

    def url(self, system: str) -> str:
        """The broker as this system logs in there; `bus` is the engine itself."""
        parts = urlsplit(self.broker)
        host = parts.netloc.rpartition("@")[2]
        return f"amqp://{self.name}-{system}:{system}@{host}{parts.path}"


def install(vhost: Any, store_url: str, folder: Path, **endpoints: Mapping[str, Any]) -> Installation:
    """Declared at the broker, with its users; the tables made."""
    host = urlsplit(vhost.amqp_url).netloc.rpartition("@")[2]
    engine = f"amqp://{vhost.name}-bus:bus@{host}/{vhost.name}"
    made = Installation(name=vhost.name, broker=engine, store=store_url, folder=str(folder), endpoints=endpoints)
    declare(made.topology(), vhost.amqp_url)
    login = {"user": vhost.admin_user, "password": vhost.admin_password}
    with Management(vhost.management_url, vhost=vhost.name, **login) as management:
        management.apply_users(made.topology(), reveal=lambda reference: reference)
    database = Database(store_url)
    upgrade(database)
    database.close()
    return made


# --- its processes ---------------------------------------------------------------------------------------------------


class Part:
    """One process of the installation: router, worker or relay. It ends with the tests, however they end."""

    def __init__(self, role: str, installation: Installation, *queues: str) -> None:
        self.role = role
        self._argv = [sys.executable, "-m", __name__, role, json.dumps(asdict(installation)), *queues]
        self._log = Path(installation.folder) / f"{role}.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.deaths: list[int] = []
        self._said_before = 0

    def start(self) -> None:
        command = [sys.executable, "-I", "-S", child.__file__, str(os.getpid()), *self._argv]
        self._said_before = self._log.stat().st_size if self._log.exists() else 0
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def restart_if_dead(self) -> None:
        """What the supervisor of `bus run` does."""
        if self.process is not None and (code := self.process.poll()) is not None:
            self.deaths.append(code)
            self.start()

    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self.process = None

    def stop(self) -> None:
        """As an operator stops it: it finishes what it holds."""
        if self.process is not None:
            eventually(self._hears, why=self.said)
            self.process.terminate()
            assert self.process.wait(PATIENCE) == 0, self.said()
            self.process = None

    def _hears(self) -> bool:
        """Whether it came so far that it listens to signals."""
        with self._log.open("rb") as log:
            log.seek(self._said_before)
            said = log.read()
        return b"consumer opened" in said or b"worker started" in said

    def said(self) -> str:
        """The end of its log, for whoever wonders."""
        return self._log.read_text(errors="replace")[-4000:] if self._log.exists() else ""


@contextlib.contextmanager
def running(*parts: Part) -> Iterator[None]:
    for part in parts:
        part.start()
    try:
        yield
    finally:
        for part in parts:
            if part.process is not None:
                part.process.kill()
                part.process.wait()


# --- what tests send and see -----------------------------------------------------------------------------------------

_orders = itertools.count(1)


def an_order() -> str:
    """The number of an order nobody else uses."""
    return f"N{next(_orders)}"


def a_publication(
    body: bytes, *, type_name: str = STEP, message_id: str = "", headers: Mapping[str, Any] | None = None, **more: Any
) -> Publication:
    """As the system mes-1 publishes; properties named besides replace its own."""
    routing_key = more.pop("routing_key", f"P1.mes-1.{type_name}")
    properties = {"type": type_name, "app_id": "mes-1", "delivery_mode": 2, "message_id": message_id} | more
    stated = {name: value for name, value in properties.items() if value not in ("", None)}
    return Publication(
        exchange="bus.in", routing_key=routing_key, body=body, properties=stated, headers=headers or {}, mandatory=False
    )


def a_step(order: str, step: int, **more: Any) -> Publication:
    """A valid step, taken and delivered."""
    body = json.dumps({"order": order, "step": step}).encode()
    return a_publication(body, **{"message_id": f"{order}-{step}"} | more)


def published(url: str, *publications: Publication) -> list[Outcome]:
    """Publish in one go, in order; what became of each."""
    publisher = Publisher(url)
    try:
        return publisher.publish_batch(publications, within=SOON)
    finally:
        publisher.close()


class Ledger:
    """Looks at the store from beside, as an auditor would."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.store = SqlStore(database)

    def rows(self, table: Any, *conditions: Any) -> Sequence[Any]:
        with self.database.read() as connection:
            return connection.execute(select(table).where(*conditions).order_by(table.c.id)).all()

    def receipts(self, *, after: int = 0) -> Sequence[Any]:
        return self.rows(t.receipt, t.receipt.c.id > after)

    def messages(self, *conditions: Any) -> Sequence[Any]:
        return self.rows(t.message, *conditions)

    def deliveries(self, *, of: str) -> Sequence[Any]:
        """The deliveries of the message with this id, in the order of planning."""
        of_message = t.delivery.c.message.in_(select(t.message.c.id).where(t.message.c.message_id == of))
        return self.rows(t.delivery, of_message)

    def attempts(self, of: str) -> Sequence[Any]:
        """Every try of the deliveries of the message with this id, probes included."""
        numbers = [row.id for row in self.deliveries(of=of)]
        return self.rows(t.attempt, t.attempt.c.delivery.in_(numbers))

    def openings(self) -> int:
        """Messages that were being opened when their reader ended."""
        with self.database.read() as connection:
            return len(connection.execute(select(t.opening)).all())

    def states(self, *message_ids: str) -> list[str]:
        return [row.state for each in message_ids for row in self.deliveries(of=each)]

    def close(self) -> None:
        self.database.close()


def main(role: str, installation: str, *queues: str) -> int:
    configure_logs(as_json=False)  # whatever logging the environment asks for: a part is heard by its log
    project = Installation(**json.loads(installation)).project()
    if role == "router":
        return processes.run_router(project)
    if role == "worker":
        return processes.run_worker(project, queues)
    return processes.run_relay(project)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
