"""`bus store partitions` and `retire` as a person types them, on real PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import update

from bus.store import tables as t
from bus.store.months import months
from bus.store.sqlstore import SqlStore
from tests.conformance.months import fresh_store, turn
from tests.conformance.stages import PLAIN, a_bus
from tests.services import PostgreSQL
from tests.small_project import a_step
from tests.unit.command_line import CommandLine
from tests.unit.plant_store import ROOT

pytestmark = pytest.mark.postgresql
RETIRE = ("store", "retire", "--before", "2026-03", "--reason", "kept for a year")


@pytest.fixture
def store(postgresql: PostgreSQL) -> Iterator[SqlStore]:
    """January with two messages, February with a delivery that waits still, March open."""
    with fresh_store(postgresql) as fresh:
        bus = a_bus(fresh, PLAIN)
        bus.receive(a_step("1", 1), a_step("1", 2))
        bus.run_until_idle()
        turn(fresh)
        bus.receive(a_step("2", 1))
        turn(fresh)
        _date(fresh, 1, datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 2, 1, tzinfo=UTC))
        _date(fresh, 2, datetime(2026, 2, 1, tzinfo=UTC), datetime(2026, 3, 1, tzinfo=UTC))
        yield fresh


def _date(store: SqlStore, period: int, began: datetime, closed: datetime) -> None:
    with store.database.write() as connection:
        times = {"began_at": began, "closed_at": closed}
        connection.execute(update(t.period).where(t.period.c.number == period).values(times))
        if period == 2:  # what waits was accepted in February
            connection.execute(update(t.message).values(accepted_at=began))


@pytest.fixture
def typed(store: SqlStore, tmp_path: Path) -> CommandLine:
    address = store.database.url.render_as_string(hide_password=False).replace("+psycopg", "")
    environ = {"BUS_PROJECT": str(ROOT), "BUS_FOLDER": str(tmp_path), "BUS_STORE": address, "BUS_ACTOR": "archivist"}
    return CommandLine({**environ, "COLUMNS": "200", "NO_COLOR": "1"})


def test_the_months_are_listed_with_rows_size_and_what_is_not_ended(typed: CommandLine) -> None:
    listed = typed.json("store", "partitions")
    shown = typed.type("store", "partitions")

    assert [(m["name"], m["state"], m["messages"], m["not_ended"]) for m in listed[:2]] == [
        ("2026-01", "closed", 2, 0),
        ("2026-02", "closed", 0, 1),
    ]
    assert listed[2]["state"] == "open"
    assert listed[1]["moved_along"] == 1
    assert all(m["bytes"] > 0 for m in listed)
    assert "2026-01" in shown.stdout


def test_retire_shows_what_it_would_drop_and_drops_nothing(typed: CommandLine, store: SqlStore) -> None:
    shown = typed.json(*RETIRE, exit_code=1)
    told = typed.type(*RETIRE)

    assert [(one["month"]["name"], one["result"]) for one in shown] == [
        ("2026-01", "would be dropped"),
        ("2026-02", "held"),
    ]
    assert "2026-02 is held by what is not ended: delivery 3" in told.stderr
    assert "add --yes" in told.stderr
    assert [month.state for month in months(store.database)] == ["closed", "closed", "open"]


def test_retire_drops_what_is_free_and_names_what_holds_the_rest(typed: CommandLine) -> None:
    dropped = typed.type(*RETIRE, "--yes")
    listed = typed.json("store", "partitions")
    asked = typed.type("message", "show", "1")
    by_name = typed.type("message", "show", "1-1")

    assert dropped.exit_code == 1
    assert [(m["state"], m["actor"], m["reason"]) for m in listed[:2]] == [
        ("retired", "person:archivist", "kept for a year"),
        ("closed", "", ""),
    ]
    assert asked.exit_code == by_name.exit_code == 2
    assert "2026-01 was retired by person:archivist" in asked.stderr
    assert "what was retired is not kept: 2026-01" in by_name.stderr
    assert typed.json("status", "--verify")["verified"] is True


def test_nothing_that_is_old_enough_is_no_failure(typed: CommandLine) -> None:
    result = typed.type("store", "retire", "--before", "2026-01", "--reason", "r", "--yes")

    assert result.exit_code == 0
    assert "No closed month before 2026-01 is kept" in result.stderr
