"""Looks at the ledger again and again; whoever waits for something is told at each look."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from bus.errors import BusError
from tests.plant.launch import PlantTrouble
from tests.plant.ledger import Ledger, Snapshot

PACE = 0.25
"""Seconds between two looks."""


class Watch:
    """A thread that looks, while the block runs. `trouble` says why waiting is useless, or nothing."""

    def __init__(
        self, ledger: Ledger, *, trouble: Callable[[], str], seen: Callable[[Snapshot], None] = lambda _: None
    ) -> None:
        self.latest = ledger.look()
        self._ledger = ledger
        self._trouble = trouble
        self._seen = seen
        self._failure = ""
        self._look = threading.Condition()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def until(self, holds: Callable[[Snapshot], object], *, within: float, what: str) -> Snapshot:
        """Wait for a look of which this holds; gives that look.

        Raises:
            PlantTrouble: it did not hold in time, or cannot any more; says what was waited for and what was seen.
        """
        give_up_at = time.monotonic() + within
        seen = self.latest
        while not holds(seen):
            if why := self._trouble() or self._failure:
                raise PlantTrouble(f"{why}\nNot reached because of it: {what}.")
            if time.monotonic() > give_up_at:
                raise PlantTrouble(f"not within {within:g} s: {what}; last seen: {seen}")
            seen = self._next(seen)
        return seen

    def fresh(self) -> Snapshot:
        """A look that began after this call."""
        now = time.monotonic()
        return self.until(lambda seen: seen.at > now, within=60, what="the ledger can be read")

    def _next(self, seen: Snapshot) -> Snapshot:
        with self._look:
            self._look.wait_for(lambda: self.latest is not seen or self._failure, timeout=5)
            return self.latest

    def _run(self) -> None:
        while not self._stop.wait(PACE):
            try:
                latest = self._ledger.look()
            except BusError as error:
                self._tell(self.latest, f"the ledger cannot be read: {error}")
                return
            self._tell(latest, "")
            self._seen(latest)

    def _tell(self, latest: Snapshot, failure: str) -> None:
        with self._look:
            self.latest, self._failure = latest, failure
            self._look.notify_all()
