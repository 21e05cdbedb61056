"""A queue whose target hangs holds its own share of the threads, and the others keep all of their throughput."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from dramatiq import Broker

from tests.services import Vhost
from tests.system.tcp_line import TcpLine
from tests.system.workbench import OTHER, QUEUE, QUIET, Workbench

HANGS = 30.0
CONCURRENCY = 2
HINTS = 200


@pytest.fixture
def bench(vhost: Vhost) -> Iterator[Workbench]:
    with Workbench(vhost.amqp_url) as bench:
        yield bench


class Target:
    """A system that answers once `answers` is set, at most after 30 s; knows how many calls it holds."""

    def __init__(self, *, hangs: bool) -> None:
        self.answers = threading.Event()
        if not hangs:
            self.answers.set()
        self.held = self.most_held = self.done = 0
        self._changed = threading.Condition()

    def call(self) -> None:
        with self._changed:
            self.held += 1
            self.most_held = max(self.held, self.most_held)
            self._changed.notify_all()
        self.answers.wait(HANGS)
        with self._changed:
            self.held -= 1
            self.done += 1
            self._changed.notify_all()

    def is_holding(self, count: int, *, within: float = HANGS) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self.held >= count, within)

    def has_done(self, count: int, *, within: float = HANGS) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self.done >= count, within)


def test_a_queue_that_hangs_holds_its_own_threads_only_and_slows_no_other(bench: Workbench) -> None:
    alone = time_for_the_other_queue(bench, beside=Target(hangs=False))
    slow = Target(hangs=True)

    beside_a_slow_one = time_for_the_other_queue(bench, beside=slow)

    assert slow.most_held == CONCURRENCY
    # All of its throughput, with room for the noise of a busy machine: starving would take 30 s.
    assert beside_a_slow_one < 2 * alone + 1


def test_a_queue_that_hangs_gets_no_more_threads_after_its_connection_was_lost(bench: Workbench, vhost: Vhost) -> None:
    slow, quick = Target(hangs=True), Target(hangs=False)
    with TcpLine(vhost.amqp_url) as line:
        broker = bench.ours(url=line.url, concurrency={QUEUE: CONCURRENCY, OTHER: CONCURRENCY})
        with hanging(bench, broker, slow, quick):
            assert slow.is_holding(CONCURRENCY)

            line.cut()
            bench.eye.hint(OTHER, HINTS)

            assert quick.has_done(HINTS)
            assert not slow.is_holding(CONCURRENCY + 1, within=QUIET)


def test_the_plain_broker_lets_one_slow_queue_take_all_threads(bench: Workbench) -> None:
    slow, quick = Target(hangs=True), Target(hangs=False)
    broker = bench.plain()
    for queue in (QUEUE, OTHER):
        broker.consume(queue).close()
    with hanging(bench, broker, slow, quick):
        assert slow.is_holding(2 * CONCURRENCY)

        bench.eye.hint(OTHER)

        assert not quick.has_done(1, within=QUIET)


def time_for_the_other_queue(bench: Workbench, *, beside: Target) -> float:
    quick = Target(hangs=False)
    bench.eye.declare(QUEUE, OTHER)
    with hanging(bench, bench.ours(concurrency={QUEUE: CONCURRENCY, OTHER: CONCURRENCY}), beside, quick):
        assert beside.is_holding(CONCURRENCY) if not beside.answers.is_set() else beside.has_done(10)
        began = time.monotonic()
        bench.eye.hint(OTHER, HINTS)
        assert quick.has_done(HINTS)
        took = time.monotonic() - began
    bench.eye.channel.queue_purge(QUEUE)
    return took


@contextmanager
def hanging(bench: Workbench, broker: Broker, slow: Target, quick: Target) -> Iterator[None]:
    """Work on both queues with the threads of both together, while hints for the slow one wait."""
    if hasattr(broker, "concurrency"):
        bench.eye.declare(QUEUE, OTHER)
    bench.eye.hint(QUEUE, 10)
    with bench.working(broker, {QUEUE: slow.call, OTHER: quick.call}, threads=2 * CONCURRENCY):
        try:
            yield
        finally:
            slow.answers.set()
