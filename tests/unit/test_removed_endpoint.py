"""An endpoint that went away from bus.toml: what waits for it is named, and can be given up."""

from __future__ import annotations

from sqlalchemy import select, update

from bus.store import tables as t
from tests.unit.command_line import Plant


def _waiting_for_nobody(plant: Plant) -> list[int]:
    """Let what waits for mes-p200 wait for an endpoint that bus.toml does not name."""
    d = t.delivery.c
    waiting = (d.queue == "send.mes-p200") & d.state.in_(["READY", "WAITING"])
    with plant.store().transaction() as transaction:
        numbers = [row.id for row in transaction.execute(select(d.id).where(waiting))]
        transaction.execute(update(t.delivery).where(waiting).values(queue="send.mes-p900", destination="mes-p900"))
    return numbers


def test_doctor_names_the_queue_that_nobody_serves_and_what_to_type(plant: Plant) -> None:
    numbers = _waiting_for_nobody(plant)

    (finding,) = [f for f in plant.json("doctor", exit_code=1) if f["check"] == "deliveries"]

    assert finding["result"] == "bad"
    assert f"{len(numbers)} deliver" in finding["text"]
    assert "send.mes-p900" in finding["text"]
    assert f"bus dead discard {min(numbers)}" in finding["text"]


def test_doctor_says_nothing_where_every_delivery_has_somebody_to_claim_it(plant: Plant) -> None:
    assert [f for f in plant.json("doctor", exit_code=1) if f["check"] == "deliveries" and f["result"] != "ok"] == []


def test_what_waits_for_nobody_can_be_given_up_and_the_sums_hold(plant: Plant) -> None:
    numbers = _waiting_for_nobody(plant)

    result = plant.type("dead", "discard", *numbers, "--reason", "the plant was sold")

    assert len(numbers) == 2
    assert result.exit_code == 0, result.output
    assert plant.type("status", "--verify").exit_code == 0
    assert [f for f in plant.json("doctor", exit_code=1) if f["check"] == "deliveries" and f["result"] == "bad"] == []
