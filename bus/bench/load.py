"""Publishes orders for a contender, and watches them arrive in the MES's queues."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from bus.bench.frame import BenchFailure
from bus.bench.job import OUT, SITES
from bus.broker.address import read_addresses
from bus.broker.link import connect
from bus.broker.publisher import Publication, Publisher

AT_ONCE = 2000
"""Messages published between two looks at what became of them; 512 of them are on the way at a time."""
_QUORUM = {"x-queue-type": "quorum"}
_PATIENCE = timedelta(seconds=60)


def target(site: str) -> str:
    """The queue of a site's MES."""
    return f"mes.{site}"


def declare_queues(url: str, names: Sequence[str] = ()) -> None:
    """The MES's queues behind their exchange, and durable quorum queues with these names."""
    with _channel(url) as channel:
        channel.exchange_declare(OUT, "topic", durable=True, auto_delete=False)
        for name in (*names, *map(target, SITES)):
            channel.queue_declare(name, durable=True, auto_delete=False, arguments=_QUORUM)
        for site in SITES:
            channel.queue_bind(target(site), OUT, f"{site}.#")


def publish(publisher: Publisher, publications: Sequence[Publication]) -> None:
    """Publish in order, confirms pipelined.

    Raises:
        BenchFailure: the broker did not take one of them.
    """
    for first in range(0, len(publications), AT_ONCE):
        outcomes = publisher.publish_batch(publications[first : first + AT_ONCE], within=_PATIENCE)
        refused = [outcome for outcome in outcomes if outcome is not None]
        if refused:
            raise BenchFailure(f"{len(refused):,} orders could not be published; the first: {refused[0]}")


class Targets:
    """The MES's queues: how much is in them."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel

    def depth(self) -> int:
        """Messages that arrived. Quorum queues tell 0 while their leader is too busy to look."""
        return sum(int(self._channel.queue_declare(target(site), passive=True).message_count) for site in SITES)

    def empty(self) -> int:
        """Throw away what arrived; how many messages it was."""
        return sum(int(self._channel.queue_purge(target(site))) for site in SITES)


@contextmanager
def targets_at(url: str) -> Iterator[Targets]:
    with _channel(url) as channel:
        yield Targets(channel)


@contextmanager
def _channel(url: str) -> Iterator[Any]:
    connection = connect(read_addresses(url), name="plantbus bench")
    try:
        yield connection.channel()
    finally:
        connection.close()


def rabbitmq_version(url: str) -> str:
    connection = connect(read_addresses(url), name="plantbus bench")
    try:
        return str(connection.server_properties["version"])
    finally:
        connection.close()


def wait_until_due(due: float) -> None:
    """Sleep until the clock `time.monotonic` shows it."""
    while (remaining := due - time.monotonic()) > 0:
        time.sleep(remaining)
