"""When a failed delivery is tried again, with numbers."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from bus.model.retry import LONGEST_ASKED, RetryPolicy

SECOND = timedelta(seconds=1)
STEADY = RetryPolicy(first=SECOND * 2, factor=2.0, longest=SECOND * 60, jitter=0.0)


def test_delays_double_up_to_the_longest() -> None:
    delays = [STEADY.delay(attempts, jitter=0.0) / SECOND for attempts in range(1, 8)]

    assert delays == [2, 4, 8, 16, 32, 60, 60]


@pytest.mark.parametrize(("jitter", "seconds"), [(0.0, 8), (0.5, 10), (0.75, 11)])
def test_jitter_spreads_around_the_delay(jitter: float, seconds: float) -> None:
    policy = RetryPolicy(first=SECOND * 10, jitter=0.2)

    assert policy.delay(1, jitter=jitter) == SECOND * seconds


@pytest.mark.parametrize(("asked", "seconds"), [(SECOND * 1, 4), (SECOND * 90, 90), (None, 4)])
def test_what_the_target_asks_for_is_not_undercut(asked: timedelta | None, seconds: float) -> None:
    assert STEADY.delay(2, jitter=0.0, asked=asked) == SECOND * seconds


def test_nobody_is_waited_for_longer_than_a_year() -> None:
    assert STEADY.delay(1, jitter=0.0, asked=timedelta.max) == LONGEST_ASKED


def test_a_steep_policy_after_many_attempts_has_a_delay_too() -> None:
    steep = RetryPolicy(first=SECOND, factor=1e6, longest=SECOND * 60, jitter=0.0)

    assert steep.delay(10_000, jitter=0.0) == SECOND * 60


def test_the_first_attempt_counts() -> None:
    policy = RetryPolicy(max_attempts=2)

    assert [policy.is_spent(attempts) for attempts in (1, 2, 3)] == [False, True, True]


@pytest.mark.parametrize(
    "wrong", [{"max_attempts": 0}, {"factor": 0.5}, {"jitter": 1.0}, {"jitter": -0.1}, {"first": timedelta(0)}]
)
def test_a_policy_that_cannot_work_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="are expected"):
        RetryPolicy(**wrong)
