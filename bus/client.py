"""Publish to the bus in three lines: confirmed, in order per subject, with typed errors.

with connect("amqp://mes-p200:…@broker/plant", system="mes-p200", site="P200") as line:
    line.publish("mes-p200.operation-confirm.v1", body, subject="order:4711")
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Self

from bus.broker.address import read_addresses
from bus.broker.publisher import Outcome, Publication, Publisher
from bus.errors import BrokerUnavailable, ConfigurationError, PublishError
from bus.model.contract import TYPE_NAME
from bus.model.envelope import EXCHANGE, PERSISTENT
from bus.model.stated import END_OF_SEQUENCE
from bus.model.system import NAME

PATIENCE = timedelta(seconds=30)
"""How long a publish looks for the broker and waits for its confirm."""

_TICK = 1.0  # seconds
_PAUSE = 0.2  # seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One fact to publish.

    `message_id` identifies the fact and stays the same when it is sent again; left out, the bus takes the identity its
    contract names. `time` is when it happened, aware; left out, it is now. `sequence` is which one it is, from 1, of
    all that this system says at this site about the subject; a fact that is sent again keeps its number. With it
    `bus message gaps` shows what got lost.
    """

    type: str
    body: bytes | Mapping[str, Any]
    subject: str = ""
    message_id: str = ""
    time: datetime | None = None
    content_type: str = "application/json"
    correlation_id: str = ""
    sequence: int | None = None
    headers: Mapping[str, str | int] = field(default_factory=dict)


def connect(url: str, *, system: str, site: str, patience: timedelta = PATIENCE) -> Line:
    """A line to the bus for one system at one site; connects at once.

    The URL's user becomes `user_id`, which the broker checks. Several nodes are separated by `;`.

    Raises:
        ConfigurationError: the URL or a name has the wrong form.
        BrokerUnavailable: no node takes the connection; the text says why.
    """
    line = Line(url, system=system, site=site, patience=patience)
    line.open()
    return line


