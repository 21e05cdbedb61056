"""`bus store partitions` and `retire` on SQLite, which has one month that stays open."""

from __future__ import annotations

import pytest

from bus.cli.texts import size
from tests.unit.command_line import Plant


def test_sqlite_shows_its_one_month_and_says_that_it_stays(plant: Plant) -> None:
    shown = plant.type("store", "partitions", COLUMNS="200")
    (month,) = plant.json("store", "partitions")

    assert "no month is closed" in shown.stderr
    assert (month["state"], month["is_exact"], month["bytes"] > 0) == ("open", True, True)
    assert month["messages"] == len(plant.json("message", "list", "--all"))
    assert month["not_ended"] > 0


def test_sqlite_retires_nothing_and_says_what_does(plant: Plant) -> None:
    result = plant.type("store", "retire", "--before", "2099-01", "--reason", "kept long enough", "--yes")

    assert result.exit_code == 1
    assert "Take PostgreSQL where history has to end" in result.stderr


@pytest.mark.parametrize(
    ("count", "shown"),
    [(0, "0 B"), (999, "999 B"), (8192, "8.19 kB"), (56_789_012, "56.8 MB"), (4_321 * 10**12, "4,321 TB")],
)
def test_a_size_is_shown_in_the_unit_that_is_read_best(count: int, shown: str) -> None:
    assert size(count) == shown
