"""Periods of the store are called by the months, by UTC, whose messages they hold."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from bus.store.periods import last_month, month_of, name_of


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("began", "closed", "name", "last"),
    [
        ("2026-01-01T00:00:40", "2026-02-01T00:00:20", "2026-01", "2026-01"),
        ("2026-01-17T12:00:00", "2026-02-01T00:00:20", "2026-01", "2026-01"),
        ("2026-01-01T00:00:40", "2026-02-20T08:00:00", "2026-01 to 2026-02", "2026-02"),
        ("2025-11-03T00:00:00", "2026-02-01T03:00:00", "2025-11 to 2026-01", "2026-01"),
        ("2026-02-01T00:00:20", "2026-02-01T00:00:30", "2026-02", "2026-02"),
    ],
)
def test_a_closed_period_is_named_by_the_months_it_holds(began: str, closed: str, name: str, last: str) -> None:
    assert name_of(at(began), at(closed)) == name
    assert last_month(at(began), at(closed)) == last


def test_the_open_period_is_named_by_the_month_it_began_in() -> None:
    assert name_of(at("2026-03-01T00:00:10"), None) == "2026-03"


def test_months_are_by_utc() -> None:
    assert month_of(datetime(2026, 1, 1, 0, 30, tzinfo=timezone(timedelta(hours=1)))) == "2025-12"
