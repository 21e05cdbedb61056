"""How periods of the store are called: by months, by UTC."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

ON_TIME = timedelta(days=1)
"""A turn within this of the month's beginning closes the month before, though some minutes of the new one are in it."""


def month_of(moment: datetime) -> str:
    """The month, as people write it: 2026-01."""
    return f"{moment.astimezone(UTC):%Y-%m}"


def last_month(began_at: datetime, closed_at: datetime) -> str:
    """The last month whose messages a closed period holds."""
    return max(month_of(began_at), month_of(closed_at - ON_TIME))


def name_of(began_at: datetime, closed_at: datetime | None) -> str:
    """A period as people call it: by its month, or by its first and last where nobody turned them in time."""
    first = month_of(began_at)
    last = first if closed_at is None else last_month(began_at, closed_at)
    return first if first == last else f"{first} to {last}"
