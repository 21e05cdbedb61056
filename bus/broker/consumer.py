"""Reads one queue in batches: a plain loop over one AMQP channel that keeps its order and finds the broker again."""

from __future__ import annotations

import random
import time
from collections import deque
from datetime import timedelta
from typing import Any

from amqp import spec
from loguru import logger as log

from bus.broker.address import read_addresses
from bus.broker.frames import UNREADABLE
from bus.broker.link import LOST, connect, drain, drop
from bus.errors import BrokerUnavailable
from bus.model.envelope import Envelope

MAX_DEPTH = 32
"""Tables and lists inside of each other in a header; deeper ones could neither be kept nor shown."""

PREFETCH = 256
"""Messages the broker sends ahead of their acknowledgement."""

READ_AHEAD = 8 * 1024 * 1024
"""Bytes held here from which on nothing more is read: what the broker sends then waits in the network's buffers.

The prefetch counts messages, not bytes: 256 of 1 MB each would be more than a process may have.
"""

_LOOK = timedelta(milliseconds=1)
_LINGER = timedelta(milliseconds=20)
_TICK = timedelta(seconds=1)
_FIRST_PAUSE = 0.2  # seconds
_LONGEST_PAUSE = 15.0  # seconds


class Consumer:
    """Use it from one thread; a queue with a single active consumer sends to one Consumer, the others stand by.

    Bodies, properties and headers are passed on as they came. Unacknowledged messages come again, in order and marked
    redelivered, when the connection is lost or closed.
    """

    def __init__(self, url: str, queue: str, *, prefetch: int = PREFETCH, name: str = "plantbus consumer") -> None:
        self._addresses = read_addresses(url)
        self.queue = queue
        self._prefetch = prefetch
        self._name = name
        self._connection: Any = None
        self._channel: Any = None
        self._arrived: deque[Envelope] = deque()
        self._held = 0
        self._generation = 0
        self._failures = 0
        self._try_again_at = 0.0

    @property
    def held(self) -> int:
        """Bytes of the bodies that were read and not given out yet."""
        return self._held

    def open(self) -> None:
        """Connect and consume; `next_batch` does it too, but waits where this says what is wrong.

        Raises:
            BrokerUnavailable: the broker cannot be reached, or the queue cannot be read.
        """
        if self._connection is not None:
            return
        self._connection = connect(self._addresses, name=self._name)
        self._generation += 1
        try:
            channel = self._channel = self._connection.channel()
            channel.auto_decode = False  # else py-amqp makes text of bodies by their content_encoding
            channel.basic_qos(0, self._prefetch, False)
            channel.basic_consume(self.queue, callback=self._take)
        except LOST as error:
            self._lose()
            raise BrokerUnavailable(
                f"queue {self.queue!r} cannot be read: {error}; run `bus topology diff`, then `bus topology apply`"
            ) from error
        self._failures = 0
        log.info("consumer opened", queue=self.queue)

    def next_batch(self, *, limit: int, max_bytes: int, wait: timedelta) -> list[Envelope]:
        """The next messages in order: waits for the first, then takes what is there already.

        Empty when nothing came in time, or while the broker is away: it is looked for again with growing pauses.
        A first message larger than `max_bytes` comes alone.
        """
        until = time.monotonic() + wait.total_seconds()
        if self._arrived and not self._has_enough(limit):
            self._listen(_LOOK, upto=limit)
        while not self._arrived and (remaining := until - time.monotonic()) > 0:
            self._listen(min(timedelta(seconds=remaining), _TICK), upto=limit)
        batch: list[Envelope] = []
        size = 0
        while self._arrived and len(batch) < limit:
            size += len(self._arrived[0].body)
            if batch and size > max_bytes:
                break
            batch.append(self._arrived.popleft())
        self._held -= sum(len(envelope.body) for envelope in batch)
        return batch

    def ack(self, envelope: Envelope) -> bool:
        """Acknowledge everything up to this message; False: it belongs to a lost connection and will come again."""
        if not self.holds(envelope):
            return False
        try:
            with self._connection.transport.having_timeout(_TICK.total_seconds()):
                self._channel.basic_ack(envelope.delivery_tag, multiple=True)
        except LOST as error:
            self._lose(error)
            return False
        return True

    def holds(self, envelope: Envelope) -> bool:
        """Whether the message can still be acknowledged: tags count from 1 again on every AMQP channel."""
        return self._connection is not None and envelope.generation == self._generation

    def keep_alive(self) -> None:
        """Read what came and send a heartbeat when due; call it about once a second while a batch is worked on.

        Where nothing more may be read for longer than RabbitMQ waits for its reader, it closes the connection.
        """
        if self._connection is not None:
            self._listen(_LOOK, upto=self._prefetch)

    def close(self) -> None:
        """Close the AMQP channel: the broker takes back what is unacknowledged, in order.

        Neither `basic.cancel` nor nack with requeue: both were seen to reorder.
        """
        connection, channel = self._connection, self._channel
        self._forget()
        if connection is None:
            return
        try:
            # Not channel.close(): py-amqp warns of every message that is still on its way here.
            channel.send_method(spec.Channel.Close, "BsBB", (0, "", 0, 0), wait=spec.Channel.CloseOk)
            connection.close()
        except LOST:
            drop(connection)
        self._forget()

    def _listen(self, within: timedelta, *, upto: int) -> None:
        """Wait that long for a message and take those behind it; connects first when it is time to try again."""
        if self._connection is None and not self._connect_again(within):
            return
        try:
            more = self._held < READ_AHEAD and drain(self._connection, within=within)
            until = time.monotonic() + _LINGER.total_seconds()
            while more and not self._has_enough(upto) and time.monotonic() < until:
                more = drain(self._connection, within=_LOOK)
            self._connection.heartbeat_tick()
        except LOST as error:
            self._lose(error)

    def _has_enough(self, upto: int) -> bool:
        return len(self._arrived) >= upto or self._held >= READ_AHEAD

    def _connect_again(self, within: timedelta) -> bool:
        pause = self._try_again_at - time.monotonic()
        if pause > 0:
            time.sleep(min(pause, within.total_seconds()))
            return False
        try:
            self.open()
        except BrokerUnavailable as error:
            self._failures += 1
            longest = min(_FIRST_PAUSE * 2.0 ** min(self._failures, 10), _LONGEST_PAUSE)
            self._try_again_at = time.monotonic() + longest * random.uniform(0.5, 1)  # noqa: S311  # jitter, no secret
            log.warning("consumer waits for the broker", queue=self.queue, cause=str(error), failures=self._failures)
            return False
        return True

    def _take(self, message: Any) -> None:
        properties = dict(message.properties)
        unreadable = str(properties.get("cluster_id", ""))
        if unreadable.startswith(UNREADABLE):
            unreadable, properties = unreadable.removeprefix(UNREADABLE), {}
        else:
            unreadable = ""
        headers = properties.pop("application_headers", {})
        if _is_deeper(headers, MAX_DEPTH):
            unreadable, properties, headers = f"headers nested deeper than {MAX_DEPTH}", {}, {}
        info = message.delivery_info
        body = message.body or b""
        self._held += len(body)
        self._arrived.append(
            Envelope(
                routing_key=info["routing_key"],
                body=body,
                exchange=info["exchange"],
                properties=properties,
                headers=headers,
                redelivered=info["redelivered"],
                delivery_tag=info["delivery_tag"],
                generation=self._generation,
                unreadable=unreadable,
            )
        )

    def _lose(self, error: Exception | None = None) -> None:
        connection = self._connection
        self._forget()
        if connection is not None:
            drop(connection)
        if error is not None:
            log.warning("consumer lost the broker", queue=self.queue, cause=str(error) or type(error).__name__)

    def _forget(self) -> None:
        self._connection = self._channel = None
        self._arrived.clear()
        self._held = 0


def _is_deeper(table: Any, depth: int) -> bool:
    level = [table]
    for _ in range(depth + 1):
        level = [
            item
            for value in level
            for item in (value.values() if isinstance(value, dict) else value)
            if isinstance(item, dict | list)
        ]
        if not level:
            return False
    return True
