"""What whoever runs the benchmarks asks of all of them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from bus.bench.frame import Pace

LONGEST = timedelta(minutes=10)
"""Of a round of a given size, as expected; it is given up after three times that."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    rounds: int = 3
    box: timedelta = timedelta(seconds=30)
    """How long a round takes, where nothing else says so."""
    messages: int = 100_000
    """How many there are where many are to be there at once."""
    history: int = 1_000_000
    """Finished messages in a store that is not empty."""
    watch: timedelta = timedelta(minutes=10)
    """How long memory is watched."""

    @property
    def pace(self) -> Pace:
        """Rounds that the box decides."""
        return Pace(rounds=self.rounds, box=self.box)

    def pace_of(self, messages: int) -> Pace:
        """Rounds of so many messages."""
        return Pace(rounds=self.rounds, box=LONGEST, messages=messages)


THOROUGH = Wanted()
QUICK = Wanted(rounds=1, box=timedelta(seconds=1), messages=1_000, history=10_000, watch=timedelta(seconds=10))
"""Shows that everything runs, within ten minutes; its numbers say little."""
