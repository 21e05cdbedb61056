"""What happened during the day, in words: what the day did, and what was seen at the bus."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.plant.ledger import Snapshot


@dataclass(frozen=True)
class Entry:
    """`seconds` since the day began."""

    seconds: float
    text: str

    def __str__(self) -> str:
        return f"{int(self.seconds) // 60:02d}:{self.seconds % 60:04.1f}  {self.text}"


class Story:
    """Entries in the order in which they happened; told from any thread."""

    def __init__(self, *, tell: Callable[[Entry], None] = lambda _: None) -> None:
        self.entries: list[Entry] = []
        self._began = time.monotonic()
        self._lock = threading.Lock()
        self._tell = tell
        self._last: Snapshot | None = None

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def say(self, text: str) -> None:
        with self._lock:
            entry = Entry(self.seconds, text)
            self.entries.append(entry)
        self._tell(entry)

    def notice(self, seen: Snapshot) -> None:
        """Say what changed at endpoints and lanes since the look before."""
        before, self._last = self._last, seen
        if before is None:
            return
        for name, now in seen.endpoints.items():
            if now.is_open and not before.endpoints[name].is_open:
                self.say(f"bus: {name} is back, its deliveries flow again")
            elif not now.is_open and before.endpoints[name].is_open:
                self.say(f"bus: {name} is {now.state} ({now.cause}), its deliveries are held")
        known = {(lane.name, lane.state) for lane in before.blocked}
        for lane in seen.blocked:
            if (lane.name, lane.state) not in known:
                self.say(f"bus: {lane.state} {lane.cause} at {lane.name}; later ones of this key wait, all others flow")
