"""SQL through every option and argument of every command: it is a value, and never part of a statement."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import pytest
from sqlalchemy import Engine, event, func, select

from bus.cli.frame import DeliveryNumber
from bus.cli.root import bus
from bus.store import tables as t
from bus.store.engine import Database
from tests.unit.command_line import CommandLine
from tests.unit.plant_store import ROOT, record_the_day

SQL = "x'); DROP TABLE message; -- \" :p %(q)s %s ? $1 \\"

ASKED = ("status", "message", "dead", "doubt", "lane", "endpoint", "store", "contract", "route")
"""Nouns that speak with the store, or are about what it holds; the processes are not started here."""


@dataclass
class Watched:
    """A store, a command line, and every statement that went to any database meanwhile."""

    line: CommandLine
    store_url: str
    statements: list[str] = field(default_factory=list)
    values: list[str] = field(default_factory=list)

    def counts(self) -> dict[str, int]:
        database = Database(self.store_url)
        with database.read() as connection:
            found = {
                name: connection.execute(select(func.count()).select_from(table)).scalar_one()
                for name, table in t.metadata.tables.items()
            }
        database.close()
        return found


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def watched(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("sql")
    if request.param == "sqlite":
        yield from _watched(f"sqlite:///{folder}/bus.db", folder)
    else:
        with request.getfixturevalue("postgresql").fresh_database() as url:
            yield from _watched(url, folder)


def _watched(store_url: str, folder: Path) -> Iterator[Watched]:
    record_the_day(store_url)
    environ = {"BUS_PROJECT": str(ROOT), "BUS_FOLDER": str(folder), "BUS_STORE": store_url, "BUS_ACTOR": SQL}
    watched = Watched(CommandLine(environ | {"BUS_BROKER": None, "BUS_MANAGEMENT": None}), store_url)

    def note(_c: Any, _u: Any, statement: str, values: Any, _x: Any, _m: Any) -> None:
        watched.statements.append(statement)
        watched.values.append(repr(values))

    event.listen(Engine, "before_cursor_execute", note)
    yield watched
    event.remove(Engine, "before_cursor_execute", note)


def commands() -> Iterator[tuple[str, ...]]:
    """Each command with SQL in one option at a time, and with it in all of them at once."""
    for noun, command in sorted(bus.commands.items()):
        if noun in ASKED:
            verbs = command.commands if isinstance(command, click.Group) else {"": command}
            for verb, each in sorted(verbs.items()):
                yield from _typed((noun, verb) if verb else (noun,), each)


def _typed(words: tuple[str, ...], command: click.Command) -> Iterator[tuple[str, ...]]:
    needed: tuple[str, ...] = ()
    free: list[tuple[str, ...]] = []
    for parameter in command.params:
        if parameter.name in ("output", "project"):
            continue
        if isinstance(parameter, click.Argument):
            is_file = isinstance(parameter.type, click.File)
            needed += ("FILE",) if is_file else ("1",) if isinstance(parameter.type, DeliveryNumber) else (SQL,)
        elif isinstance(parameter, click.Option) and isinstance(parameter.type, click.types.StringParamType):
            name = (max(parameter.opts, key=len), SQL)
            if parameter.required:
                needed += name
            else:
                free.append(name)
    yield words + needed
    for each in free:
        yield words + needed + each
    yield words + needed + tuple(word for each in free for word in each)


TYPED = [
    *commands(),
    ("message", "list", "--where", f"order.id={SQL}"),
    ("message", "list", "--where", f"{SQL}={SQL}", "--since", "3d"),
    *(("message", "list", "--state", state, "--type", SQL) for state in ("invalid", "duplicate", "dead", "unrouted")),
    ("dead", "replay", "--cause", SQL, "--route", SQL, "--reason", SQL, "--yes"),
    ("dead", "discard", "--endpoint", SQL, "--reason", SQL, "--yes"),
]


def test_every_option_that_takes_text_is_tried() -> None:
    options = {word for words in TYPED for word in words if word.startswith("--")}

    assert len(TYPED) > 60
    assert options >= {
        "--type",
        "--system",
        "--subject",
        "--correlation",
        "--document",
        "--where",
        "--cause",
        "--route",
    }


def test_sql_in_whatever_is_typed_is_a_value_and_never_part_of_a_statement(watched: Watched, tmp_path: Path) -> None:
    document = tmp_path / "order.json"
    document.write_text("{}")
    before = watched.counts()
    watched.values.clear()

    for words in TYPED:
        said = watched.line.type(*(str(document) if word == "FILE" else word for word in words))

        assert said.exit_code in (0, 1, 2), (words, said.output)
        assert "something unexpected" not in said.output, (words, said.output)
    assert not [statement for statement in watched.statements if "DROP TABLE" in statement]
    assert sum("DROP TABLE" in values for values in watched.values) > 20
    after = watched.counts()
    assert {name: after[name] for name in before if name != "journal"} == {
        name: before[name] for name in before if name != "journal"
    }
    assert after["journal"] >= before["journal"]


def test_sql_as_a_reason_and_as_an_actor_is_kept_to_the_letter(watched: Watched) -> None:
    (dead, *_) = watched.line.json("dead", "list", "--singly")

    watched.line.json("dead", "discard", dead["delivery"]["number"], "--reason", SQL)

    database = Database(watched.store_url)
    with database.read() as connection:
        rows = connection.execute(select(t.journal.c.actor, t.journal.c.reason).where(t.journal.c.reason == SQL)).all()
    database.close()
    assert rows
    assert all(SQL in row.actor for row in rows)
