"""The README says what is true today: its pictures, commands, keys, files and promises."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from bus.cli.root import bus
from bus.errors import ConfigurationError
from bus.project import load_project
from bus.settings import load_settings
from tests.project.pictures import README, ROOT, pictures, with_pictures

TEXT = README.read_text(encoding="utf-8")
MINIMAL = {
    "bus": "[bus]\n",
    "sites": "[sites.P1]\n",
    "systems": '[systems.erp]\nrole = "ERP"\nsites = []\nowner = "o"\nsupport = "s"\n',
    "endpoints": '[endpoints.erp]\nsystem = "erp"\nadapter = "http"\naddress = "http://erp"\n',
}


def test_the_pictures_are_those_of_the_code() -> None:
    assert with_pictures(TEXT, pictures(load_project(ROOT))) == TEXT, "write: python -m tests.project.pictures --write"


@pytest.mark.parametrize("table", MINIMAL)
def test_every_key_of_bus_toml_is_explained(table: str, tmp_path: Path) -> None:
    (tmp_path / "bus.toml").write_text(f"{MINIMAL[table]}nonsense = 1\n")
    with pytest.raises(ConfigurationError, match="unknown 'nonsense'") as refused:
        load_settings(tmp_path, {})
    known = [name for name in str(refused.value).partition("known: ")[2].split(", ") if name != "none"]
    _, _, rest = TEXT.partition(f"| `[{table}{'' if table == 'bus' else '.NAME'}]`")

    explained = re.findall(r"`(\w+)`", "\n".join(re.findall(r"^\| (.+?) \|", rest.partition("\n\n")[0], re.MULTILINE)))

    assert sorted(explained) == sorted(known)


def test_every_environment_variable_of_the_settings_is_explained() -> None:
    sources = [*(ROOT / "bus").glob("*.py"), *(ROOT / "bus" / "control").glob("*.py")]
    read = {name for path in sources for name in re.findall(r"\"(BUS_[A-Z]+)\"", path.read_text(encoding="utf-8"))}

    assert read
    assert {name for name in read if f"`{name}`" not in TEXT} == set()


def test_every_command_is_named() -> None:
    nouns = {
        name: set(command.commands) if isinstance(command, click.Group) else set()
        for name, command in bus.commands.items()
    }
    table = TEXT.partition("| command | for |")[2].partition("\n\n")[0]

    missing = {
        f"{noun} {verb}".strip()
        for noun, verbs in nouns.items()
        for verb in {"", *verbs}
        if not _named(table, noun, verb)
    }

    assert missing == set()


def _named(table: str, noun: str, verb: str) -> bool:
    words = f" {re.sub(r'[^a-z ]', ' ', table)} "
    return f" {noun} " in words and (not verb or f" {verb} " in words)


def test_every_file_it_links_to_is_there() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", TEXT)

    assert [link for link in links if not (ROOT / link).exists()] == []


@pytest.mark.parametrize("number", range(1, 9))
def test_every_promise_has_tests_that_bear_its_number(number: int) -> None:
    tests = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))

    assert f"| {number} | **" in TEXT
    assert re.search(rf"^def test_promise_{number}_", tests, re.MULTILINE)
