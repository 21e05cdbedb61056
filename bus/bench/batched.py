"""One queue read in batches over plain py-amqp, what becomes of it published with pipelined confirms."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any
from urllib.parse import unquote, urlsplit

from amqp import Connection, Message, spec

BATCH = 512
"""Messages handled together; of 256, 512 and 1024 none was faster in every run."""
_LOOK = 0.001  # seconds
_TICK = 0.5  # seconds


@dataclass(frozen=True)
class Onward:
    """A message to publish."""

    exchange: str
    routing_key: str
    body: bytes
    message_id: str


Work = Callable[[Sequence[Any]], list[Onward]]
"""What is done with a batch before it is published onward and acknowledged."""


class Hop:
    """Reads a queue until SIGTERM. A batch is acknowledged when the broker confirmed all that was made of it."""

    def __init__(
        self, url: str, queue: str, work: Work, *, done: Callable[[Sequence[Any]], None] = lambda batch: None
    ) -> None:
        """`done` is called with a batch when all of it is confirmed, before it is acknowledged."""
        self._work = work
        self._done = done
        self._arrived: list[Any] = []
        self._published = 0
        self._unconfirmed: dict[int, None] = {}  # tags, in their order
        self._stopped = False
        signal.signal(signal.SIGTERM, self._stop)
        parts = urlsplit(url)
        self._connection: Any = Connection(
            host=f"{parts.hostname}:{parts.port}",
            userid=unquote(parts.username or ""),
            password=unquote(parts.password or ""),
            virtual_host=unquote(parts.path[1:]),
        )
        self._connection.connect()
        self._channel = self._connection.channel()
        self._channel.auto_decode = False
        self._channel.events["basic_ack"].add(self._confirmed)
        self._channel.events["basic_nack"].add(self._refused)
        self._channel.confirm_select()
        self._channel.basic_qos(0, BATCH * 2, False)
        self._channel.basic_consume(queue, callback=self._arrived.append)

    def run(self) -> None:
        while not self._stopped:
            batch = self._next_batch()
            if batch:
                for onward in self._work(batch):
                    self._publish(onward)
                while self._unconfirmed:
                    self._drain(_TICK)
                self._done(batch)
                self._channel.basic_ack(batch[-1].delivery_tag, multiple=True)
        self._connection.close()

    def _next_batch(self) -> list[Any]:
        """Waits for the first message and takes what is there behind it."""
        if not self._arrived:
            self._drain(_TICK)
        while self._arrived and len(self._arrived) < BATCH and self._drain(_LOOK):
            pass
        batch = self._arrived[:BATCH]
        del self._arrived[:BATCH]
        return batch

    def _publish(self, onward: Onward) -> None:
        message = Message(onward.body, delivery_mode=2, message_id=onward.message_id, content_type="application/json")
        self._published += 1
        self._unconfirmed[self._published] = None
        # Not basic_publish: it looks for something to read before every message.
        self._channel.send_method(
            spec.Basic.Publish, "Bssbb", (0, onward.exchange, onward.routing_key, True, False), message
        )

    def _confirmed(self, tag: int, multiple: bool) -> None:
        for known in list(takewhile(lambda each: each <= tag, self._unconfirmed)) if multiple else [tag]:
            del self._unconfirmed[known]

    def _refused(self, tag: int, multiple: bool) -> None:
        raise RuntimeError("the broker could not keep a message: it is not acknowledged, and comes again")

    def _drain(self, within: float) -> bool:
        try:
            self._connection.drain_events(timeout=within)
        except TimeoutError:
            return False
        return True

    def _stop(self, *_: object) -> None:
        self._stopped = True
