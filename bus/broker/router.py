"""The router: reads a queue, has each batch received, and acknowledges it only then."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from datetime import timedelta

from loguru import logger as log

from bus.broker.consumer import Consumer
from bus.crash_points import crash_point
from bus.errors import StoreConflict, StoreRefuses, StoreUnavailable
from bus.model.envelope import Envelope

BATCH = 256
BATCH_BYTES = 4 * 1024 * 1024

SPACING = timedelta(milliseconds=20)
"""From the beginning of one batch to that of the next, where the first was not full.

What arrives meanwhile then shares the transactions and hints of every hop, whose cost does not depend on how many they
are for: at a hundred messages a second that is the difference between a busy machine and one with room.
"""

_WAIT = timedelta(seconds=1)
_FIRST_PAUSE = 0.2  # seconds
_LONGEST_PAUSE = 15.0  # seconds
_TICK = 1.0  # seconds
_SLOW = 2.0  # seconds; work between two acknowledgements should take no longer
_QUICK = 0.5  # seconds

Receive = Callable[[Sequence[Envelope]], Collection[str]]
"""Keeps a batch; returns after its commit, with the queues that have work now. Safe to call twice."""

Begin = Callable[[Sequence[Envelope]], Future[Collection[str]]]
"""Has a batch received in another thread."""

Wake = Callable[[Collection[str]], None]
"""Puts hints on queues; never raises for a broker that is away."""


def run_router(
    consumer: Consumer,
    receive: Receive,
    wake: Wake,
    stop: threading.Event,
    *,
    limit: int = BATCH,
    max_bytes: int = BATCH_BYTES,
) -> None:
    """Receive batch after batch until `stop` is set, then close the consumer.

    While the store is away nothing is acknowledged and everything waits at the broker. Every other error of `receive`
    ends the router with its batch unacknowledged; one of a store that refuses for good does so with a sentence.
    `receive` runs in a thread of its own, one call at a time, while the connection is kept alive; the next batch after
    a slow one is smaller. Batches that are not full begin at least SPACING apart.
    """
    helper = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"receive {consumer.queue}")
    most = limit

    def begin(batch: Sequence[Envelope]) -> Future[Collection[str]]:
        return helper.submit(receive, batch)

    due = 0.0
    try:
        while not stop.wait(max(due - time.monotonic(), 0.0)):
            batch = consumer.next_batch(limit=most, max_bytes=max_bytes, wait=_WAIT)
            if not batch:
                continue
            began = time.monotonic()
            due = began + SPACING.total_seconds() if len(batch) < most else began
            queues = _received(batch, consumer, begin, stop)
            most = next_limit(most, len(batch), time.monotonic() - began, limit=limit)
            # Ack after the commit: a crash before this line redelivers, and receive() may see a message twice.
            if queues is not None:
                consumer.ack(batch[-1])
                crash_point("receive.after_ack", holding=len(batch))
                wake(queues)
    except StoreRefuses as error:
        log.error("router ends: the store refuses", queue=consumer.queue, cause=str(error))
    finally:
        helper.shutdown()
        consumer.close()


def next_limit(most: int, received: int, seconds: float, *, limit: int) -> int:
    """How many messages the next batch may hold, after `received` of at most `most` took that long."""
    if seconds > _SLOW:
        return max(1, received // 2)
    return min(limit, most * 2) if seconds < _QUICK else most


def _received(
    batch: Sequence[Envelope], consumer: Consumer, begin: Begin, stop: threading.Event
) -> Collection[str] | None:
    """The queues to wake once the batch is kept. None: stopped before, or the broker will send it again."""
    failures = 0
    while True:
        try:
            queues = _result(begin(batch), consumer)
        except (StoreUnavailable, StoreConflict) as error:
            failures += 1
            log.warning("router waits for the store", queue=consumer.queue, cause=str(error), failures=failures)
        else:
            if failures:
                log.info("router found the store again", queue=consumer.queue)
            return queues
        longest = min(_FIRST_PAUSE * 2.0 ** min(failures, 10), _LONGEST_PAUSE)
        _pause(longest * random.uniform(0.5, 1), consumer, stop)  # noqa: S311  # jitter, no secret
        if stop.is_set() or not consumer.holds(batch[-1]):
            return None


def _result(receiving: Future[Collection[str]], consumer: Consumer) -> Collection[str]:
    # A batch that takes long must not cost the connection: its acknowledgement would fail and all of it come again.
    while not wait([receiving], timeout=_TICK).done:
        consumer.keep_alive()
    return receiving.result()


def _pause(seconds: float, consumer: Consumer, stop: threading.Event) -> None:
    while seconds > 0 and not stop.wait(min(seconds, _TICK)):
        consumer.keep_alive()
        seconds -= _TICK
