"""The verdict of a soak: what grows on and on is found, what fills up or goes up and down is not."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.faults.soak import Watch

_MINUTE = 60


def watched(name: str, value_at: Callable[[int], float]) -> Watch:
    watch = Watch()
    for minute in range(30):
        watch.note(minute * _MINUTE, {name: value_at(minute)})
    return watch


@pytest.mark.parametrize("name", ["worker MB", "worker descriptors", "broker connections"])
def test_what_grows_on_and_on_is_found(name: str) -> None:
    (found,) = watched(name, lambda minute: 50 + 2 * minute).findings()

    assert str(found).startswith(f"I4 (unexplained): {name} grew by 38.0")


@pytest.mark.parametrize(
    "value_at",
    [lambda minute: min(50 + 20 * minute, 200), lambda minute: 50 + 10 * (minute % 2), lambda _: 50],
    ids=["fills-up-first", "up-and-down", "stays"],
)
def test_what_fills_up_first_or_goes_up_and_down_is_not_found(value_at: Callable[[int], float]) -> None:
    assert watched("relay MB", value_at).findings() == []


def test_a_soak_too_short_for_a_slope_finds_nothing() -> None:
    watch = Watch()
    watch.note(0, {"relay MB": 50})

    assert watch.findings() == []
