"""How many messages of one queue a process runs at once, over all consumers the queue has had."""

from __future__ import annotations

import threading


class Slots:
    """At most `limit` hints of a queue are on their way through the worker's threads; thread-safe.

    A hint (its consumer and delivery tag) holds its slot from the moment it is taken from the broker until it is
    settled, even where its consumer was lost meanwhile: the thread that runs it is still busy.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._held: set[tuple[object, int]] = set()
        self._lock = threading.Lock()

    def take(self, consumer: object, tag: int) -> None:
        with self._lock:
            self._held.add((consumer, tag))

    def give_back(self, consumer: object, tag: int) -> bool:
        """Whether the hint held a slot until now: False for one that is settled a second time."""
        with self._lock:
            held = (consumer, tag) in self._held
            self._held.discard((consumer, tag))
            return held

    def is_free(self) -> bool:
        with self._lock:
            return len(self._held) < self.limit

    def left_by_others(self, consumer: object) -> int:
        """How many slots the hints of other, older consumers leave to this one."""
        with self._lock:
            return self.limit - sum(holder is not consumer for holder, _ in self._held)
