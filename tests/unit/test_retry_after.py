"""Retry-After, as targets write it and as they should not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import httpx
import pytest

from bus.connectors.http_outcome import LONGEST_RETRY_AFTER, retry_after

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "span"),
    [
        ("0", timedelta(0)),
        ("30", timedelta(seconds=30)),
        (" 30 ", timedelta(seconds=30)),
        ("Sun, 01 Mar 2026 12:02:00 GMT", timedelta(minutes=2)),
        ("Sunday, 01-Mar-26 12:02:00 GMT", timedelta(minutes=2)),
        ("Sun, 01 Mar 2026 11:00:00 GMT", timedelta(0)),
        ("Fri, 01 Mar 2999 12:00:00 GMT", LONGEST_RETRY_AFTER),
        ("9" * 5000, LONGEST_RETRY_AFTER),
        ("86401", LONGEST_RETRY_AFTER),
        ("-5", None),
        ("soon", None),
        ("1.5", None),
        ("²", None),
        ("", None),
        ("Sun, 99 Mar 2026 12:00:00 GMT", None),
    ],
)
def test_it_is_read_or_left_out(value: str, span: timedelta | None) -> None:
    assert retry_after(httpx.Headers([(b"Retry-After", value.encode())]), now=NOW) == span


def test_a_date_is_measured_from_the_answer_s_own_date() -> None:
    headers = httpx.Headers({"Retry-After": "Sun, 01 Mar 2026 09:01:00 GMT", "Date": "Sun, 01 Mar 2026 09:00:00 GMT"})

    assert retry_after(headers, now=NOW) == timedelta(minutes=1)


def test_without_the_header_there_is_nothing_to_honour() -> None:
    assert retry_after(httpx.Headers(), now=NOW) is None
