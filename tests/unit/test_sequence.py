"""Sequence numbers as values: which are missing, and what a receipt says of its own."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.model.contract import Contracts
from bus.model.sequence import Stream, missing_between, place_stated
from tests.small_project import CONTRACTS

KEY = "P1.mes-1.test.step.v1"
STREAM = Stream("mes-1", "P1", "order:1")

numbers = st.integers(0, 30)


@given(first=numbers, last=numbers, known=st.sets(numbers))
def test_what_is_missing_is_everything_between_that_is_not_known(first: int, last: int, known: set[int]) -> None:
    ranges = list(missing_between(first, last, known))

    missing = [number for begin, end in ranges for number in range(begin, end + 1)]
    assert missing == [number for number in range(first, last + 1) if number not in known]
    assert all(end + 1 < begin for (_, end), (begin, _) in itertools.pairwise(ranges))


def test_a_range_of_any_length_costs_no_more_than_the_numbers_known_in_it() -> None:
    assert list(missing_between(1, 10**18, {5})) == [(1, 4), (6, 10**18)]


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"sequence": 7, "subject": "order:1"}, b"{"),
        ({"sequence": "7", "subject": "order:001", "time": "yesterday"}, b"{"),
        ({"sequence": 7}, b'{"order": "001", "step": 1}'),
        ({"cloudEvents:specversion": "2.0", "sequence": 7, "subject": "order:1"}, b"{"),
    ],
)
def test_a_receipt_states_its_number_whatever_else_of_it_is_wrong(headers: dict[str, object], body: bytes) -> None:
    assert place_stated(KEY, {"headers": headers}, body, CONTRACTS) == (STREAM, 7)


def test_the_body_of_a_structured_cloud_event_states_its_number() -> None:
    event = (
        b'{"specversion": "1.0", "id": "1", "source": "/plant/P1/mes-1", "type": "test.step.v1", "subject": "order:1",'
        b' "sequence": "7", "data": {"order": "1"}}'
    )
    properties = {"content_type": "application/cloudevents+json", "headers": {}}

    assert place_stated(KEY, properties, event, CONTRACTS) == (STREAM, 7)


@pytest.mark.parametrize("headers", [{}, None, {"sequence": "seven"}, {"sequence": -1}, {"sequence": 7, "subject": 5}])
def test_a_receipt_that_states_no_number_says_nothing(headers: object) -> None:
    assert place_stated(KEY, {"headers": headers}, b"{", CONTRACTS) is None


def test_a_type_nobody_knows_is_taken_at_its_word() -> None:
    headers = {"sequence": 1, "subject": "order:001"}

    assert place_stated(KEY, {"headers": headers}, b"", Contracts(())) == (Stream("mes-1", "P1", "order:001"), 1)
    assert place_stated("nonsense", {"headers": headers}, b"", CONTRACTS) == (Stream("", "nonsense", "order:001"), 1)
