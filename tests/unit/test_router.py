"""The router's pace: a slow batch keeps its connection, the one after it is smaller, small ones keep a distance."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Collection, Sequence
from datetime import timedelta

import pytest
from loguru import logger as log

from bus.broker.consumer import Consumer
from bus.broker.router import SPACING, next_limit, run_router
from bus.errors import StoreRefuses
from bus.model.envelope import Envelope


class ScriptedConsumer(Consumer):
    """Hands out one message and notes from which threads it is used."""

    def __init__(self) -> None:
        super().__init__("amqp://nobody:nothing@localhost/", "a queue")
        self.waiting = [Envelope(routing_key="a", body=b"")]
        self.kept_alive = threading.Event()
        self.acknowledged = False
        self.threads: set[int] = set()
        self.asked_at: list[float] = []

    def next_batch(self, *, limit: int, max_bytes: int, wait: timedelta) -> list[Envelope]:
        self.threads.add(threading.get_ident())
        self.asked_at.append(time.monotonic())
        batch, self.waiting = self.waiting, []
        return batch

    def keep_alive(self) -> None:
        self.threads.add(threading.get_ident())
        self.kept_alive.set()

    def ack(self, envelope: Envelope) -> bool:
        self.threads.add(threading.get_ident())
        self.acknowledged = True
        return True


def test_the_connection_is_kept_alive_from_its_own_thread_while_a_batch_is_received() -> None:
    consumer, stop = ScriptedConsumer(), threading.Event()

    def receive(batch: Sequence[Envelope]) -> Collection[str]:
        assert consumer.kept_alive.wait(10)
        stop.set()
        return ()

    run_router(consumer, receive, lambda queues: None, stop)

    assert consumer.acknowledged
    assert consumer.threads == {threading.get_ident()}


def test_what_comes_behind_a_small_batch_may_gather() -> None:
    consumer, stop = ScriptedConsumer(), threading.Event()
    began: list[float] = []

    def receive(batch: Sequence[Envelope]) -> Collection[str]:
        began.append(time.monotonic())
        if len(began) == 3:
            stop.set()
        else:
            consumer.waiting = [Envelope(routing_key="a", body=b"")]
        return ()

    run_router(consumer, receive, lambda queues: None, stop)

    first, *later = consumer.asked_at
    assert all(after - before >= SPACING.total_seconds() for before, after in itertools.pairwise([first, *later]))
    assert len(later) == 2


def test_a_store_that_refuses_for_good_ends_the_router_with_a_sentence() -> None:
    consumer, said = ScriptedConsumer(), list[str]()

    def receive(batch: Sequence[Envelope]) -> Collection[str]:
        raise StoreRefuses("store: permission denied for table message")

    sink = log.add(lambda message: said.append(message.record["message"]), format="{message}")
    run_router(consumer, receive, lambda queues: None, threading.Event())
    log.remove(sink)

    assert not consumer.acknowledged
    assert said == ["router ends: the store refuses"]


def test_an_error_of_receive_ends_the_router_unacknowledged() -> None:
    consumer = ScriptedConsumer()

    def receive(batch: Sequence[Envelope]) -> Collection[str]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_router(consumer, receive, lambda queues: None, threading.Event())

    assert not consumer.acknowledged


@pytest.mark.parametrize(
    ("most", "received", "seconds", "then"),
    [(256, 200, 3.0, 100), (1, 1, 60.0, 1), (100, 100, 1.0, 100), (100, 100, 0.1, 200), (200, 1, 0.1, 256)],
)
def test_a_slow_batch_makes_the_next_one_smaller_and_quick_ones_larger_again(
    most: int, received: int, seconds: float, then: int
) -> None:
    assert next_limit(most, received, seconds, limit=256) == then
