"""Puts hints on their queues, each confirmed, from one thread that keeps its connection alive."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import timedelta
from queue import Empty, SimpleQueue

import pika
from pika.exceptions import ChannelClosedByBroker, NackError, UnroutableError

from bus.errors import BrokerUnavailable, PublishError, PublishRefused, Unroutable
from bus.workers import connection
from bus.workers.connection import LOST

CONFIRM_LIMIT = timedelta(seconds=5)


@dataclass(frozen=True)
class _Request:
    queue: str
    body: bytes
    done: Future[None] = field(default_factory=Future)


class HintPublisher:
    """Publishes for every thread of the process over one connection, which only its own thread touches.

    Dramatiq 2.2.1 (RabbitmqBroker.connection) opens one per calling thread, keeps it after the thread ended and serves
    no heartbeats on it; pika 1.4.4 (BlockingChannel.basic_publish) waits for a confirm without limit. With a thread in
    between the connection lives while idle and no caller waits longer than `confirm_within`.
    """

    def __init__(
        self, parameters: Sequence[pika.connection.Parameters], *, confirm_within: timedelta = CONFIRM_LIMIT
    ) -> None:
        self._parameters = parameters
        self._confirm_within = confirm_within.total_seconds()
        self._serve_every = min(each.heartbeat for each in parameters) / 6  # an idle connection must answer heartbeats
        self._inbox: SimpleQueue[_Request | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._busy_since: float | None = None
        self._connection: pika.BlockingConnection | None = None
        self._channel: pika.adapters.blocking_connection.BlockingChannel | None = None

    def publish(self, queue: str, body: bytes) -> None:
        """Put a persistent hint on the queue; returns when the broker confirmed that it, or one like it, is there.

        Callers that wait for the same queue at the same time share one hint.

        Raises:
            Unroutable: there is no such queue.
            PublishRefused: the broker does not let this user do that.
            BrokerUnavailable: not reached or not confirmed in time; the hint may still arrive.
            PublishError: the broker could not keep it.
        """
        request = _Request(queue, body)
        self._ensure_thread()
        self._inbox.put(request)
        try:
            request.done.result(timeout=self._patience())
        except TimeoutError:
            request.done.cancel()
            raise BrokerUnavailable(
                f"The broker did not confirm a hint on {queue} within {self._confirm_within:g} s: "
                "it is overloaded, blocks publishers (memory or disk alarm) or lost the majority of the queue's nodes."
            ) from None

    def close(self) -> None:
        """Publish what is waiting, close the connection, end the thread; the next publish starts them again."""
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is not None:
            self._inbox.put(None)
            thread.join(self._confirm_within)

    def _ensure_thread(self) -> None:
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="hint-publisher", daemon=True)
                self._thread.start()

    def _patience(self) -> float:
        # Who comes while the thread hangs with another hint waits only for what is left of that one's time.
        began = self._busy_since
        return self._confirm_within if began is None else max(0.0, began + self._confirm_within - time.monotonic())

    def _run(self) -> None:
        goes_on = True
        while goes_on:
            try:
                request = self._inbox.get(timeout=None if self._connection is None else self._serve_every)
            except Empty:
                self._serve_heartbeats()
                continue
            goes_on = self._answer(request)
        self._drop_connection()

    def _answer(self, first: _Request | None) -> bool:
        """Answer this request and all that wait behind it, one hint per queue; False after the word to end."""
        waiting: dict[str, list[_Request]] = {}
        request = first
        while request is not None:
            waiting.setdefault(request.queue, []).append(request)
            try:
                request = self._inbox.get_nowait()
            except Empty:
                break
        for queue, requests in waiting.items():
            self._busy_since = time.monotonic()
            self._put_for_all(queue, [each for each in requests if each.done.set_running_or_notify_cancel()])
            self._busy_since = None
        return request is not None

    def _put_for_all(self, queue: str, requests: list[_Request]) -> None:
        if not requests:
            return
        try:
            self._put(queue, requests[0].body)
        except Exception as error:  # noqa: BLE001 - each caller gets it; this thread has to serve the next ones
            for each in requests:
                each.done.set_exception(error)
        else:
            for each in requests:
                each.done.set_result(None)

    def _put(self, queue: str, body: bytes) -> None:
        was_open = self._connection is not None
        try:
            self._publish(queue, body)
        except BrokerUnavailable:
            if not was_open:
                raise
            # A connection that died while idle says nothing about the broker. The hint may come twice: no harm.
            self._publish(queue, body)

    def _publish(self, queue: str, body: bytes) -> None:
        try:
            if self._channel is None:
                self._open()
            assert self._channel is not None
            self._channel.basic_publish("", queue, body, pika.BasicProperties(delivery_mode=2), mandatory=True)
        except UnroutableError as error:
            raise Unroutable(f"There is no queue {queue}: run `bus topology apply`.") from error
        except NackError as error:
            # RabbitMQ 3.10 goes on to nack on an AMQP channel whose first message met a queue without a leader.
            self._drop_connection()
            raise PublishError(f"The broker could not keep a hint on {queue}.") from error
        except ChannelClosedByBroker as error:
            self._drop_connection()
            raise PublishRefused(
                f"The broker refuses a hint on {queue}: {error.reply_code} {error.reply_text}"
            ) from error
        except LOST as error:
            self._drop_connection()
            raise BrokerUnavailable(f"The broker cannot be reached: {error!r}") from error

    def _open(self) -> None:
        self._connection = connection.connect(self._parameters, name="plantbus hints")
        self._channel = self._connection.channel()
        self._channel.confirm_delivery()

    def _serve_heartbeats(self) -> None:
        try:
            if self._connection is not None:
                self._connection.process_data_events(time_limit=0)
        except LOST:
            self._drop_connection()

    def _drop_connection(self) -> None:
        dropped, self._connection, self._channel = self._connection, None, None
        try:
            if dropped is not None and dropped.is_open:
                dropped.close()
        except LOST:
            return  # it is gone, which is what was wanted
