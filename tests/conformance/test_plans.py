"""The bus's own processes have a statement planned once for a connection: that plan must do for full tables."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from sqlalchemy import Connection, event

from bus.errors import OutcomeUnknown, TransientFailure
from bus.store.engine import Database
from bus.store.schema import upgrade
from bus.store.sqlstore import SqlStore
from bus.testing import ScriptedEndpoint
from tests.conformance.books import states
from tests.conformance.stages import PLAIN, a_bus, failing
from tests.services import PostgreSQL
from tests.small_project import TO_BUS, TO_TARGET, a_native_step, a_step

pytestmark = pytest.mark.postgresql

GROWING = {"message", "message_key", "delivery", "output", "attempt", "lane", "search_value", "receipt"}
AT_WORK = ("ready", "ready_since", "due", "doubt", "held", "running")
SMALL = {"pk_lease", *(f"ix_delivery_{name}" for name in AT_WORK)}
"""Indexes of what is at work: nobody minds when one is read from end to end."""


def statements_of_a_day(database: Database) -> set[str]:
    """What the pipeline and the relay say to the database: native and canonical, busy, lost and repeated."""
    said: set[str] = set()

    @event.listens_for(database.engine, "before_cursor_execute")
    def note(connection: Connection, cursor: object, statement: str, *_: object) -> None:
        said.add(statement)

    target = ScriptedEndpoint(
        script={
            "order:busy": [failing(TransientFailure)],
            "order:lost": [failing(OutcomeUnknown, "book-then-lose")],
        }
    )
    bus = a_bus(SqlStore(database), TO_TARGET, TO_BUS, PLAIN, adapters={"target": target})
    for _ in range(2):
        bus.receive(a_step("busy", 1), a_step("busy", 2), a_step("lost", 1), a_native_step("a"), a_native_step("a", 2))
    bus.receive(a_step("alone", 1))
    with closing(Database(database.url.render_as_string(hide_password=False))) as beside:
        bus.run_until(lambda: set(states(SqlStore(beside))) == {"DELIVERED"})
    return {statement for statement in said if re.match(r"\s*(SELECT|UPDATE|DELETE|WITH)", statement)}


def scans(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if "Scan" in plan["Node Type"]:
        yield plan
    for part in plan.get("Plans", ()):
        yield from scans(part)


def reads_end_to_end(scan: dict[str, Any]) -> bool:
    if "Index Name" in scan:
        return "Index Cond" not in scan and scan["Index Name"] not in SMALL
    return scan["Node Type"] == "Seq Scan" and scan["Relation Name"] in GROWING


def test_no_plan_that_is_made_once_reads_a_growing_table_from_end_to_end(postgresql: PostgreSQL) -> None:
    with postgresql.fresh_database() as address, closing(Database(address, plans_once=True)) as database:
        upgrade(database)
        said = statements_of_a_day(database)
        wrong: dict[str, list[str]] = {}
        with database.read() as connection:
            for statement in said:
                names = list(dict.fromkeys(re.findall(r"%\((\w+)\)s", statement)))
                asked = re.sub(r"%\((\w+)\)s", lambda name: f"${names.index(name[1]) + 1}", statement)  # noqa: B023
                told = connection.exec_driver_sql(f"EXPLAIN (GENERIC_PLAN, FORMAT JSON) {asked}").scalar_one()
                plan = (json.loads(told) if isinstance(told, str) else told)[0]["Plan"]
                if found := [str(scan) for scan in scans(plan) if reads_end_to_end(scan)]:
                    wrong[statement] = found
    assert len(said) > 20
    assert wrong == {}
