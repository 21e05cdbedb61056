"""The contenders: how orders are put through one, the peers of the bus, and the broker's own limit."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

import psycopg

from bus.bench.children import Children
from bus.bench.frame import BenchFailure, Pace, Round, measured_rounds
from bus.bench.job import RECEIVE, SEND, TRANSFORM, order_id, plain_publication
from bus.bench.ledger import Ledger
from bus.bench.load import Targets, declare_queues, publish, targets_at
from bus.bench.services import Services, Stage
from bus.broker.link import LOST
from bus.broker.publisher import Publication, Publisher
from bus.errors import NotAvailable
from bus.model.envelope import PERSISTENT

HOPS = (RECEIVE, TRANSFORM, SEND)
CORES = len(os.sched_getaffinity(0))
CELERY_PROCESSES = 3 * CORES
"""A task mostly waits for commits and confirms: on two idle cores six beat two and four, on busy ones not."""
FASTSTREAM_PROCESSES = CORES
"""Its loop is busy, not waiting: two were faster than one on two cores that had other work as well."""
_LOOK = 0.02  # seconds
_MORE = timedelta(seconds=15)


class Running(Protocol):
    """A contender at work."""

    @property
    def children(self) -> Children: ...

    def publication(self, number: int) -> Publication:
        """The order with this number as this contender takes it."""

    def ends(self) -> int | None:
        """Orders whose end it recorded since it was started; None: it records nothing."""

    def clock(self) -> float:
        """Now, by the clock that `last_end` is told by: a database may be on another machine."""

    def last_end(self) -> float:
        """When the last end was recorded, in seconds."""

    def complaint(self, published: int) -> str:
        """What its records lack of so many orders; empty: nothing."""


@dataclass(frozen=True)
class Contender:
    """`start` yields it at work on a stage; `libraries`: what must be importable for it."""

    name: str
    about: str
    """How it does the job, and what it leaves out; told beside its number."""
    start: Callable[[Stage], AbstractContextManager[Running]]
    libraries: tuple[str, ...] = ()

    def require_libraries(self) -> None:
        """
        Raises:
            NotAvailable: the extra `bench` is not installed.
        """
        missing = [name for name in self.libraries if importlib.util.find_spec(name) is None]
        if missing:
            raise NotAvailable(f"{', '.join(missing)} not installed here; type: pip install 'plantbus[bench]'")


def measure(contender: Contender, services: Services, pace: Pace) -> list[Round]:
    """Rounds of one contender on a stage of its own; nothing it was given was lost or done twice.

    Raises:
        BenchFailure: it lost orders, died, or did not end in time.
        NotAvailable: this machine lacks what it needs.
    """
    contender.require_libraries()
    pace.require_time()
    with troubles_told(), services.stage() as stage, contender.start(stage) as running:
        course = Course(stage, running, pace)
        with closing(course):
            rounds = measured_rounds(course.round, pace)
            course.require_complete()
        return rounds


@contextmanager
def troubles_told() -> Iterator[None]:
    """Make a BenchFailure of what brokers, databases and processes can do to a measurement.

    Raises:
        BenchFailure: one of them did.
    """
    try:
        yield
    except (*LOST, psycopg.Error, subprocess.SubprocessError) as error:
        raise BenchFailure(f"{type(error).__name__}: {str(error).strip()}") from error


class Course:
    """Puts orders through a contender that runs, and proves that all of them got through."""

    def __init__(self, stage: Stage, running: Running, pace: Pace) -> None:
        self._stage = stage
        self._running = running
        self._patience = (pace.box * 3 + _MORE).total_seconds()
        self._last_moment = pace.give_up_after + pace.box.total_seconds() * 1.5
        self._publisher = Publisher(stage.broker_url, name="plantbus bench publisher")
        self.published = 0

    def round(self, count: int) -> Round:
        """Publish so many orders while they are worked on; from the first publish to the last recorded end.

        Raises:
            BenchFailure: fewer arrived or were recorded than were published, or more.
        """
        publications = self.publications(count)
        with targets_at(self._stage.broker_url) as targets:
            give_up_at = min(time.monotonic() + self._patience, self._last_moment)
            began = self._running.clock()
            publish(self._publisher, publications)
            self._wait(lambda: targets.depth() >= count, give_up_at, lambda: _arrived(targets, count))
            ended = self._running.clock()
            if self._running.ends() is not None:
                self._wait(self._is_recorded, give_up_at, self._recorded)
                ended = self._running.last_end()
            if (emptied := targets.empty()) != count:
                raise BenchFailure(f"of {count:,} orders {emptied:,} were sent")
        return Round(count, ended - began)

    def publications(self, count: int) -> Sequence[Publication]:
        """The next orders, ready to be published; they count as published."""
        first = self.published
        self.published += count
        return [self._running.publication(number) for number in range(first, first + count)]

    def require_complete(self) -> None:
        """
        Raises:
            BenchFailure: the contender's records do not agree with what was published.
        """
        if complaint := self._running.complaint(self.published):
            raise BenchFailure(complaint)

    def close(self) -> None:
        self._publisher.close()

    def wait_until_recorded(self) -> None:
        """
        Raises:
            BenchFailure: not everything was recorded in time.
        """
        self._wait(self._is_recorded, time.monotonic() + self._patience, self._recorded)

    def _is_recorded(self) -> bool:
        return self._running.ends() == self.published

    def _recorded(self) -> str:
        return f"{self._running.ends():,} of {self.published:,} orders recorded as sent"

    def _wait(self, done: Callable[[], bool], give_up_at: float, found: Callable[[], str]) -> None:
        while not done():
            self._running.children.require_alive()
            if time.monotonic() > give_up_at:
                raise BenchFailure(f"{found()} when its time was up")
            time.sleep(_LOOK)


def _arrived(targets: Targets, count: int) -> str:
    return f"{targets.depth():,} of {count:,} orders sent"


# --- the peers -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Peer:
    """A peer that takes plain orders and records in the peers' tables."""

    children: Children
    ledger: Ledger

    def publication(self, number: int) -> Publication:
        return plain_publication(number)

    def ends(self) -> int:
        return self.ledger.ends()

    def clock(self) -> float:
        return self.ledger.clock()

    def last_end(self) -> float:
        return self.ledger.last_end()

    def complaint(self, published: int) -> str:
        return self.ledger.complaint(published)


