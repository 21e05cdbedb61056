"""Publishes with pipelined confirms on a connection of its own: every message gets its own outcome."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import takewhile
from typing import Any

from amqp import Message, spec
from amqp.exceptions import ChannelError

from bus.broker.address import read_addresses
from bus.broker.link import CONNECT_LIMIT, HEARTBEAT, LOST, connect, drain, drop
from bus.errors import BrokerUnavailable, PublishError, PublishRefused, Unroutable

Outcome = PublishError | BrokerUnavailable | None
"""None: the broker confirmed. BrokerUnavailable: unknown, or not kept just now; publish it again under the same id."""

WINDOW = 512
"""Messages on the way before confirms are waited for."""

_ENOUGH = 1024
"""Subjects; as many reach every partition, of which there are 64 at the most."""
_LOOK = timedelta(milliseconds=1)
_TICK = timedelta(seconds=1)
_LONGEST = 255  # bytes of a short string in AMQP 0-9-1
_LARGEST = 2**63 - 1  # of a number in headers


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """One message to publish. `properties` by their AMQP 0-9-1 names, header values text, numbers or booleans.

    Raises:
        PublishRefused: a name or property is longer than AMQP takes, or a header value is of another kind.
    """

    exchange: str
    routing_key: str
    body: bytes
    properties: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, Any] = field(default_factory=dict)
    mandatory: bool = True

    def __post_init__(self) -> None:
        for name, text in (("exchange", self.exchange), ("routing key", self.routing_key), *self.properties.items()):
            if isinstance(text, str) and len(text.encode()) > _LONGEST:
                raise PublishRefused(f"{name} is longer than {_LONGEST} bytes: shorten {text[:40]!r}…")
        for name, value in self.headers.items():
            if not isinstance(value, str | int | float) or len(name.encode()) > _LONGEST:
                raise PublishRefused(f"header {name!r} is {type(value).__name__}: send text, a number or a boolean")
            if isinstance(value, int) and not -_LARGEST <= value <= _LARGEST:
                raise PublishRefused(f"header {name!r} is {value}: send numbers beyond {_LARGEST} as text")

    @property
    def subject(self) -> str:
        """What its partition follows from; empty where it has none."""
        return str(self.headers.get("subject", ""))

    def message(self) -> Any:
        return Message(self.body, application_headers=dict(self.headers), **self.properties)


class Publisher:
    """Use it from one thread. A lost connection is opened again by the next batch, at the next node of the URL.

    Call `keep_alive` about once a second between batches, or an idle connection is closed by the broker (harmless:
    nothing is on the way, and the next batch opens another).
    """

    def __init__(self, url: str, *, name: str = "plantbus publisher", window: int = WINDOW) -> None:
        self._addresses = read_addresses(url)
        self._name = name
        self._window = window
        self._connection: Any = None
        self._channel: Any = None
        self._flight: _Flight | None = None
        self._published = 0
        self._begun = _Begun()
        self._used_at = 0.0
        self._blocked = ""

    def publish_batch(self, publications: Sequence[Publication], *, within: timedelta) -> list[Outcome]:
        """Publish in order and wait for all confirms; the outcomes stand in the same order.

        A message the broker refuses closes the AMQP channel and takes the confirms of its neighbours with it: they are
        published again, one at a time, so that only the refused one fails. Such a neighbour can be at the broker twice.

        Raises:
            BrokerUnavailable: there is no connection or the broker blocks it; nothing was published.
        """
        deadline = time.monotonic() + within.total_seconds()
        self._ready(deadline)
        outcomes = self._fly(publications, deadline)
        if any(isinstance(outcome, _Repeat) for outcome in outcomes):
            for at, outcome in enumerate(outcomes):
                if isinstance(outcome, _Repeat):
                    outcomes[at] = self._fly_alone(publications[at], deadline)
        return list(outcomes)

    def keep_alive(self) -> None:
        """Read what came, send a heartbeat when due. Never raises: what is lost is opened again when needed."""
        if self._connection is None:
            return
        try:
            while drain(self._connection, within=_LOOK):
                pass
            self._connection.heartbeat_tick()
        except LOST:
            self._drop()

    def close(self) -> None:
        """Close the connection; the publisher is not used again."""
        connection, self._connection, self._channel = self._connection, None, None
        if connection is None:
            return
        try:
            connection.close()
        except LOST:
            drop(connection)

    # --- connection --------------------------------------------------------------------------------------------------

    def _ready(self, deadline: float) -> None:
        if self._connection is not None and time.monotonic() - self._used_at > HEARTBEAT.total_seconds():
            self.keep_alive()  # a connection that died while it was idle is found out before anything is written
        if self._connection is None:
            self._open(deadline)
        while self._blocked:
            if time.monotonic() > deadline:
                raise BrokerUnavailable(self._blocked_text())
            try:
                drain(self._connection, within=_TICK)
                self._connection.heartbeat_tick()
            except LOST as error:
                self._drop()
                raise BrokerUnavailable(f"the connection to the broker was lost: {error}") from error

    def _open(self, deadline: float) -> None:
        self._blocked = ""
        self._connection = connect(
            self._addresses,
            name=self._name,
            limit=min(CONNECT_LIMIT, timedelta(seconds=deadline - time.monotonic())),
            on_blocked=self._on_blocked,
            on_unblocked=self._on_unblocked,
        )
        try:
            self._open_channel()
        except LOST as error:
            self._drop()
            raise BrokerUnavailable(f"the broker closed the connection while it was opened: {error}") from error

    def _open_channel(self) -> None:
        self._channel = self._connection.channel()
        self._channel.events["basic_ack"].add(lambda tag, multiple: self._settle(tag, multiple, None))
        self._channel.events["basic_nack"].add(lambda tag, multiple: self._settle(tag, multiple, _not_kept()))
        self._channel.events["basic_return"].add(self._on_return)
        self._channel.confirm_select()
        self._published = 0
        self._begun = _Begun()

    def _drop(self) -> None:
        connection, self._connection, self._channel = self._connection, None, None
        if connection is not None:
            drop(connection)

    def _on_blocked(self, reason: str) -> None:
        self._blocked = reason or "blocked"

    def _on_unblocked(self) -> None:
        self._blocked = ""

    def _blocked_text(self) -> str:
        return "the broker takes nothing (memory or disk alarm): free some, or wait until its queues are shorter"

    # --- one run -----------------------------------------------------------------------------------------------------

    def _fly_alone(self, publication: Publication, deadline: float) -> Outcome:
        try:
            if self._connection is None:
                self._ready(deadline)
        except BrokerUnavailable as error:
            return error
        outcome = self._fly([publication], deadline)[0]
        assert not isinstance(outcome, _Repeat)
        return outcome

    def _fly(self, publications: Sequence[Publication], deadline: float) -> list[Outcome]:
        flight = self._flight = _Flight(publications, self._begun)
        try:
            for at, publication in enumerate(publications):
                while len(flight.outstanding) >= self._window or flight.holds_back(publication):
                    self._listen(deadline)
                if flight.nacked:
                    break
                self._write(publication, flight, at, deadline)
            while flight.outstanding:
                self._listen(deadline)
        except ChannelError as error:
            self._leave_channel()
            return flight.refused(_refusal(error))
        except _TooLate:
            # Late confirms must not be read as those of the next batch.
            self._drop()
            return flight.lost(BrokerUnavailable(self._blocked_text() if self._blocked else _TOO_LATE))
        except LOST as error:
            self._drop()
            return flight.lost(BrokerUnavailable(f"the connection to the broker was lost before it confirmed: {error}"))
        finally:
            self._flight = None
            self._used_at = time.monotonic()
        if flight.nacked:
            # RabbitMQ 3.10 goes on to nack on an AMQP channel whose first message met a queue without a leader.
            self._leave_channel()
            return flight.lost(_not_kept())
        return flight.outcomes

    def _write(self, publication: Publication, flight: _Flight, at: int, deadline: float) -> None:
        remaining = max(deadline - time.monotonic(), 0.001)
        arguments = (0, publication.exchange, publication.routing_key, publication.mandatory, False)
        self._published += 1
        flight.put(self._published, at)
        # Not basic_publish: it reads with a time-out of zero before every message, and then spins on half a frame.
        with self._connection.transport.having_timeout(remaining):
            self._channel.send_method(spec.Basic.Publish, "Bssbb", arguments, publication.message())

    def _listen(self, deadline: float) -> None:
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            raise _TooLate
        drain(self._connection, within=min(timedelta(seconds=remaining), _TICK))
        self._connection.heartbeat_tick()

    def _leave_channel(self) -> None:
        try:
            self._channel.close()  # py-amqp opens it again by itself where the broker closed it, without confirms
            self._open_channel()
        except LOST:
            self._drop()

    def _settle(self, tag: int, multiple: bool, outcome: Outcome) -> None:
        if self._flight is not None:
            self._flight.settle(tag, multiple, outcome)

    def _on_return(self, reason: Any, exchange: str, routing_key: str, message: Any) -> None:
        if self._flight is not None:
            self._flight.returned(reason.reply_text, exchange, routing_key, message)


class _TooLate(Exception):
    pass


class _Repeat(PublishError):
    """Its confirm was lost with the channel that another message closed."""


_TOO_LATE = "the broker did not confirm in time: it may have the message; publish it again under the same id"
_NACKED = (
    "the broker could not keep the message (its queue is full, or has no leader just now): "
    "publish it again under the same id"
)


def _not_kept() -> BrokerUnavailable:
    return BrokerUnavailable(_NACKED)


class _Begun:
    """The subjects whose queue took something on this AMQP channel, by exchange and routing key.

    A quorum queue without a leader takes nothing that is the first of its AMQP channel (RabbitMQ 3.10), and may have
    one a moment later: what stood behind would overtake it. What is not the first waits there for a leader.
    """

    def __init__(self) -> None:
        self._subjects: defaultdict[tuple[str, str], set[str]] = defaultdict(set)

    def add(self, publication: Publication) -> None:
        known = self._subjects[publication.exchange, publication.routing_key]
        if len(known) < _ENOUGH:
            known.add(publication.subject)

    def __contains__(self, publication: Publication) -> bool:
        known = self._subjects[publication.exchange, publication.routing_key]
        return len(known) >= _ENOUGH or publication.subject in known


class _Flight:
    """Messages on the way over one AMQP channel: which tag is which, and what became of each."""

    def __init__(self, publications: Sequence[Publication], begun: _Begun) -> None:
        self._publications = publications
        self._begun = begun
        self._first: dict[str, int] = {}
        """Subject → tag of its message that went where nothing was taken before."""
        self.outcomes: list[Outcome] = [None] * len(publications)
        self.outstanding: dict[int, int] = {}
        """Delivery tag → place, in the order of the tags."""
        self._open = set(range(len(publications)))
        self.nacked = False

    def put(self, tag: int, at: int) -> None:
        """The publication at this place goes on its way now."""
        self.outstanding[tag] = at
        if (publication := self._publications[at]) not in self._begun:
            self._first[publication.subject] = tag

    def holds_back(self, publication: Publication) -> bool:
        """Whether it would overtake one of its subject, should that one not be taken."""
        return self._first.get(publication.subject) in self.outstanding

    def settle(self, tag: int, multiple: bool, outcome: Outcome) -> None:
        tags = list(takewhile(lambda known: known <= tag, self.outstanding)) if multiple else [tag]
        for known in tags:
            at = self.outstanding.pop(known, None)
            if at is not None and outcome is None:
                self._begun.add(self._publications[at])
            if at in self._open:
                self._end(at, outcome)
                self.nacked |= outcome is not None

    def _end(self, at: int, outcome: Outcome) -> None:
        self._open.remove(at)
        self.outcomes[at] = outcome

    def returned(self, reason: str, exchange: str, routing_key: str, message: Any) -> None:
        """A return comes before its confirm; it carries the whole message, which is how it is matched."""
        body = message.body or b""
        for at in self.outstanding.values():
            sent = self._publications[at]
            if (
                at in self._open
                and (sent.exchange, sent.routing_key, sent.body) == (exchange, routing_key, body)
                and sent.properties.get("message_id") == message.properties.get("message_id")
            ):
                no_queue = f"no queue takes {routing_key!r} from exchange {exchange!r} ({reason})"
                self._end(at, Unroutable(f"{no_queue}: is its receiver declared?"))
                return

    def lost(self, error: BrokerUnavailable) -> list[Outcome]:
        """The connection is gone: what has no outcome is unknown, what was not written included."""
        return self._with_the_rest(lambda: error)

    def refused(self, error: PublishRefused) -> list[Outcome]:
        """The channel was closed by one of those on the way; which one is known only where there was one."""
        alone = len(self._publications) == 1
        return self._with_the_rest(lambda: error if alone else _Repeat())

    def _with_the_rest(self, outcome: Callable[[], Outcome]) -> list[Outcome]:
        for at in sorted(self._open):
            self._end(at, outcome())
        return self.outcomes


def _refusal(error: ChannelError) -> PublishRefused:
    remedies = {
        403: "this user may not publish this: see the system's `publishes`, `sites` and `speaks_for` in bus.toml, "
        "then `bus topology apply`",
        404: "the exchange is missing: run `bus topology apply`",
        406: "user_id must be the user that logs in, and the message smaller than the broker's max_message_size",
    }
    text = str(error.reply_text)
    return PublishRefused(f"{text}; {remedies.get(error.reply_code, 'see the broker log')}")
