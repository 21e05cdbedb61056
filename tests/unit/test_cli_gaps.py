"""`bus message gaps`: what is missing, whom to ask, and what to ask for."""

from __future__ import annotations

import json

from tests.unit.command_line import Plant
from tests.unit.plant_store import BOOKED, DOUBTFUL


def number_what_mes_p200_said(plant: Plant, **sequences: int) -> None:
    """Let what it said about these subjects bear these numbers."""
    subjects = {"booked": BOOKED, "doubtful": DOUBTFUL}
    with plant.store().database.write() as connection:
        for name, sequence in sequences.items():
            connection.exec_driver_sql(
                "UPDATE message SET sequence = ? WHERE parent IS NULL AND system = 'mes-p200' AND subject = ?",
                (sequence, subjects[name]),
            )


def test_where_nobody_numbers_what_he_says_nothing_is_missing(plant: Plant) -> None:
    result = plant.type("message", "gaps")

    assert result.exit_code == 0, result.output
    assert "No number is missing" in result.stderr


def test_a_gap_is_named_with_whom_to_ask_for_what(plant: Plant) -> None:
    number_what_mes_p200_said(plant, booked=4)

    result = plant.type("message", "gaps")

    assert result.exit_code == 1
    assert BOOKED in result.stdout
    said = " ".join(result.stderr.split())
    assert "ask mes-p200 (mes-p200-support@plant.example) to publish 1 to 3 about order:1000100 again" in said
    assert "under the message id and the number it had" in said


def test_each_system_is_asked_once_however_much_is_missing(plant: Plant) -> None:
    number_what_mes_p200_said(plant, booked=2, doubtful=3)

    result = plant.type("message", "gaps", "-n", 1)
    everything = plant.type("message", "gaps")

    assert "and 1 more; -n NUMBER or --all shows them" in result.stderr
    assert everything.stderr.count("Next: ask") == 1
    assert "publish 1 about order:1000100 again, and what 1 more gap above names" in everything.stderr


def test_gaps_are_told_as_data_with_owner_and_support(plant: Plant) -> None:
    number_what_mes_p200_said(plant, booked=4)

    (gap,) = plant.json("message", "gaps", "--subject", "order:0001000100", "--since", "1h", exit_code=1)
    lines = plant.type("message", "gaps", "-o", "ndjson").stdout.splitlines()

    assert (gap["system"], gap["site"], gap["first"], gap["last"], gap["missing"]) == ("mes-p200", "P200", 1, 3, 3)
    assert (gap["owner"], gap["support"]) == ("production-p200@plant.example", "mes-p200-support@plant.example")
    assert [json.loads(line) for line in lines] == [gap]
    assert plant.json("message", "gaps", "--system", "erp") == []


def test_a_system_that_left_bus_toml_is_named_as_such(plant: Plant) -> None:
    number_what_mes_p200_said(plant, booked=2)
    with plant.store().database.write() as connection:
        connection.exec_driver_sql("UPDATE message SET system = 'mes-p900' WHERE sequence IS NOT NULL")

    result = plant.type("message", "gaps")

    assert result.exit_code == 1
    assert "mes-p900, which is no system of bus.toml any more" in result.stderr


def test_a_message_shows_the_number_it_bears(plant: Plant) -> None:
    number_what_mes_p200_said(plant, booked=4)
    (received,) = (each for each in plant.json("message", "list", "--subject", BOOKED) if each["sequence"] is not None)

    shown = plant.type("message", "show", received["number"])

    assert received["sequence"] == 4
    assert any(line.split() == ["sequence", "4"] for line in shown.stdout.splitlines())


def test_status_verify_counts_the_gaps_and_holds_none_against_the_ledger(plant: Plant) -> None:
    assert plant.json("status", "--verify")["gaps"] == 0
    number_what_mes_p200_said(plant, booked=4, doubtful=2)

    result = plant.type("status", "--verify")

    assert result.exit_code == 0, result.output
    said = " ".join(result.stdout.split())
    assert "2 gaps in what systems numbered: never received, or lost since. Next: bus message gaps" in said
    assert plant.json("status", "--verify")["gaps"] == 2
