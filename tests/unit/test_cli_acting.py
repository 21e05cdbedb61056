"""What people order: replay, discard, and what happened to a doubtful delivery; who and why stand in the journal."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select

from bus.store import tables as t
from tests.unit.command_line import Plant
from tests.unit.plant_store import DOUBTFUL, REFUSED

REASON = ("--reason", "material was created in the MES")


def state_of(plant: Plant, delivery: int) -> str:
    return str(_row(plant, delivery).state)


def _row(plant: Plant, delivery: int) -> Any:
    with plant.store().database.read() as connection:
        return connection.execute(select(t.delivery).where(t.delivery.c.id == delivery)).one()


def deeds(plant: Plant) -> list[tuple[str, str, str, int]]:
    """(actor, reason, act, delivery) of what people did."""
    j = t.journal.c
    query = select(j.actor, j.reason, j.act, j.delivery).where(j.actor.like("person:%")).order_by(j.id)
    with plant.store().database.read() as connection:
        return [(row.actor, row.reason, row.act, row.delivery) for row in connection.execute(query)]


def test_a_dead_delivery_is_replayed_in_its_place_by_a_person_for_a_reason(plant: Plant) -> None:
    number = plant.number(REFUSED, "dead")
    place = _row(plant, number).place

    result = plant.type("dead", "replay", number, *REASON)

    assert result.exit_code == 0, result.output
    assert state_of(plant, number) == "READY"
    assert _row(plant, number).place == place
    assert deeds(plant) == [("person:night-shift", REASON[1], "replay", number)]
    assert plant.type("status", "--verify").exit_code == 0


def test_without_a_broker_the_act_is_done_and_it_is_said_who_wakes_the_workers(plant: Plant) -> None:
    result = plant.type("dead", "replay", plant.number(REFUSED, "dead"), *REASON)

    assert result.exit_code == 0
    assert "The relay finds the work when it runs" in result.stderr


def test_where_the_broker_does_not_answer_it_is_said_once_who_finds_the_work(plant: Plant) -> None:
    number = plant.number(REFUSED, "dead")

    result = plant.type("dead", "replay", number, *REASON, BUS_BROKER="amqp://bus:x@127.0.0.1:1/plant")

    assert result.exit_code == 0
    assert state_of(plant, number) == "READY"
    assert result.stderr.count("could not be woken") == 1
    assert "The relay finds the work when it runs" in result.stderr


def test_a_discarded_delivery_leaves_its_lane_to_the_next(plant: Plant) -> None:
    number, behind = plant.number(REFUSED, "dead"), plant.number(REFUSED, "waiting")

    result = plant.type("dead", "discard", number, *REASON)

    assert result.exit_code == 0
    assert (state_of(plant, number), state_of(plant, behind)) == ("DISCARDED", "READY")


@pytest.mark.parametrize("verb", ["replay", "discard"])
def test_filters_act_on_all_they_find_when_it_is_confirmed(plant: Plant, verb: str) -> None:
    number = plant.number(REFUSED, "dead")

    unconfirmed = plant.type("dead", verb, "--cause", "target.422", *REASON)
    confirmed = plant.json(
        "dead", verb, "--cause", "target.422", "--route", "released-orders-to-mes-p100", "--yes", *REASON
    )

    assert unconfirmed.exit_code == 2
    assert "--yes" in unconfirmed.stderr
    assert [row["delivery"] for row in confirmed] == [number]


def test_filters_that_find_nothing_do_nothing(plant: Plant) -> None:
    result = plant.type("dead", "replay", "--cause", "no.such-cause", "--yes", *REASON)

    assert result.exit_code == 0
    assert "nothing was done" in result.stderr


def test_numbers_and_filters_together_are_refused(plant: Plant) -> None:
    assert plant.type("dead", "replay", 1, "--cause", "x", *REASON).exit_code == 2
    assert plant.type("dead", "replay", *REASON).exit_code == 2


@pytest.mark.parametrize("words", [(), ("--reason", ""), ("--reason", "  ")])
def test_nothing_is_done_without_a_reason(plant: Plant, words: tuple[str, ...]) -> None:
    number = plant.number(REFUSED, "dead")

    result = plant.type("dead", "replay", number, *words)

    assert result.exit_code == 2
    assert state_of(plant, number) == "DEAD"
    assert deeds(plant) == []


def test_one_number_that_does_not_exist_stops_the_whole_order(plant: Plant) -> None:
    number = plant.number(REFUSED, "dead")

    result = plant.type("dead", "replay", number, 4711, *REASON)

    assert result.exit_code == 2
    assert "4711" in result.stderr
    assert state_of(plant, number) == "DEAD"


def test_what_is_in_another_state_is_left_alone_and_told_what_fits(plant: Plant) -> None:
    number = plant.number(DOUBTFUL, "in-doubt")

    replayed = plant.type("dead", "replay", number, *REASON)
    discarded = plant.type("dead", "discard", number, *REASON, COLUMNS="200")

    assert (replayed.exit_code, discarded.exit_code) == (1, 1)
    assert "in doubt" in replayed.stdout
    assert f"bus doubt show {number}" in discarded.stdout
    assert state_of(plant, number) == "IN_DOUBT"


def test_a_finished_delivery_is_sent_once_more_only_when_that_is_said(plant: Plant) -> None:
    number = plant.json("message", "show", 3)["deliveries"][0]["number"]

    refused = plant.type("dead", "replay", number, *REASON, COLUMNS="200")
    repeated = plant.json("dead", "replay", number, "--repeat", *REASON)

    assert refused.exit_code == 1
    assert "--repeat" in refused.stdout
    assert repeated[0]["result"] == "sent once more, as a new delivery"
    assert [d["replay"] for d in plant.json("message", "show", 3)["deliveries"]] == [0, 1]
    assert plant.type("status", "--verify").exit_code == 0


def test_a_doubt_that_happened_is_delivered_under_the_targets_number(plant: Plant) -> None:
    number = plant.number(DOUBTFUL, "in-doubt")

    result = plant.type("doubt", "happened", number, "--document", "4900012345", "--reason", "seen in CO13")

    assert result.exit_code == 0, result.output
    assert (state_of(plant, number), _row(plant, number).document) == ("DELIVERED", "4900012345")
    assert deeds(plant) == [("person:night-shift", "seen in CO13", "found", number)]


def test_a_doubt_that_is_absent_is_sent_again(plant: Plant) -> None:
    number = plant.number(DOUBTFUL, "in-doubt")

    result = plant.type("doubt", "absent", number, "--reason", "not in CO13")

    assert result.exit_code == 0, result.output
    assert state_of(plant, number) == "READY"


@pytest.mark.parametrize("words", [("happened", "--document", "1"), ("absent",)])
def test_a_delivery_that_is_not_in_doubt_cannot_be_decided(plant: Plant, words: tuple[str, ...]) -> None:
    number = plant.number(REFUSED, "dead")
    verb, *options = words

    result = plant.type("doubt", verb, number, *options, *REASON)

    assert result.exit_code == 1
    assert "it is DEAD" in result.stderr
    assert f"bus dead replay {number}" in result.stderr
    assert state_of(plant, number) == "DEAD"


def test_the_login_of_the_machine_acts_where_nobody_is_named(plant: Plant) -> None:
    number = plant.number(REFUSED, "dead")

    plant.type("dead", "discard", number, *REASON, BUS_ACTOR=None, LOGNAME="somebody-else")

    ((actor, *_),) = deeds(plant)
    assert actor.startswith("person:")
    assert actor not in ("person:", "person:somebody-else")
