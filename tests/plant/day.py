"""What happens on a plant day, and when: every step waits for what it needs, nothing is timed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from bus.model.delivery import State
from tests.plant.launch import SystemProcess
from tests.plant.ledger import Snapshot
from tests.plant.stage import Stage
from tests.plant.story import Story
from tests.plant.watch import Watch

SITES = ("P100", "P200")
FIRST_ORDER = 1_000_001
FEWEST = 20
"""Orders a day needs for everything that happens in it."""

PATIENCE = 180.0
"""Seconds anything may take on a busy machine."""

EQUIPMENT_EVENTS = 200
TO_P100 = "released-orders-to-mes-p100"
TO_P200 = "released-orders-to-mes-p200"
CONFIRMATIONS = "mes-p200-confirmations-become-canonical"


@dataclass(frozen=True, kw_only=True)
class Outage:
    """What was seen while MES P200 was down."""

    began: datetime
    ended: datetime
    held: int
    delivered_meanwhile: int
    """To all others."""
    checks: int


@dataclass
class Facts:
    """What the day did on purpose, by the names under which both books know it."""

    orders: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    unknown_order: str = ""
    lost_answer_order: str = ""
    locked_order: str = ""
    not_accepted: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """(system, message id, kind of receipt)."""
    outage: Outage | None = None


class Day:
    """One day; `orders` over both sites in turn, `pace` seconds for a step of an order at a MES."""

    def __init__(self, stage: Stage, watch: Watch, story: Story, *, orders: int, pace: float) -> None:
        if orders < FEWEST:
            raise ValueError(f"a plant day needs {FEWEST} orders, found {orders}")
        self.facts = Facts()
        self._plant = stage.plant
        self._watch = watch
        self._say = story.say
        self._pace = pace
        numbers = [str(FIRST_ORDER + index) for index in range(orders)]
        early = orders * 3 // 5 // 2 * 2
        self._early, self._late = numbers[:early], numbers[early:]
        self.facts.orders = numbers
        # All at P100, and in the first wave.
        self.facts.unknown_order, self.facts.lost_answer_order, self.facts.locked_order = numbers[0:6:2]

    def until_p200_is_down(self) -> None:
        """The first wave is released, the shift starts, and P200 goes down in the middle of it."""
        self._release_before_the_shift()
        self._start_the_shift()
        self._watch.until(lambda seen: seen.of_route(CONFIRMATIONS, "delivered"), within=PATIENCE, what="P200 reports")

    def during_the_outage(self) -> Snapshot:
        """P200 goes down; orders come all the same, and everything that can be wrong. The last look before its end."""
        began, before = self._p200_goes_down()
        self._plant.mes_p100.command("publish-equipment", count=EQUIPMENT_EVENTS)
        self._say(f"MES P100 publishes {EQUIPMENT_EVENTS} equipment events")
        self._expire_tokens_in_use()
        self._send_what_is_wrong()
        self._unlock_when_refused()
        return self._see_the_outage(began, before)

    def until_all_is_done(self) -> Snapshot:
        """P200 comes back and gets what was held; then everything runs out."""
        self._plant.mes_p200.command("up")
        self._say("MES P200 is up again")
        self._watch.until(
            lambda seen: seen.endpoints["mes-p200"].is_open and not _held(seen),
            within=PATIENCE,
            what="P200 got everything that was held",
        )
        self._say("MES P200 got everything that was held")
        return until_over(self._plant.systems, self._watch)

    # --- the steps ---------------------------------------------------------------------------------------------------

    def _release_before_the_shift(self) -> None:
        for mes in (self._plant.mes_p100, self._plant.mes_p200):
            mes.command("pace", held=True, seconds=self._pace)
        self._plant.mes_p100.command("unknown", order=self.facts.unknown_order)
        self._publish_orders(self._early)
        here, there = self._by_site(self._early)
        self._watch.until(
            lambda seen: (
                seen.of_route(TO_P100, "delivered") == here - 1
                and seen.of_route(TO_P100, "dead") == 1
                and seen.of_route(TO_P200, "delivered") == there
            ),
            within=PATIENCE,
            what="the orders of the morning are at both MES, all but the one whose material P100 does not know",
        )

    def _start_the_shift(self) -> None:
        erp = self._plant.erp
        erp.command("lock", order=self.facts.locked_order)
        self._say(f"somebody has order {self.facts.locked_order} open in the ERP: it is locked")
        erp.command("faults", effect="book-then-drop", entity="ProdnOrdConf2", order=self.facts.lost_answer_order)
        self._say(
            f"the ERP will book one confirmation of {self.facts.lost_answer_order} and cut the connection unanswered"
        )
        for mes in (self._plant.mes_p100, self._plant.mes_p200):
            mes.command("pace", held=False)
        self._say("the shift starts: both MES carry out their orders and report")

    def _p200_goes_down(self) -> tuple[datetime, Snapshot]:
        self._plant.mes_p200.command("down")
        began, before = datetime.now(UTC), self._watch.fresh()
        self._say("MES P200 goes down")
        self._publish_orders(self._late)
        for order in [order for order in self._late if self._site(order) == "P200"][:3]:
            self._publish_change(order)
        return began, before

    def _expire_tokens_in_use(self) -> None:
        """Tokens of both services were used, and will be again: at least for the order that is still locked."""
        services = "SELECT DISTINCT entity FROM request WHERE status = 201"
        self._watch.until(
            lambda _: len(self._plant.erp.rows(services)) == 2,
            within=PATIENCE,
            what="the ERP booked a confirmation and a goods movement",
        )
        self._plant.erp.command("expire-tokens")
        self._say("the ERP's CSRF tokens expire")

    def _send_what_is_wrong(self) -> None:
        self._publish_change(self.facts.unknown_order)
        erp, mes = self._plant.erp, self._plant.mes_p100
        row = erp.rows("SELECT * FROM publication WHERE order_number = ? ORDER BY n", self._early[-1])[0]
        headers = json.loads(row["properties"])["headers"]

        order = json.loads(row["body"]) | {"ManufacturingOrder": "000000999999", "TotalQuantity": "a dozen"}
        self._publish_raw(
            erp, "invalid", type=row["type"], message_id="000000999999-broken", site=row["site"],
            subject="order:999999", body=json.dumps(order),
        )  # fmt: skip
        self._say("the ERP publishes an order that violates its contract: TotalQuantity is 'a dozen'")

        self._publish_raw(
            erp, "duplicate", type=row["type"], message_id=row["message_id"], site=row["site"],
            subject=row["subject"], body=bytes(row["body"]).decode(), headers=headers,
        )  # fmt: skip
        self._say(f"the ERP publishes order {self._early[-1]} a second time, the same message")

        self._publish_raw(
            mes, "invalid", type="b2mml.performance.v1", message_id="cut-off-in-mid-document",
            subject=f"order:{self._early[-2]}", content_type="application/xml",
            body='<?xml version="1.0"?>\n<ProcessOperationsPerformance><DataArea>',
        )  # fmt: skip
        self._say("MES P100 publishes a document that is not well-formed")

    def _unlock_when_refused(self) -> None:
        order = self.facts.locked_order
        refused = "SELECT 1 FROM request WHERE status = 423 AND order_number = ?"
        self._watch.until(
            lambda _: len(self._plant.erp.rows(refused, order)) >= 2,
            within=PATIENCE,
            what=f"the ERP refused a posting of the locked order {order} and a retry of it",
        )
        self._plant.erp.command("unlock", order=order)
        self._say(f"order {order} is unlocked in the ERP, after two refusals with 423")

    def _see_the_outage(self, began: datetime, before: Snapshot) -> Snapshot:
        late_here, late_there = self._by_site(self._late)
        changes = len(self.facts.changed) - 1  # one is P100's
        here = sum(self._by_site(order_list)[0] for order_list in (self._early, self._late)) - 1

        def flows(seen: Snapshot) -> bool:
            p200 = seen.endpoints["mes-p200"]
            return (
                not p200.is_open
                and p200.checks >= 2
                and _held(seen) >= late_there + changes
                and seen.of_route(TO_P100, "delivered") == here
                and seen.of_route("equipment-status-to-machine-events", "delivered") == EQUIPMENT_EVENTS
            )

        what = f"P200's {late_there} orders and {changes} changes are held, P100's {late_here} orders are delivered"
        seen = self._watch.until(flows, within=PATIENCE, what=what)
        others = _delivered_to_others(seen) - _delivered_to_others(before)
        checks = seen.endpoints["mes-p200"].checks
        self.facts.outage = Outage(
            began=began, ended=datetime.now(UTC), held=_held(seen), delivered_meanwhile=others, checks=checks
        )
        self._say(f"P200 is down: {_held(seen)} deliveries held, {others} to all others delivered, {checks} checks")
        return seen

    # --- publishing --------------------------------------------------------------------------------------------------

    def _publish_orders(self, orders: Sequence[str]) -> None:
        self._plant.erp.command("publish-orders", count=len(orders), sites=SITES, start=int(orders[0]), seed=1)
        here, there = self._by_site(orders)
        self._say(f"the ERP releases {len(orders)} orders: {here} for P100, {there} for P200")

    def _publish_change(self, order: str) -> None:
        self._plant.erp.command("publish-change", order=order)
        self.facts.changed.append(order)
        self._say(f"the ERP changes order {order}")

    def _publish_raw(self, system: SystemProcess, kind: str, *, message_id: str, **content: Any) -> None:
        system.command("publish", message_id=message_id, **content)
        self.facts.not_accepted[system.name, message_id, kind] += 1

    def _by_site(self, orders: Sequence[str]) -> tuple[int, int]:
        sites = Counter(map(self._site, orders))
        return sites["P100"], sites["P200"]

    def _site(self, order: str) -> str:
        return SITES[(int(order) - FIRST_ORDER) % 2]


def until_over(systems: Sequence[SystemProcess], watch: Watch) -> Snapshot:
    """Everything published was received, everything received ended, and nobody has anything left to do.

    The ledger is looked at before the books: what comes of its last delivery would stand in a book by then.
    """

    def is_over(seen: Snapshot) -> bool:
        return seen.is_at_rest and seen.total("received") >= sum(_settled(system) for system in systems)

    return watch.until(is_over, within=PATIENCE, what="the day is over: everything published was received and ended")


def _settled(system: SystemProcess) -> float:
    """How many messages it published; more than any ledger holds while it still has something to do."""
    counts = system.status()["publications"]
    works = system.name != "erp" and system.rows("SELECT 1 FROM job WHERE steps_done < steps LIMIT 1")
    return float("inf") if counts.get("pending") or works else float(counts.get("confirmed", 0))


def _held(seen: Snapshot) -> int:
    return seen.endpoints["mes-p200"].count(State.READY, State.WAITING, State.RETRYING)


def _delivered_to_others(seen: Snapshot) -> int:
    return seen.total("delivered") - seen.of_route(TO_P200, "delivered")
