"""The ledger: what is counted when a message or delivery changes, so that the sums of promise 2 can be shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from bus.model.delivery import FINAL, State
from bus.model.message import BUS

Deltas = Counter[tuple[str, str]]
"""(measure, route) → change; the route is empty for receipts and messages."""

RECEIPTS = ("accepted", "invalid", "refused", "conflict", "duplicate")
MESSAGES = ("messages-planned", "unrouted", "entering")
DELIVERIES = ("delivered", "dead", "in-doubt", "discarded", "open")

_BUCKET = {
    State.DELIVERED: "delivered",
    State.DEAD: "dead",
    State.IN_DOUBT: "in-doubt",
    State.DISCARDED: "discarded",
}


def bucket(state: State) -> str:
    """The ledger's word for a state of a delivery."""
    return _BUCKET.get(state, "open")


def disposition(planned: int, entering: int) -> str:
    """Where a message is counted: while it still enters, it is not planned."""
    if entering:
        return "entering"
    return "messages-planned" if planned else "unrouted"


def planned_delivery(destination: str, route: str, state: State) -> Deltas:
    """A delivery came to be. One to the bus itself counts as `entering` until it ends."""
    if destination == BUS:
        return Counter()
    return Counter({("planned", route): 1, (bucket(state), route): 1})


def changed_delivery(destination: str, route: str, old: State, new: State) -> Deltas:
    """A delivery changed its state."""
    if destination == BUS:
        return Counter({("planned", route): 1, (bucket(new), route): 1}) if new in FINAL else Counter()
    if bucket(old) == bucket(new):
        return Counter()
    return Counter({(bucket(old), route): -1, (bucket(new), route): 1})


@dataclass(frozen=True, slots=True)
class Equation:
    """One sum of promise 2: a whole, and the parts that must add up to it."""

    name: str
    whole: Mapping[str, int]
    parts: Mapping[str, int]

    @property
    def balances(self) -> bool:
        return sum(self.whole.values()) == sum(self.parts.values())

    def __str__(self) -> str:
        left = " + ".join(f"{name} {count:,}" for name, count in self.whole.items())
        right = " + ".join(f"{name} {count:,}" for name, count in self.parts.items())
        return f"{self.name}: {left} {'=' if self.balances else '≠'} {right}"


def equations(totals: Mapping[str, int]) -> tuple[Equation, Equation, Equation]:
    """The three sums, from totals by measure."""

    def of(*names: str) -> dict[str, int]:
        return {name.removeprefix("messages-"): totals.get(name, 0) for name in names}

    return (
        Equation("receipts", of("received"), of(*RECEIPTS)),
        Equation("messages", of("accepted", "produced"), of(*MESSAGES)),
        Equation("deliveries", of("planned"), of(*DELIVERIES)),
    )
