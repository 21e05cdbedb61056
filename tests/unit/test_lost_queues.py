"""A queue whose broker is lost is looked for again at a moment of its own."""

from __future__ import annotations

import socket

import pytest
from dramatiq.errors import ConnectionClosed

from bus.testing import RecordedTelemetry
from bus.workers.broker import HintBroker

QUEUE = "send.erp"


class Draws:
    """Chances that are counted; all of them are none."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> float:
        self.count += 1
        return 0.0


def test_a_queue_that_was_lost_draws_the_moment_when_it_is_looked_for_again() -> None:
    draws = Draws()
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # does not listen: every connection is refused
        broker = HintBroker(
            f"amqp://127.0.0.1:{nobody.getsockname()[1]}/",
            queue_arguments={QUEUE: {"x-queue-type": "quorum"}},
            concurrency={QUEUE: 1},
            telemetry=RecordedTelemetry(),
            jitter=draws,
        )
        drawn = []
        for _ in range(3):
            with pytest.raises(ConnectionClosed):
                broker.consume(QUEUE)
            drawn.append(draws.count)

    assert drawn == [0, 1, 2]
