"""Dramatiq's RabbitmqBroker made fit for hints: quorum queues, confirms, no delays, no code chosen by a message."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import Any, NoReturn

import pika
from dramatiq import Message
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.middleware import Retries

from bus.errors import BusError, ConfigurationError, PublishError
from bus.ports import Telemetry
from bus.workers import wire
from bus.workers.connection import Node, parameters_of, tune
from bus.workers.consumer import HintConsumer
from bus.workers.publisher import CONFIRM_LIMIT, HintPublisher
from bus.workers.slots import Slots

SPREAD = timedelta(seconds=3)
"""Within this time, after the 3 s of Dramatiq, the queues of a lost broker are looked for again, each at its moment."""


class HintBroker(RabbitmqBroker):
    """Carries hints to the workers of this process and from every process; one per process, thread-safe.

    `url` is one AMQP URL or several nodes to try in turn. `queue_arguments` are the arguments of every queue that may
    be consumed, `concurrency` how many hints of a queue this process runs at once (publishing needs neither).

    Middleware is Retries alone, with no retry: without it Dramatiq 2.2.1 marks failures done. AgeLimit drops messages,
    Callbacks and Pipelines run actors that a message names, TimeLimit and ShutdownNotifications raise exceptions inside
    running threads, in mid-call to a target.
    """

    def __init__(
        self,
        url: str | Sequence[str | Node],
        *,
        queue_arguments: Mapping[str, Mapping[str, object]],
        concurrency: Mapping[str, int],
        telemetry: Telemetry,
        confirm_within: timedelta = CONFIRM_LIMIT,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """`jitter` is 0 to 1: which part of SPREAD a queue that was lost waits."""
        _check(concurrency, queue_arguments)
        # pika writes a traceback for every refused connection; what becomes of it is an event or an error of ours.
        logging.getLogger("pika").setLevel(logging.CRITICAL)
        super().__init__(url=[], confirm_delivery=True, middleware=[Retries(max_retries=0)])
        nodes = [url] if isinstance(url, str) else url
        self.parameters = [
            tune(pika.URLParameters(node) if isinstance(node, str) else parameters_of(node)) for node in nodes
        ]
        self.concurrency = dict(concurrency)
        self._queue_arguments = queue_arguments
        self._slots = {queue: Slots(limit) for queue, limit in concurrency.items()}
        self._telemetry = telemetry
        self._jitter = jitter
        self._lost: set[str] = set()
        self._ends = threading.Event()
        self._publisher = HintPublisher(self.parameters, confirm_within=confirm_within)

    @property
    def connection(self) -> NoReturn:
        """Refused: the library's connections per thread, and all its methods that use one, make classic queues."""
        raise BusError("Consumers and the hint publisher have connections of their own; there is none per thread.")

    def declare_queue(self, queue_name: str, *, ensure: bool = False) -> None:
        """Note that this process works on the queue; it is declared at the broker when it is consumed.

        Raises:
            ConfigurationError: nobody said how many at once.
        """
        if queue_name not in self.concurrency:
            raise ConfigurationError(f"The queue {queue_name} has no concurrency; known: {sorted(self.concurrency)}.")
        if queue_name not in self.queues:
            self.emit_before("declare_queue", queue_name)
            self.queues.add(queue_name)
            # Not after_declare_delay_queue: Dramatiq 2.2.1 would consume <queue>.DQ and hold its messages in memory.
            self.emit_after("declare_queue", queue_name)

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 5000) -> HintConsumer:
        """Consume the queue; `prefetch` is not used: Dramatiq's is twice the threads of all queues together.

        Raises:
            dramatiq.errors.ConnectionClosed: not reached, or the queue exists with other arguments.
        """
        if queue_name in self._lost:
            # Every queue of every process is lost in the same moment, and Dramatiq 2.2.1 (ConsumerThread.run) looks for
            # each again 3 s later to the moment.
            self._ends.wait(SPREAD.total_seconds() * self._jitter())
            self._lost.discard(queue_name)
        return HintConsumer(
            self.parameters,
            queue=queue_name,
            arguments=self._queue_arguments[queue_name],
            slots=self._slots[queue_name],
            patience=timedelta(milliseconds=timeout),
            telemetry=self._telemetry,
            on_loss=partial(self._lost.add, queue_name),
        )

    def drain(self) -> None:
        """From now on nobody waits here for a moment of its own: the process is to end."""
        self._ends.set()

    def enqueue(self, message: Message[Any], *, delay: int | None = None) -> Message[Any]:
        """Put the message on its queue; returns when the broker confirmed it. The queue is not created.

        Raises:
            ConfigurationError: a delay was asked for.
            Unroutable, PublishRefused, PublishError, BrokerUnavailable: it may not be there; logged.
        """
        if delay is not None:
            raise ConfigurationError("Dramatiq's delays are not used: the store knows what is due.")
        self.emit_before("enqueue", message, delay)
        try:
            self._publisher.publish(message.queue_name, wire.encode(message))
        except PublishError as error:
            self._telemetry.event("hint not put", queue=message.queue_name, error=str(error))
            raise
        self.emit_after("enqueue", message, delay)
        return message

    def close(self) -> None:
        """Close the publisher's connection; consumers are closed by their Worker."""
        self._publisher.close()


def _check(concurrency: Mapping[str, int], queue_arguments: Mapping[str, Mapping[str, object]]) -> None:
    for queue, limit in concurrency.items():
        if limit < 1:
            raise ConfigurationError(f"The queue {queue} has concurrency {limit}; expected at least 1.")
        if queue_arguments.get(queue, {}).get("x-queue-type") != "quorum":
            raise ConfigurationError(f"The queue {queue} is not in the topology as a quorum queue.")
