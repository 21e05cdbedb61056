"""What tests of the workers share: brokers of both kinds, an eye on the real RabbitMQ, and a recorder of events."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any, Self

import pika
from dramatiq import Actor, Broker, Worker
from dramatiq.broker import Consumer
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from pika.exceptions import ChannelClosedByBroker

from bus.model.topology import DEAD, NEVER
from bus.workers.actors import declare_actors
from bus.workers.broker import HintBroker
from bus.workers.wire import encode, hint_for

QUEUE = "send.mes-p100"
OTHER = "send.mes-p200"
ARGUMENTS: Mapping[str, object] = {
    "x-queue-type": "quorum",
    "x-delivery-limit": NEVER,
    "x-dead-letter-exchange": DEAD,
}
PATIENCE = 60.0  # seconds a test waits for what must come
QUIET = 1.5  # seconds a test waits for what must not come


class Recorder:
    """Telemetry that remembers, and that a test can wait for."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, object]]] = []
        self._changed = threading.Condition()

    def event(self, name: str, **fields: object) -> None:
        with self._changed:
            self.events.append((name, fields))
            self._changed.notify_all()

    def named(self, name: str) -> list[dict[str, object]]:
        return [fields for event, fields in list(self.events) if event == name]

    def wait_for(self, name: str, *, count: int = 1) -> dict[str, object]:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.named(name)) >= count, PATIENCE), self.events
        return self.named(name)[count - 1]


class Counter:
    """Counts calls, and lets a test wait for them."""

    def __init__(self) -> None:
        self.value = 0
        self._changed = threading.Condition()

    def count(self) -> None:
        with self._changed:
            self.value += 1
            self._changed.notify_all()

    def reaches(self, value: int, *, within: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self.value >= value, within)

    def wait_for(self, value: int) -> None:
        assert self.reaches(value, within=PATIENCE), self.value


def fail() -> None:
    raise RuntimeError("a bug")


def all_from(consumer: Consumer) -> int:
    """How many messages come until none came for a while."""
    count = quiet = 0
    while quiet < 3:
        came = next(consumer) is not None
        count += came
        quiet = 0 if came else quiet + 1
    return count


class Eye:
    """Looks at a vhost over a connection of its own, and puts things there."""

    def __init__(self, url: str) -> None:
        self._connection = pika.BlockingConnection(pika.URLParameters(url))
        self.channel = self._connection.channel()
        self.channel.confirm_delivery()
        self.channel.exchange_declare(DEAD, "fanout", durable=True)
        self.channel.queue_declare(DEAD, durable=True, arguments={"x-queue-type": "quorum"})
        self.channel.queue_bind(DEAD, DEAD)

    def declare(self, *queues: str) -> None:
        for queue in queues:
            self.channel.queue_declare(queue, durable=True, arguments=ARGUMENTS)

    def put(self, queue: str, *bodies: bytes) -> None:
        for body in bodies:
            self.channel.basic_publish("", queue, body, pika.BasicProperties(delivery_mode=2), mandatory=True)

    def hint(self, queue: str, count: int = 1) -> None:
        self.put(queue, *(encode(hint_for(queue)) for _ in range(count)))

    def ready(self, queue: str) -> int:
        """How many messages of the queue nobody holds."""
        count: int = self.channel.queue_declare(queue, passive=True).method.message_count
        return count

    def holds(self, queue: str, count: int, *, within: float = PATIENCE) -> bool:
        """Whether the queue comes to hold so many messages that nobody took."""
        return self._comes_true(lambda: self.ready(queue) == count, within)

    def is_there(self, queue: str) -> bool:
        return self._accepts(queue, passive=True)

    def is_declared_with(self, queue: str, arguments: Mapping[str, object]) -> bool:
        """RabbitMQ refuses a second declaration whose arguments differ."""
        return self._accepts(queue, durable=True, arguments=arguments)

    def take(self, queue: str, count: int) -> list[bytes]:
        """So many messages of the queue, waiting for them; fewer when they do not come."""
        taken: list[bytes] = []
        for method, _, body in self.channel.consume(queue, auto_ack=True, inactivity_timeout=PATIENCE):
            if method is None:
                break
            taken.append(body)
            if len(taken) == count:
                break
        self.channel.cancel()
        return taken

    def close(self) -> None:
        self._connection.close()

    def _comes_true(self, check: Callable[[], bool], within: float) -> bool:
        give_up_at = time.monotonic() + within
        while not check():
            if time.monotonic() > give_up_at:
                return False
            self._connection.process_data_events(time_limit=0.05)  # RabbitMQ tells nobody when a count changes
        return True

    def _accepts(self, queue: str, **declaration: Any) -> bool:
        channel = self._connection.channel()
        try:
            channel.queue_declare(queue, **declaration)
        except ChannelClosedByBroker:
            return False
        channel.close()
        return True


class Workbench:
    """Makes brokers of both kinds for one vhost and closes them."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.eye = Eye(url)
        self.recorder = Recorder()
        self._brokers: list[Broker] = []

    def ours(self, *, url: str = "", concurrency: Mapping[str, int] | None = None, **options: Any) -> HintBroker:
        limits = {QUEUE: 1} if concurrency is None else concurrency
        broker = HintBroker(
            url or self.url,
            queue_arguments=dict.fromkeys(limits, ARGUMENTS),
            concurrency=limits,
            telemetry=self.recorder,
            **options,
        )
        self._brokers.append(broker)
        return broker

    def plain(self, *, url: str = "", **options: Any) -> RabbitmqBroker:
        """The library's class as it comes."""
        broker = RabbitmqBroker(url=url or self.url, **options)
        self._brokers.append(broker)
        return broker

    def declare(self, broker: Broker, work: Mapping[str, Callable[[], None]]) -> None:
        """The same actors on either kind of broker."""
        if isinstance(broker, HintBroker):
            declare_actors(broker, work, telemetry=self.recorder)
            return
        for queue, do in work.items():
            Actor(_ignoring_arguments(do), broker=broker, actor_name=queue, queue_name=queue, priority=0, options={})

    @contextlib.contextmanager
    def working(
        self, broker: Broker, work: Mapping[str, Callable[[], None]], *, threads: int | None = None
    ) -> Iterator[Worker]:
        self.declare(broker, work)
        worker = Worker(broker, worker_threads=threads or len(work), worker_timeout=50)
        worker.start()
        try:
            yield worker
        finally:
            worker.stop(timeout=int(timedelta(seconds=2).total_seconds() * 1000))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for broker in self._brokers:
            broker.close()
        self.eye.close()


def _ignoring_arguments(do: Callable[[], None]) -> Callable[..., None]:
    def work(*_: object, **__: object) -> None:
        do()

    return work
