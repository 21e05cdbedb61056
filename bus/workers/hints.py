"""Wakes workers through Dramatiq: one confirmed hint per queue, and no harm done where the broker is away."""

from __future__ import annotations

from collections.abc import Collection

from dramatiq import Broker

from bus.errors import BrokerUnavailable, PublishError
from bus.ports import Telemetry
from bus.workers.wire import hint_for


class DramatiqHints:
    """Hints over Dramatiq; thread-safe. One that is lost costs time only: the relay sends another; the claim decides.

    Hints are not remembered: one that was put earlier may be consumed just before the new work is committed. Only
    callers that wait at the same moment for the same queue share one (`HintPublisher`).
    """

    def __init__(self, broker: Broker, *, telemetry: Telemetry) -> None:
        self._broker = broker
        self._telemetry = telemetry

    def wake(self, queues: Collection[str]) -> None:
        """Put one hint on each queue; returns when the broker confirmed, or its absence was logged."""
        left = sorted(set(queues))
        while left:
            try:
                self._broker.enqueue(hint_for(left[0]))
            except BrokerUnavailable as error:
                # It would be as far away for the next queue: the caller waits for one time limit, not for each.
                self._telemetry.event("hints not put", queues=left, error=str(error))
                return
            except PublishError:
                pass  # this queue only, and the broker's own event says so
            left = left[1:]
