"""A Deadline: one span of time over all the steps of an exchange."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class Deadline:
    """A point on the monotonic clock."""

    ends_at: float

    @classmethod
    def after(cls, span: timedelta) -> Deadline:
        return cls(time.monotonic() + span.total_seconds())

    @property
    def remaining(self) -> float:
        """Seconds, never negative."""
        return max(0.0, self.ends_at - time.monotonic())

    def halved(self) -> Deadline:
        """For a step that must leave time to the next one."""
        return Deadline(time.monotonic() + self.remaining / 2)
