"""When a failed delivery is tried again: a policy, and a pure function of attempt, jitter and what the target asked."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

LONGEST_ASKED = timedelta(days=366)
"""A target that asks for more is not taken at its word."""


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """Exponential delays with jitter. `max_attempts` counts the first one too."""

    max_attempts: int = 8
    first: timedelta = timedelta(seconds=2)
    factor: float = 2.0
    longest: timedelta = timedelta(minutes=10)
    jitter: float = 0.2
    """Share of the delay that is drawn: 0.2 spreads it over 80 % to 120 %."""

    def __post_init__(self) -> None:
        if self.max_attempts < 1 or self.factor < 1 or not 0 <= self.jitter < 1 or self.first <= timedelta(0):
            raise ValueError(f"{self}: max_attempts ≥ 1, factor ≥ 1, 0 ≤ jitter < 1 and first > 0 are expected")

    def is_spent(self, attempts: int) -> bool:
        """Whether no attempt is left after this many."""
        return attempts >= self.max_attempts

    def delay(self, attempts: int, *, jitter: float, asked: timedelta | None = None) -> timedelta:
        """How long to wait after the attempts-th one; `jitter` in [0, 1).

        `asked` (Retry-After) is not undercut, but nobody is waited for longer than LONGEST_ASKED.
        """
        seconds, longest = self.first.total_seconds(), self.longest.total_seconds()
        for _ in range(min(attempts - 1, 1024)):
            if seconds >= longest:
                break
            seconds *= self.factor
        seconds = min(seconds, longest)
        drawn = timedelta(seconds=seconds * (1 + self.jitter * (2 * jitter - 1)))
        return max(drawn, min(asked, LONGEST_ASKED)) if asked is not None else drawn
