"""For tests, shipped: the same pipeline in one process without a broker, and an endpoint that does as it is told.

bus = DirectBus(store, catalogue, adapters={"mes": ScriptedEndpoint()})
bus.receive(a_message)
bus.run_until_idle()
"""

from __future__ import annotations

import itertools
import random
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta

from bus.errors import DeliveryFailure, EndpointDown, Exchange
from bus.model.catalogue import Catalogue
from bus.model.envelope import Envelope, to_properties
from bus.model.message import Message
from bus.pipeline.receive import receive
from bus.pipeline.resume import Relay
from bus.pipeline.send import Window, send
from bus.pipeline.transform import transform
from bus.pipeline.worker import Shift
from bus.ports import Adapter, Answer, Finding, MessageStore, Parcel, Verdict


def monotonic() -> timedelta:
    return timedelta(seconds=time.monotonic())


@dataclass
class RecordedTelemetry:
    """Keeps events, for tests that ask what was told."""

    events: list[tuple[str, dict[str, object]]] = field(default_factory=list)

    def event(self, name: str, **fields: object) -> None:
        self.events.append((name, fields))

    def named(self, name: str) -> list[dict[str, object]]:
        return [fields for event, fields in self.events if event == name]


Step = Callable[[Parcel], Answer]
"""What a scripted endpoint does with one call: answer, or raise."""


@dataclass
class ScriptedEndpoint:
    """An adapter that does what the script says, call by call, and books like a real target.

    `booked` is its own book: (key, body) in the order of booking. Without a script it answers with a number.
    """

    remembers_keys: bool = True
    script: dict[str, list[DeliveryFailure | str]] = field(default_factory=dict)
    """Subject or `*` → what the next calls do: an error to raise, `book-then-lose` (books, then the answer is
    lost) or `ok`."""
    is_up: bool = True
    booked: list[Parcel] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    checks: int = 0

    def send(self, parcel: Parcel) -> Answer:
        self.calls.append(parcel.key)
        if not self.is_up:
            raise EndpointDown("endpoint.refused-connection", "nobody listens")
        act = self._next(parcel)
        if isinstance(act, DeliveryFailure) and act.cause != "book-then-lose":
            raise act
        document = self._book(parcel)
        if isinstance(act, DeliveryFailure):
            raise act
        return Answer(document=document, exchange=Exchange(sent=parcel.message.body, received=document.encode()))

    def _next(self, parcel: Parcel) -> DeliveryFailure | str:
        for name in (parcel.message.subject, "*"):
            if self.script.get(name):
                return self.script[name].pop(0)
        return "ok"

    def _book(self, parcel: Parcel) -> str:
        if self.remembers_keys:
            for number, known in enumerate(self.booked, start=1):
                if known.key == parcel.key:
                    return f"D{number}"
        self.booked.append(parcel)
        return f"D{len(self.booked)}"

    def probe(self, parcel: Parcel) -> Finding:
        for number, known in enumerate(self.booked, start=1):
            if known.key == parcel.key:
                return Finding(verdict=Verdict.FOUND, document=f"D{number}")
        return Finding(verdict=Verdict.ABSENT)

    def check(self) -> None:
        self.checks += 1
        if not self.is_up:
            raise EndpointDown("endpoint.refused-connection", "nobody listens")

    def close(self) -> None:
        self.is_up = False

    @property
    def received(self) -> list[bytes]:
        """The bodies it booked, in order."""
        return [parcel.message.body for parcel in self.booked]


@dataclass
class ScriptedMany(ScriptedEndpoint):
    """As ScriptedEndpoint, several at once: what is sent together is booked backwards."""

    def send_many(self, parcels: Sequence[Parcel]) -> list[Answer | DeliveryFailure]:
        answers: list[Answer | DeliveryFailure] = []
        for parcel in reversed(parcels):
            try:
                answers.append(self.send(parcel))
            except DeliveryFailure as error:
                answers.append(error)
        return answers[::-1]


class DirectBus:
    """Router, workers and relay of a project in the caller's thread; publish = receive, committed."""

    def __init__(
        self, store: MessageStore, catalogue: Catalogue, adapters: Mapping[str, Adapter], *, worker: str = "worker:test"
    ) -> None:
        self.store = store
        self.catalogue = catalogue
        self.telemetry = RecordedTelemetry()
        self.stop = threading.Event()
        self.hinted: set[str] = set()
        self.alive = True
        drawn = random.Random(7)  # noqa: S311  # jitter, no secret
        self.shift = Shift(
            store=store,
            catalogue=catalogue,
            telemetry=self.telemetry,
            wake=self.hinted.update,
            worker=worker,
            release="test",
            clock=monotonic,
            jitter=drawn.random,
            new_token=lambda: uuid.uuid4().hex,
            stop=self.stop,
            still_alive=lambda: self.alive,
        )
        self.windows = {name: Window(catalogue.endpoints[name], adapter) for name, adapter in adapters.items()}
        self.relay = Relay(
            store=store,
            wake=self.hinted.update,
            without_hints=set,
            queues=catalogue.queues,
            telemetry=self.telemetry,
            name="relay:test",
            clock=monotonic,
        )

    def receive(self, *messages: Message | Envelope) -> None:
        """Receive these in one batch, as if published by their systems."""
        envelopes = [m if isinstance(m, Envelope) else envelope_of(m) for m in messages]
        self.hinted |= receive(envelopes, store=self.store, catalogue=self.catalogue, telemetry=self.telemetry)

    def work(self, queue: str) -> bool:
        """One batch of one queue; whether there may be more."""
        self.hinted.discard(queue)
        if queue.startswith("send."):
            window = self.windows.get(queue.removeprefix("send."))
            return window is not None and send(window, shift=self.shift)
        return transform(queue, shift=self.shift)

    def run_until_idle(self, *, rounds: int = 10_000) -> None:
        """Work until no queue has anything READY; retries that are not due and held deliveries stay."""
        for _ in range(rounds):
            worked = [self.work(queue) for queue in self.catalogue.queues]
            if not any(worked) and not self.hinted.intersection(self.catalogue.queues):
                return
        raise AssertionError(f"still busy after {rounds} rounds: {sorted(self.hinted)}")

    def run_until(self, done: Callable[[], bool], *, within: timedelta = timedelta(seconds=20)) -> None:
        """Work and relay until the condition holds, for retries and probes that fall due by the store's clock."""
        deadline = monotonic() + within
        while not done():
            if monotonic() > deadline:
                raise AssertionError("the condition did not come true in time")
            self.run_until_idle()
            self.relay.round()


def envelope_of(message: Message, *, user: str | None = None, redelivered: bool = False) -> Envelope:
    """The envelope in which the system of a message publishes it."""
    properties, headers = to_properties(message)
    if user is not None:
        properties["user_id"] = user
    return Envelope(
        routing_key=f"{message.site}.{message.system}.{message.type}",
        body=message.body,
        properties=properties,
        headers=headers,
        redelivered=redelivered,
    )


_numbers = itertools.count(1)


def a_message(**overrides: object) -> Message:
    """A message with everything filled in; name what matters to the test."""
    number = next(_numbers)
    plain = Message(
        id=f"fact-{number}",
        type="test.thing.v1",
        system="mes-1",
        site="P1",
        subject="",
        content_type="application/json",
        body=b"{}",
    )
    return replace(plain, **overrides)  # type: ignore[arg-type]  # overrides name fields of Message
