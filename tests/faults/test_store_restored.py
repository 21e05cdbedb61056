"""A store restored from a backup while the broker lived on: what it lost is told, and heals when it is said again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from bus.client import Fact
from bus.model.contract import Contracts
from bus.store.gaps import list_gaps
from tests.faults.backup import back_up
from tests.faults.checker import Finding
from tests.faults.stage import PATIENCE, Stage
from tests.faults.survival import Survival
from tests.faults.workload import Expected, Publication, Truth
from tests.system.booking_target import Act
from tests.system.running_bus import ROLES, a_step, until


@dataclass(frozen=True)
class Said:
    """The steps of one order, by when they are said: before the backup, after it, and after the store is back."""

    before: Sequence[int] = ()
    lost: Sequence[int] = ()
    later: Sequence[int] = ()
    target: str = "keeper"


GOES_ON, UNTOUCHED, FALLS_SILENT, BEGINS_AFTER, FORGETS_KEYS = range(5)
ORDERS: Mapping[int, Said] = {
    GOES_ON: Said(before=(0, 1, 2), lost=(3, 4, 5), later=(6,)),
    UNTOUCHED: Said(before=(0, 1), later=(2,)),
    FALLS_SILENT: Said(before=(0, 1), lost=(2,)),
    BEGINS_AFTER: Said(lost=(0, 1), later=(2,)),
    FORGETS_KEYS: Said(lost=(0,), target="archive"),
}
"""Of GOES_ON the last lost step was accepted and never booked: the machine stopped in the middle of its call."""


@dataclass(frozen=True)
class Plan:
    """What is said of ORDERS on a stage, each with its number, and the truth about it."""

    stage: Stage
    truth: Truth

    def order(self, number: int) -> str:
        return f"{self.truth.name}-{number}"

    def facts(self, when: str) -> list[Fact]:
        return [
            replace(a_step(self.order(number), step, said.target), sequence=step + 1)
            for number, said in ORDERS.items()
            for step in getattr(said, when)
        ]

    def say(self, *facts: Fact) -> None:
        """Publish them, confirmed."""
        for fact in facts:
            order, step = _step(fact)
            number = int(order.rpartition("-")[2])
            self.truth.expected[fact.message_id] = Expected(order, (step,), (ORDERS[number].target,))
        self.stage.bus.publish(*facts)
        for fact in facts:
            self.truth.confirm(Publication(fact))

    def is_accepted(self, *facts: Fact) -> bool:
        return self.stage.bus.receipts(f"{self.truth.name}-")["accepted"] == len(facts)

    def gaps(self) -> list[tuple[str, int, int]]:
        """(order, from, to) of every number that is missing."""
        page = list_gaps(self.stage.bus.database, contracts=Contracts(()), limit=1_000)
        return [
            (order, gap.first, gap.last)
            for gap in page.items
            if (order := gap.subject.removeprefix("order:")).startswith(f"{self.truth.name}-")
        ]


def _step(fact: Fact) -> tuple[str, int]:
    assert isinstance(fact.body, Mapping)
    return fact.body["order"], fact.body["step"]


def lose_what_came_since_the_backup(plan: Plan, folder: Path) -> int:
    """Restore the store to where it was in mid-work, while publishers go on; how much was under way in the backup."""
    bus, stage = plan.stage.bus, plan.stage
    before, lost = plan.facts("before"), plan.facts("lost")
    in_mid_call = (plan.order(GOES_ON), ORDERS[GOES_ON].lost[-1])
    last = next(fact for fact in lost if _step(fact) == in_mid_call)
    bus.keeper.hold()
    plan.say(*before)
    assert until(lambda: plan.is_accepted(*before), within=PATIENCE)
    bus.keeper.wait_for_post(plan.order(GOES_ON), 0)
    put_back = back_up(bus.database, folder)
    holding = stage.moving(plan.truth)
    bus.keeper.release()
    plan.say(*(fact for fact in lost if fact is not last))
    for number, said in ORDERS.items():
        target = bus.archive if number == FORGETS_KEYS else bus.keeper
        steps = [step for step in (*said.before, *said.lost) if (plan.order(number), step) != in_mid_call]
        target.wait_for_steps(plan.order(number), steps)
    bus.keeper.will(*in_mid_call, Act.HOLD)
    plan.say(last)
    bus.keeper.wait_for_post(*in_mid_call)
    bus.stop("router")  # so that whatever it committed is acknowledged: the broker has nothing left to send again
    bus.kill(*(role for role in ROLES if role != "router"))
    bus.keeper.release()
    put_back()
    plan.say(*plan.facts("later"))
    stage.start(*ROLES)
    return holding


def told_of(findings: Sequence[Finding], *orders: str) -> list[Finding]:
    """Those that name one of these orders."""
    return [each for each in findings if any(order in each.text for order in orders)]


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    "lasting_stage",
    ["sqlite", pytest.param("postgresql", marks=[pytest.mark.postgresql, pytest.mark.every_fault])],
    indirect=True,
)
def test_what_a_restored_store_lost_is_told_by_its_numbers_and_heals_when_it_is_said_again(
    stage: Stage, survival: Survival, tmp_path: Path
) -> None:
    bus = stage.bus
    plan = Plan(stage, Truth(stage.new_name()))
    goes_on, silent, begins_after = plan.order(GOES_ON), plan.order(FALLS_SILENT), plan.order(BEGINS_AFTER)
    forgets = plan.order(FORGETS_KEYS)
    lost, known = plan.facts("lost"), [*plan.facts("before"), *plan.facts("later")]

    holding = lose_what_came_since_the_backup(plan, tmp_path)

    assert holding > 0
    assert until(lambda: plan.is_accepted(*known) and not stage.moving(plan.truth), within=PATIENCE), bus.tail()
    # Of an order that nobody speaks of any more nothing shows: its loss is seen by the checker alone.
    assert plan.gaps() == [(goes_on, 4, 6), (begins_after, 1, 2)]
    findings = stage.findings(plan.truth)
    gone = {each.text.partition(":")[0] for each in findings if each.invariant == "I1"}
    assert gone == {fact.message_id for fact in lost}
    orphaned = [each for each in findings if "no delivery bears" in each.text]
    assert len(orphaned) == len(findings) - len(lost)

    for fact in lost:  # as if they had never been said: the store knows nothing else
        del plan.truth.confirmed[fact.message_id]
    plan.say(*plan.facts("before"), *lost)
    assert until(lambda: plan.is_accepted(*known, *lost), within=PATIENCE)
    stage.comes_to_rest(plan.truth)

    assert plan.gaps() == []
    assert bus.keeper.steps(goes_on) == [0, 1, 2, 3, 4, 6, 5]
    assert bus.keeper.steps(begins_after) == bus.keeper.steps(silent) == [0, 1, 2]
    assert len(bus.keeper.posts(silent, 2)) > 1
    assert bus.archive.steps(forgets) == [0, 0]
    findings = stage.findings(plan.truth)
    out_of_order = [each for each in told_of(findings, goes_on, begins_after) if each.invariant == "I3"]
    twice = [each for each in findings if each.text.startswith("archive ")]
    assert len(out_of_order) == 2
    survival.tell([each for each in findings if each not in [*out_of_order, *twice]], store=stage.kind, holding=holding)