class Line:
    """Publishes for one system; may be used from several threads, one of them at a time gets through.

    A message whose confirm was lost is kept and published again, under its own id, before any later one: no later
    message of its subject can overtake it. `close` gives up what is still kept and says so.
    """

    def __init__(self, url: str, *, system: str, site: str, patience: timedelta = PATIENCE) -> None:
        for what, name in (("system", system), ("site", site)):
            if not NAME.fullmatch(name):
                raise ConfigurationError(f"{what} {name!r}: letters and digits joined by hyphens are expected")
        self._system = system
        self._site = site
        self._user = read_addresses(url)[0].user
        self._patience = patience
        self._publisher = Publisher(url, name=f"plantbus client of {system}")
        self._kept: list[Publication] = []
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._heart = threading.Thread(target=self._beat, name=f"plantbus heartbeat of {system}", daemon=True)

    def open(self) -> None:
        """Connect, and keep the connection alive from now on. Raises BrokerUnavailable."""
        with self._lock:
            self._publisher.publish_batch([], within=self._patience)
        self._heart.start()

    def publish(
        self,
        type_name: str,
        body: bytes | Mapping[str, Any],
        *,
        subject: str = "",
        message_id: str = "",
        time: datetime | None = None,
        content_type: str = "application/json",
        correlation_id: str = "",
        sequence: int | None = None,
    ) -> None:
        """Publish one fact, see Fact; returns when the broker confirmed it to disk.

        Raises:
            PublishRefused: this system may not publish it; trying again does not help.
            Unroutable: no queue took it.
            BrokerUnavailable: no confirm in time; the message is kept here and goes first with the next publish.
        """
        fact = Fact(
            type=type_name,
            body=body,
            subject=subject,
            message_id=message_id,
            time=time,
            content_type=content_type,
            correlation_id=correlation_id,
            sequence=sequence,
        )
        error = self.publish_many([fact])[0]
        if error is not None:
            raise error

    def publish_many(self, facts: Sequence[Fact]) -> list[Outcome]:
        """Publish in order with pipelined confirms; one outcome per fact, None: confirmed. Look at all of them."""
        publications = [self._publication(fact) for fact in facts]
        with self._lock:
            if self._closed.is_set():
                raise PublishError("the line is closed: connect again")
            return self._publish(publications)

    def close(self) -> None:
        """Close the connection.

        Raises:
            BrokerUnavailable: messages were never confirmed; the text names them.
        """
        self._closed.set()
        if self._heart.ident is not None:
            self._heart.join()
        with self._lock:
            self._publisher.close()
            kept, self._kept = self._kept, []
        if kept:
            names = ", ".join(p.properties.get("message_id") or p.routing_key for p in kept[:5])
            raise BrokerUnavailable(f"{len(kept)} messages were never confirmed: {names}; publish them again")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except BrokerUnavailable:
            if error is None:
                raise

    def _publish(self, publications: Sequence[Publication]) -> list[Outcome]:
        waiting = list(self._kept)
        kept = {_fact_key(publication): at for at, publication in enumerate(waiting)}
        places = []
        for publication in publications:
            # A fact that is published again after an error stands among the kept ones already, at its own place.
            at = kept.pop(_fact_key(publication), len(waiting))
            places.append(at)
            if at == len(waiting):
                waiting.append(publication)
        outcomes = self._until_known(waiting)
        self._kept = [p for p, outcome in zip(waiting, outcomes, strict=True) if isinstance(outcome, BrokerUnavailable)]
        return [outcomes[at] for at in places]

    def _until_known(self, waiting: Sequence[Publication]) -> list[Outcome]:
        """Publish until every outcome is known or the patience is used up; from the first unknown one on, in order."""
        deadline = time.monotonic() + self._patience.total_seconds()
        outcomes: list[Outcome] = []
        while True:
            at = len(outcomes)
            remaining = timedelta(seconds=max(deadline - time.monotonic(), 0))
            try:
                tail = self._publisher.publish_batch(waiting[at:], within=remaining)
            except BrokerUnavailable as error:
                tail = [error] * (len(waiting) - at)
            unknown = next((i for i, outcome in enumerate(tail) if isinstance(outcome, BrokerUnavailable)), None)
            if unknown is None or time.monotonic() + _PAUSE > deadline:
                return [*outcomes, *tail]
            outcomes += tail[:unknown]
            self._closed.wait(_PAUSE)

    def _publication(self, fact: Fact) -> Publication:
        if not TYPE_NAME.fullmatch(fact.type):
            raise ConfigurationError(f"type {fact.type!r}: <domain>.<name>.v<major> is expected")
        happened = fact.time or datetime.now(UTC)
        if happened.tzinfo is None:
            raise ConfigurationError(f"time {happened.isoformat()} has no zone: pass an aware datetime")
        headers: dict[str, str | int] = {**fact.headers, "site": self._site, "time": happened.isoformat()}
        if fact.subject:
            headers["subject"] = fact.subject
        if fact.sequence is not None:
            headers["sequence"] = _checked(fact.sequence)
        properties: dict[str, Any] = {
            "type": fact.type,
            "app_id": self._system,
            "user_id": self._user,
            "content_type": fact.content_type,
            "delivery_mode": PERSISTENT,
        }
        properties |= {n: v for n in ("message_id", "correlation_id") if (v := getattr(fact, n))}
        body = fact.body if isinstance(fact.body, bytes) else json.dumps(fact.body, ensure_ascii=False).encode()
        return Publication(
            exchange=EXCHANGE,
            routing_key=f"{self._site}.{self._system}.{fact.type}",
            body=body,
            properties=properties,
            headers=headers,
        )

    def _beat(self) -> None:
        while not self._closed.wait(_TICK):
            with self._lock:
                self._publisher.keep_alive()


def _checked(sequence: int) -> int:
    if isinstance(sequence, bool) or not isinstance(sequence, int) or not 0 <= sequence < END_OF_SEQUENCE:
        raise ConfigurationError(f"sequence {sequence!r}: a whole number from 1 is expected")
    return sequence


def _fact_key(publication: Publication) -> tuple[str, str, str, bytes]:
    """What makes two publications the same fact sent twice: the time of sending does not."""
    subject = str(publication.headers.get("subject", ""))
    message_id = str(publication.properties.get("message_id", ""))
    return publication.routing_key, message_id, subject, publication.body
