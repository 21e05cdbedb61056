"""What others wrote is obeyed by no terminal: not from the store, not from a file's name, not in an error's story."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from loguru import logger
from sqlalchemy import LargeBinary, Table, Text, literal, select, update
from sqlalchemy.sql.sqltypes import String

from bus.store import tables as t
from bus.store.tables import Bytewise
from bus.telemetry.logs import configure_logs, forward_python
from tests.security.hostile import ESCAPES, obeyed
from tests.unit.command_line import Plant

FORMS = [(), ("-o", "json"), ("-o", "ndjson")]

OURS = {
    (t.message, "planned"),
    (t.delivery, "state"),
    (t.delivery, "stage"),
    (t.endpoint, "state"),
    (t.endpoint, "name"),
    (t.receipt, "kind"),
    (t.receipt, "properties"),  # JSON that the bus wrote
    (t.output, "digest"),
    (t.attempt, "digests"),  # JSON that the bus wrote
    (t.attempt, "outcome"),
    (t.attempt, "stage"),
    (t.total, "measure"),
    (t.lease, "name"),
    (t.journal, "act"),
}
"""Columns with words of the bus's own, which nobody else can write."""


def texts_of_others(table: Table) -> list[str]:
    return [
        column.name
        for column in table.columns
        if isinstance(column.type, Text | String | Bytewise) and (table, column.name) not in OURS
    ]


@pytest.fixture
def hostile_store(plant: Plant) -> Plant:
    """A store in which every text and every body ends with what a terminal would obey."""
    with plant.store().database.write() as connection:
        for table in (t.message, t.receipt, t.lane, t.delivery, t.output, t.attempt, t.endpoint, t.lease):
            for name in texts_of_others(table):
                column = table.c[name]
                connection.execute(update(table).values({name: column + literal(ESCAPES)}))
            for column in table.columns:
                if isinstance(column.type, LargeBinary) and "digest" not in column.name:
                    connection.execute(update(table).values({column.name: ESCAPES.encode()}))
    return plant


READING = [
    ("status",),
    ("status", "--verify"),
    ("message", "list"),
    ("message", "list", "--state", "dead"),
    ("message", "list", "--state", "invalid"),
    ("message", "list", "--state", "conflict"),
    ("message", "show", "1"),
    ("message", "show", "3"),
    ("message", "show", "R1"),
    ("message", "show", "R3"),
    ("message", "trace", "1"),
    ("dead", "list"),
    ("dead", "list", "--singly"),
    ("doubt", "list"),
    ("lane", "list"),
    ("lane", "list", "--blocked"),
    ("lane", "show", "1"),
    ("endpoint", "list"),
    ("endpoint", "show", "mes-p200"),
    ("doctor",),
    ("store", "info"),
]


@pytest.mark.parametrize("form", FORMS, ids=["table", "json", "ndjson"])
@pytest.mark.parametrize("words", READING, ids=" ".join)
def test_whatever_stands_in_the_store_no_terminal_obeys_it(
    hostile_store: Plant, words: tuple[str, ...], form: tuple[str, ...]
) -> None:
    said = hostile_store.type("--debug", *words, *form)

    assert obeyed(said.output) == []
    assert said.output


@pytest.mark.parametrize("form", FORMS, ids=["table", "json", "ndjson"])
@pytest.mark.parametrize(("noun", "state"), [("dead", "DEAD"), ("doubt", "IN_DOUBT"), ("dead", "READY")])
def test_no_delivery_that_is_shown_is_obeyed_by_a_terminal(
    hostile_store: Plant, noun: str, state: str, form: tuple[str, ...]
) -> None:
    with hostile_store.store().database.read() as connection:
        number = connection.execute(select(t.delivery.c.id).where(t.delivery.c.state == state).limit(1)).scalar_one()

    said = hostile_store.type("--debug", noun, "show", number, *form)

    assert str(number) in said.output
    assert obeyed(said.output) == []


TYPED = [
    ("publish", "NAME", "--type", "NAME", "--system", "NAME"),
    ("route", "explain", "NAME", "--type", "NAME"),
    ("route", "try", "NAME", "--type", "NAME"),
    ("contract", "show", "NAME"),
    ("message", "show", "NAME"),
    ("message", "list", "--where", "NAME"),
    ("message", "list", "--since", "NAME"),
    ("message", "list", "--state", "NAME"),
    ("message", "list", "-o", "NAME"),
    ("message", "list", "--NAME"),
    ("dead", "replay", "NAME", "--reason", "NAME"),
    ("lane", "show", "NAME"),
    ("endpoint", "show", "NAME"),
    ("worker", "--endpoint", "NAME"),
    ("check", "--project", "NAME"),
    ("bench", "--postgresql", "NAME"),
    ("NAME",),
]


@pytest.mark.parametrize("debug", [(), ("--debug",)], ids=["", "debug"])
@pytest.mark.parametrize("words", TYPED, ids=" ".join)
def test_no_name_that_somebody_gave_a_file_is_obeyed_by_a_terminal(
    plant: Plant, words: tuple[str, ...], debug: tuple[str, ...]
) -> None:
    said = plant.type(*debug, *(word.replace("NAME", f"x{ESCAPES}") for word in words))

    assert said.exit_code in (1, 2)
    assert obeyed(said.output) == []


def test_a_hostile_file_that_is_there_is_told_without_its_escapes(plant: Plant, tmp_path: Path) -> None:
    file = tmp_path / f"order{ESCAPES}.json"
    file.write_bytes(b'{"a": ' + ESCAPES.encode())

    for words in (("route", "try"), ("route", "explain"), ("publish", "--system", "erp")):
        said = plant.type("--debug", *words, file, "--type", "sap.production-order.v2")

        assert said.exit_code in (1, 2)
        assert obeyed(said.output) == []


@pytest.fixture
def errors_of_threads() -> Iterator[None]:
    hooks = threading.excepthook, sys.unraisablehook
    yield
    threading.excepthook, sys.unraisablehook = hooks
    logging.captureWarnings(False)
    logger.remove()


@pytest.mark.parametrize("as_json", [False, True])
def test_the_error_that_ended_a_thread_is_told_and_not_obeyed(
    as_json: bool, errors_of_threads: None, capsys: pytest.CaptureFixture[str]
) -> None:
    def stumble() -> None:
        raise LookupError(f"no route for {ESCAPES}")

    configure_logs(as_json=as_json)
    forward_python()
    thread = threading.Thread(target=stumble, name="router")
    thread.start()
    thread.join()

    said = capsys.readouterr().err
    assert "LookupError" in said
    assert "no route for" in said
    assert obeyed(said) == []
