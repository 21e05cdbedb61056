"""Brings a store to where a test begins: planned deliveries, claims, outcomes, by the pipeline's own steps."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Mapping, Sequence
from datetime import timedelta

from sqlalchemy import update

from bus.errors import DeliveryFailure, Exchange
from bus.model.delivery import Event, Outcome, Stage
from bus.model.message import Message
from bus.model.predicate import on
from bus.model.route import Route
from bus.model.system import Endpoint
from bus.pipeline.settle import Ended, settle
from bus.ports import Actor, Adapter, AttemptRecord, Claimed, Settled
from bus.store import tables as t
from bus.store.sqlstore import SqlStore
from bus.testing import DirectBus, RecordedTelemetry, ScriptedEndpoint
from tests.small_project import SOON, a_step, small_catalogue

PLAIN = Route(name="steps-as-they-are", when=on("test.step.v1"), to="target", retry=SOON)
"""No transform: a received step is at once to be sent."""

SEND = "send.target"
TEST = Actor(name="person:test", reason="a test")
_tokens = itertools.count(1)


def a_bus(
    store: SqlStore,
    *routes: Route,
    adapters: Mapping[str, Adapter] | None = None,
    worker: str = "worker:test",
    **endpoints: Endpoint,
) -> DirectBus:
    """A bus over the small project with these routes, or its own."""
    served = {"target": ScriptedEndpoint(), "archive": ScriptedEndpoint()} | dict(adapters or {})
    return DirectBus(store, small_catalogue(*routes, **endpoints), served, worker=worker)


def keep(store: SqlStore, *messages: Message, routes: Sequence[Route] = (PLAIN,)) -> None:
    """Receive these, in one batch."""
    a_bus(store, *routes).receive(*messages)


def keep_steps(store: SqlStore, *orders: str) -> None:
    """Receive one step of each order named, in that order, ready to be sent."""
    keep(store, *(a_step(order) for order in orders))


def claim(store: SqlStore, *, queue: str = SEND, worker: str = "worker:1", limit: int = 128) -> list[Claimed]:
    return store.claim(queue, worker=worker, token=f"token-{next(_tokens)}", limit=limit).claimed


def orders(claimed: Sequence[Claimed]) -> list[str]:
    """The order each delivery is about."""
    return [c.kept.message.subject.removeprefix("order:") for c in claimed]


def end(store: SqlStore, claimed: Sequence[Claimed], outcome: Outcome, *, noted: bool = True) -> set[str]:
    """Settle them all with one outcome, with an attempt each; returns the queues that have work now."""
    ended = [
        Ended(Settled(claimed=c, outcome=outcome, attempt=an_attempt(c, outcome) if noted else None)) for c in claimed
    ]
    return settle(
        ended,
        store=store,
        catalogue=small_catalogue(PLAIN),
        actor=TEST,
        telemetry=RecordedTelemetry(),
        stop=threading.Event(),
    )


def an_attempt(claimed: Claimed, outcome: Outcome) -> AttemptRecord:
    return AttemptRecord(
        delivery=claimed.id,
        stage=Stage.SEND,
        number=claimed.attempts + 1,
        began=timedelta(milliseconds=20),
        ended=timedelta(milliseconds=10),
        outcome=outcome.event.name.lower(),
        cause=outcome.cause,
        detail=outcome.detail,
        exchange=Exchange(sent=b"request", received=b"answer"),
        document=outcome.document,
        worker="worker:1",
        digests="",
    )


def doubt(*, due_in: timedelta | None = timedelta(0)) -> Outcome:
    return Outcome(event=Event.DOUBT, cause="outcome.timeout", due_in=due_in)


def retry(*, due_in: timedelta = timedelta(0)) -> Outcome:
    return Outcome(event=Event.FAIL, cause="target.busy", due_in=due_in)


def kill() -> Outcome:
    return Outcome(event=Event.KILL, cause="target.refused")


def now_due(store: SqlStore) -> None:
    """Let everything that is due some time be due now."""
    d = t.delivery.c
    with store.transaction() as transaction:
        transaction.execute(update(t.delivery).where(d.due_at.is_not(None)).values(due_at=transaction.now))


def failing(kind: type[DeliveryFailure], cause: str = "target.said-so") -> DeliveryFailure:
    return kind(cause, "as the script says")
