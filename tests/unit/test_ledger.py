"""The ledger: where each change is counted, and the sums as an operator reads them."""

from __future__ import annotations

from collections import Counter

import pytest

from bus.model.delivery import State
from bus.model.ledger import bucket, changed_delivery, disposition, equations, planned_delivery
from bus.model.message import BUS


@pytest.mark.parametrize(
    ("state", "word"),
    [
        (State.READY, "open"),
        (State.WAITING, "open"),
        (State.CLAIMED, "open"),
        (State.SENDING, "open"),
        (State.RETRYING, "open"),
        (State.DELIVERED, "delivered"),
        (State.DEAD, "dead"),
        (State.IN_DOUBT, "in-doubt"),
        (State.DISCARDED, "discarded"),
    ],
)
def test_each_state_has_one_word_in_the_ledger(state: State, word: str) -> None:
    assert bucket(state) == word


def test_a_planned_delivery_is_counted_with_its_state() -> None:
    assert planned_delivery("target", "r", State.WAITING) == {("planned", "r"): 1, ("open", "r"): 1}
    assert planned_delivery("target", "r", State.DEAD) == {("planned", "r"): 1, ("dead", "r"): 1}


def test_a_change_moves_a_delivery_from_word_to_word() -> None:
    assert changed_delivery("target", "r", State.SENDING, State.DEAD) == {("open", "r"): -1, ("dead", "r"): 1}
    assert changed_delivery("target", "r", State.READY, State.CLAIMED) == {}


def test_a_delivery_to_the_bus_is_counted_when_it_ended() -> None:
    assert planned_delivery(BUS, "r", State.WAITING) == {}
    assert changed_delivery(BUS, "r", State.CLAIMED, State.DEAD) == {}
    assert changed_delivery(BUS, "r", State.CLAIMED, State.DELIVERED) == {("planned", "r"): 1, ("delivered", "r"): 1}
    assert changed_delivery(BUS, "r", State.DEAD, State.DISCARDED) == {("planned", "r"): 1, ("discarded", "r"): 1}


@pytest.mark.parametrize(
    ("planned", "entering", "word"),
    [(0, 0, "unrouted"), (2, 0, "messages-planned"), (1, 1, "entering"), (3, 1, "entering")],
)
def test_a_message_is_entering_planned_or_unrouted(planned: int, entering: int, word: str) -> None:
    assert disposition(planned, entering) == word


def test_the_sums_name_their_parts() -> None:
    totals = Counter({"received": 1200, "accepted": 1199, "conflict": 1, "messages-planned": 1198, "unrouted": 1})

    receipts, messages, deliveries = equations(totals)

    assert str(receipts) == (
        "receipts: received 1,200 = accepted 1,199 + invalid 0 + refused 0 + conflict 1 + duplicate 0"
    )
    assert str(messages) == "messages: accepted 1,199 + produced 0 = planned 1,198 + unrouted 1 + entering 0"
    assert all(equation.balances for equation in (receipts, messages, deliveries))


def test_a_sum_that_does_not_balance_says_so() -> None:
    _, _, deliveries = equations({"planned": 2, "delivered": 1})

    assert not deliveries.balances
    assert "planned 2 ≠ delivered 1" in str(deliveries)
