"""Promise 2: everything received is accounted for, and the sums are proven per message."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from sqlalchemy import delete

from bus.broker.publisher import Publication, Publisher
from bus.client import Fact
from bus.store import tables as t
from bus.store.verify import verify
from tests.system.booking_target import Act
from tests.system.running_bus import CANONICAL, ROLES, RunningBus, a_native_step, a_step


def test_promise_2_the_sums_hold_for_everything_that_can_become_of_a_message(fresh_bus: RunningBus) -> None:
    bus = fresh_bus
    bus.keeper.will("refused", 1, 422)
    bus.keeper.will("given-up", 1, 422)
    bus.archive.will("doubtful", 1, Act.BOOK_THEN_CUT)
    good = [a_step(order, step, "keeper", "ledger") for order in ("a", "b") for step in range(3)]
    bus.publish(*good)
    bus.publish(
        *good[:2],  # duplicates
        a_step("a", 0, "archive"),  # a conflict with the first one
        a_native_step("n", 1, "keeper", parts=3),
        a_step("nobody", 1, "nowhere"),
        a_step("a", 666),
        a_step("refused", 1),
        a_step("refused", 2),
        a_step("given-up", 1),
        a_step("given-up", 2),
        a_step("doubtful", 1, "archive"),
        Fact(type=CANONICAL, body=b"{not JSON", message_id="i-1"),
        Fact(type=CANONICAL, body={"order": "a", "step": "first", "to": {}}, message_id="i-2"),
    )
    publish_wrongly(bus, "P1.mes.test.step.v9", {"order": "a"})
    publish_wrongly(bus, f"P1.mes.{CANONICAL}", {"order": "a", "step": 9, "to": {}}, app_id="somebody-else")
    bus.comes_to_rest(received=6 + 2 + 1 + 1 + 1 + 1 + 4 + 1 + 2 + 2, open_deliveries=2)
    (given_up, _) = bus.deliveries("given-up")
    assert bus.order("dead", "discard", str(given_up.id), "--reason", "made by mistake").returncode == 0
    bus.keeper.wait_for_steps("given-up", [2])

    bus.comes_to_rest(received=21, open_deliveries=1)
    assert bus.receipts() == {"accepted": 14, "duplicate": 2, "conflict": 1, "invalid": 3, "refused": 1}
    assert bus.sums() == {
        "receipts: received 21 = accepted 14 + invalid 3 + refused 1 + conflict 1 + duplicate 2",
        "messages: accepted 14 + produced 3 = planned 16 + unrouted 1 + entering 0",
        "deliveries: planned 22 = delivered 17 + dead 2 + in-doubt 1 + discarded 1 + open 1",
    }
    bus.proves_itself()
    assert bus.order("status", "--verify").returncode == 0

    lost = lose_the_delivery_that_waits(bus)

    found = list(verify(bus.database))
    assert (found[0].check, found[0].message) == ("planned", lost)
    assert {each.check for each in found} == {"planned", "totals"}
    assert bus.order("status", "--verify").returncode == 1


def test_promise_2_the_sums_hold_when_every_process_is_killed_under_load(bus: RunningBus) -> None:
    orders = [f"killed-{number}" for number in range(6)]
    facts = [
        fact
        for step in range(0, 20, 2)
        for order in orders
        for fact in (a_step(order, step, "keeper", "ledger"), a_native_step(order, step + 1, "keeper"))
    ]

    for part, role in zip((facts[:40], facts[40:80], facts[80:]), ROLES, strict=True):
        so_far = len(bus.keeper.book)
        bus.publish(*part)
        bus.keeper.wait_for_entries(so_far + 1)
        bus.kill(role)
        # The proof needs no quiet moment: it looks at one snapshot.
        assert [found.text for found in verify(bus.database)] == []
        bus.start(role)

    for order in orders:
        bus.keeper.wait_for_steps(order, range(20), within=60)
        bus.ledger.wait_for_steps(order, range(0, 20, 2), within=60)
    bus.delivers(*orders)
    assert bus.receipts("killed-")["accepted"] == len(facts)
    assert set(bus.receipts("killed-")) <= {"accepted", "duplicate"}
    bus.proves_itself()


def lose_the_delivery_that_waits(bus: RunningBus) -> int:
    """Delete its rows; returns its message."""
    (waiting,) = [row for row in bus.deliveries("refused") if row.state == "WAITING"]
    with bus.database.write() as connection:
        for column in (t.output.c.delivery, t.attempt.c.delivery, t.delivery.c.id):
            connection.execute(delete(column.table).where(column == waiting.id))
    return int(waiting.message)


def publish_wrongly(bus: RunningBus, routing_key: str, body: Mapping[str, Any], **properties: str) -> None:
    """What bus.client would not send."""
    publisher = Publisher(bus.broker_url, name="test")
    wrong = Publication(
        exchange="bus.in",
        routing_key=routing_key,
        body=json.dumps(body).encode(),
        properties={"message_id": f"wrong {routing_key}", "delivery_mode": 2, **properties},
    )
    try:
        assert publisher.publish_batch([wrong], within=timedelta(seconds=10)) == [None]
    finally:
        publisher.close()