class _Celery(_Peer):
    """Takes orders as tasks: https://docs.celeryq.dev/en/stable/internals/protocol.html, version 2."""

    def publication(self, number: int) -> Publication:
        plain = plain_publication(number)
        name = order_id(number)
        nothing = b'{"callbacks": null, "errbacks": null, "chain": null, "chord": null}'
        return Publication(
            exchange="",
            routing_key=plain.routing_key,
            body=b"[[%s], {}, %s]" % (plain.body, nothing),
            properties={
                "correlation_id": name,
                "content_type": "application/json",
                "content_encoding": "utf-8",
                "delivery_mode": PERSISTENT,
            },
            headers={"lang": "py", "task": RECEIVE, "id": name, "root_id": name},
        )


@contextmanager
def _peer(
    stage: Stage, commands: dict[str, Sequence[str]], kind: Callable[[Children, Ledger], _Peer] = _Peer
) -> Iterator[Running]:
    """The processes of a peer by name, with the ledger's tables."""
    with ExitStack() as stack:
        url = stack.enter_context(stage.postgresql()).replace("postgresql+psycopg://", "postgresql://", 1)
        ledger = stack.enter_context(closing(Ledger(url)))
        ledger.create()
        declare_queues(stage.broker_url, HOPS)
        children = Children(stage.folder, {"BENCH_BROKER": stage.broker_url, "BENCH_LEDGER": url})
        stack.callback(children.stop)
        for name, words in commands.items():
            children.start(name, *words)
        yield kind(children, ledger)


def _start_celery(stage: Stage) -> AbstractContextManager[Running]:
    quiet = ("--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "WARNING")
    processes = ("--pool", "prefork", "--concurrency", str(CELERY_PROCESSES))
    words = ("celery", "-A", "bus.bench.celery_peer", "worker", *processes, *quiet)
    return _peer(stage, {"celery": words}, _Celery)


def _start_faststream(stage: Stage) -> AbstractContextManager[Running]:
    return _peer(stage, {f"faststream-{n}": ("bus.bench.faststream_peer",) for n in range(FASTSTREAM_PROCESSES)})


def _start_handwritten(stage: Stage) -> AbstractContextManager[Running]:
    return _peer(stage, {hop: ("bus.bench.handwritten_peer", hop) for hop in HOPS})


_EACH = "one transaction per message at each hop; no order per key"
CELERY = Contender("celery", f"{_EACH}; {CELERY_PROCESSES} processes", _start_celery, ("celery", "pydantic"))
FASTSTREAM = Contender(
    "faststream",
    f"{_EACH}; {FASTSTREAM_PROCESSES} processes",
    _start_faststream,
    ("faststream", "aio_pika", "pydantic", "uvloop"),
)
HANDWRITTEN = Contender(
    "handwritten",
    f"one transaction per batch at each hop; no order per key, no claims, no history; {len(HOPS)} processes",
    _start_handwritten,
    ("pydantic",),
)


# --- the limit -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Limit:
    """Records nothing: what arrived is all there is to know."""

    children: Children

    def publication(self, number: int) -> Publication:
        return plain_publication(number)

    def ends(self) -> None:
        return None

    def clock(self) -> float:
        return time.monotonic()

    def last_end(self) -> float:
        raise AssertionError("the limit records nothing")

    def complaint(self, published: int) -> str:
        return ""


@contextmanager
def _start_limit(stage: Stage) -> Iterator[Running]:
    declare_queues(stage.broker_url, HOPS)
    children = Children(stage.folder, {"BENCH_BROKER": stage.broker_url})
    try:
        for hop in HOPS:
            children.start(hop, "bus.bench.limit_peer", hop)
        yield _Limit(children)
    finally:
        children.stop()


LIMIT = Contender(
    "limit",
    f"the hops in batches over plain py-amqp, nothing checked, transformed or stored; {len(HOPS)} processes",
    _start_limit,
)
