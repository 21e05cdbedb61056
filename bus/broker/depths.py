"""How many messages wait in queues: asked passively, over one connection that is kept between two looks."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from amqp.exceptions import NotFound

from bus.broker.address import read_addresses
from bus.broker.link import LOST, connect, drop
from bus.errors import BrokerUnavailable


class Depths:
    """Looks at queues from one thread; a look every few seconds keeps the heartbeats going."""

    def __init__(self, url: str) -> None:
        self._addresses = read_addresses(url)
        self._connection: Any = None

    def empty(self, queues: Collection[str]) -> set[str]:
        """Those of the queues in which nothing is ready; none of them while the broker is away."""
        try:
            return {queue for queue in queues if self._is_empty(queue)}
        except (BrokerUnavailable, *LOST):
            self.close()
            return set()

    def _is_empty(self, queue: str) -> bool:
        if self._connection is None:
            self._connection = connect(self._addresses, name="plantbus relay")
        try:
            with self._connection.channel() as channel:
                return int(channel.queue_declare(queue, passive=True).message_count) == 0
        except NotFound:  # closes this channel only; `bus topology diff` tells
            return False

    def close(self) -> None:
        """Give the connection up; the next look opens another."""
        if self._connection is not None:
            drop(self._connection)
            self._connection = None
