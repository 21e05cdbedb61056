"""Takes hints from one queue for Dramatiq's threads, and settles each with the consumer that took it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import Any

import pika
from dramatiq import Message
from dramatiq.broker import Consumer, MessageProxy
from dramatiq.errors import BrokerConnectionError

from bus.errors import MessageInvalid
from bus.ports import Telemetry
from bus.workers import connection, wire
from bus.workers.connection import LOST, closed
from bus.workers.slots import Slots


class HintProxy(MessageProxy):
    """A hint in the worker's hands: which consumer took it, under which tag."""

    def __init__(self, message: Message[None], *, consumer: HintConsumer, tag: int) -> None:
        super().__init__(message)
        self.consumer = consumer
        self.tag = tag


class HintConsumer(Consumer):
    """One connection that consumes one queue. Only `ack` and `nack` may be called from other threads.

    A delivery tag counts from 1 on every connection. Dramatiq 2.2.1 (ConsumerThread.post_process_message) hands what an
    older consumer took to the present one, whose own message of the same number would be acknowledged; here only the
    slot is given back. The broker delivers the hint again by itself.

    Prefetch is the queue's concurrency less what older consumers still run. While that leaves nothing the queue is not
    consumed at all (a prefetch of 0 would mean unlimited); it grows to all of it when they are done. Whatever the
    broker sends, no more than the concurrency is given to the worker's threads.
    """

    def __init__(
        self,
        parameters: Sequence[pika.connection.Parameters],
        *,
        queue: str,
        arguments: Mapping[str, object],
        slots: Slots,
        patience: timedelta,
        telemetry: Telemetry,
        on_loss: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_loss` is called before an error says that the connection, or its queue, is lost."""
        self.queue = queue
        self._slots = slots
        self._patience = patience.total_seconds()
        self._telemetry = telemetry
        self._on_loss = on_loss
        self._deliveries: Iterator[tuple[Any, Any, bytes]] | None = None
        self._prefetch = 0
        try:
            self._connection = connection.connect(parameters, name=f"plantbus worker {queue}")
        except LOST as error:
            raise self._lost(repr(error)) from None
        try:
            self._channel = self._connection.channel()
            self._declare(arguments)
        except LOST as error:
            self.close()
            raise self._lost(repr(error)) from None

    def __next__(self) -> HintProxy | None:
        try:
            if not self._may_take():
                self._connection.process_data_events(time_limit=self._patience)
                return None
            assert self._deliveries is not None
            method, _, body = next(self._deliveries)
            return None if method is None else self._open(method.delivery_tag, body)
        except StopIteration:
            raise self._lost(f"the broker cancelled the consumer of {self.queue}") from None
        except LOST as error:
            raise self._lost(repr(error)) from None

    def ack(self, message: MessageProxy) -> None:
        self._settle(message, self._channel.basic_ack)

    def nack(self, message: MessageProxy) -> None:
        self._settle(message, partial(self._channel.basic_reject, requeue=False))

    def close(self) -> None:
        """Send the acknowledgements that wait, then close; never raises."""
        with contextlib.suppress(*LOST):
            flushed = threading.Event()
            # pika calls these in the order in which they were added, so all acknowledgements went before.
            self._connection.add_callback_threadsafe(flushed.set)
            while not flushed.is_set():
                self._connection.process_data_events(time_limit=0)
        with contextlib.suppress(*LOST):
            self._connection.close()

    def _declare(self, arguments: Mapping[str, object]) -> None:
        if dead_letters := arguments.get("x-dead-letter-exchange"):
            # Without its exchange a rejected message would vanish silently: rather do not consume.
            self._channel.exchange_declare(dead_letters, passive=True)
        self._channel.queue_declare(self.queue, durable=True, arguments=dict(arguments))

    def _may_take(self) -> bool:
        """Whether a thread is free for this queue; begins to consume, and consumes more as older consumers finish."""
        left = self._slots.left_by_others(self)
        if left > 0 and (self._deliveries is None or (left == self._slots.limit and self._prefetch < left)):
            self._consume(prefetch=left)
        return self._deliveries is not None and self._slots.is_free()

    def _consume(self, *, prefetch: int) -> None:
        if self._deliveries is not None:
            # RabbitMQ applies a new prefetch to consumers that begin after it.
            self._channel.cancel()
        self._channel.basic_qos(prefetch_count=prefetch)
        self._prefetch = prefetch
        self._deliveries = self._channel.consume(self.queue, inactivity_timeout=self._patience)

    def _open(self, tag: int, body: bytes) -> HintProxy | None:
        try:
            message = wire.decode(body, queue=self.queue)
        except MessageInvalid as error:
            self._channel.basic_reject(tag, requeue=False)
            self._telemetry.event("hint rejected", queue=self.queue, cause=error.cause, size=len(body))
            return None
        self._slots.take(self, tag)
        return HintProxy(message, consumer=self, tag=tag)

    def _lost(self, why: str) -> BrokerConnectionError:
        self._on_loss()
        return closed(why)

    def _settle(self, message: MessageProxy, settle: Callable[[int], None]) -> None:
        assert isinstance(message, HintProxy)
        if not self._slots.give_back(message.consumer, message.tag):
            return
        is_mine = message.consumer is self
        try:
            # For a stranger's hint this does nothing but wake the consumer: a slot is free.
            self._connection.add_callback_threadsafe(partial(settle, message.tag) if is_mine else _nothing)
        except LOST:
            is_mine = False
        if not is_mine:
            self._telemetry.event("hint comes again", queue=self.queue, hint=message.message_id)


def _nothing() -> None:
    return None
