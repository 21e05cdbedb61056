"""Whatever is typed and whatever is missing: a sentence, an exit code, never a traceback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import click
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bus.cli import main, status
from bus.cli.root import bus
from tests.unit.command_line import CommandLine, Plant
from tests.unit.plant_store import ROOT

READS_STORE = [
    ("status",),
    ("message", "list"),
    ("message", "list", "--state", "invalid"),
    ("message", "show", "1"),
    ("message", "trace", "1"),
    ("message", "gaps"),
    ("dead", "list"),
    ("dead", "show", "1"),
    ("dead", "replay", "1", "--reason", "r"),
    ("dead", "discard", "1", "--reason", "r"),
    ("doubt", "list"),
    ("doubt", "show", "1"),
    ("doubt", "happened", "1", "--document", "1", "--reason", "r"),
    ("doubt", "absent", "1", "--reason", "r"),
    ("lane", "list"),
    ("lane", "show", "erp/order:1"),
    ("endpoint", "list"),
    ("endpoint", "show", "erp"),
    ("store", "info"),
    ("store", "partitions"),
    ("store", "retire", "--before", "2026-01", "--reason", "r"),
]
NEEDS_BROKER = [
    ("topology", "apply"),
    ("topology", "diff"),
    ("publish", str(ROOT / "bus.toml"), "--type", "sap.production-order.v2", "--system", "erp", "--site", "P100"),
]
NEEDS_PROJECT = [
    *READS_STORE,
    *NEEDS_BROKER,
    ("check",),
    ("route", "list"),
    ("contract", "list"),
    ("contract", "show", "x.y.v1"),
    ("topology", "show"),
    ("store", "upgrade"),
    ("run",),
    ("router",),
    ("worker",),
    ("relay",),
]
BAD_USAGE = [
    ("no-such-noun",),
    ("dead", "no-such-verb"),
    ("dead", "show"),
    ("dead", "show", "x"),
    ("dead", "show", "-1"),
    ("dead", "show", "9" * 30),
    ("store", "retire", "--before", "2026-01"),
    ("store", "retire", "--before", "soon", "--reason", "r"),
    ("store", "retire", "--before", "2026-13", "--reason", "r"),
    ("message", "list", "-n", "0"),
    ("message", "list", "-o", "xml"),
    ("message", "list", "--since", "soon"),
    ("message", "list", "--state", "lost"),
    ("message", "list", "--state", "invalid", "--subject", "x"),
    ("message", "list", "--where", "no-equals-sign"),
    ("doubt", "happened", "1", "--reason", "r"),
    ("doubt", "happened", "1", "--document", " ", "--reason", "r"),
    ("route", "try", "no-such-file", "--type", "x"),
    ("route", "explain", str(ROOT / "bus.toml")),
    ("publish", str(ROOT / "bus.toml"), "--type", "x", "--system", "nobody"),
    ("worker", "--endpoint", "nowhere"),
    ("lane", "show", "x"),
    ("endpoint", "show", "nowhere"),
    ("message", "show", "no-such-id"),
    ("message", "show", "4711"),
    ("message", "show", "R4711"),
    ("message", "trace", "4711"),
]


def leaves(group: click.Group, *path: str) -> list[tuple[str, ...]]:
    """Every command with its full name."""
    found = []
    for name, command in group.commands.items():
        found += leaves(command, *path, name) if isinstance(command, click.Group) else [(*path, name)]
    return found


def _ids(words: tuple[str, ...]) -> str:
    return " ".join(word for word in words if "/" not in word)[:50]


def test_every_command_of_the_bus_is_there() -> None:
    assert {" ".join(words) for words in leaves(bus)} == {
        *("run", "router", "worker", "relay", "check", "status", "doctor", "publish", "bench"),
        *("route list", "route explain", "route try", "message list", "message show", "message trace"),
        "message gaps",
        *("dead list", "dead show", "dead replay", "dead discard"),
        *("doubt list", "doubt show", "doubt happened", "doubt absent"),
        *("lane list", "lane show", "endpoint list", "endpoint show", "contract list", "contract show"),
        *("topology show", "topology apply", "topology diff", "store upgrade", "store info"),
        *("store partitions", "store retire"),
    }


@pytest.mark.parametrize("words", [*leaves(bus), ("dlq", "list")], ids=_ids)
def test_every_command_explains_itself_within_80_columns(words: tuple[str, ...]) -> None:
    result = CommandLine({"COLUMNS": "80"}).type(*words, "--help")

    assert result.exit_code == 0
    assert "--output" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80


@pytest.mark.parametrize("words", NEEDS_PROJECT, ids=_ids)
def test_without_a_project_each_command_says_how_to_name_one(words: tuple[str, ...], tmp_path: Path) -> None:
    result = CommandLine({"BUS_PROJECT": str(tmp_path)}).type(*words)

    assert result.exit_code == 2
    assert "bus.toml" in result.stderr
    assert "--project" in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize("words", READS_STORE, ids=_ids)
def test_without_a_store_each_command_says_how_to_make_one(words: tuple[str, ...], empty_machine: CommandLine) -> None:
    result = empty_machine.type(*words)

    assert result.exit_code == 2
    assert "bus store upgrade" in result.stderr


@pytest.mark.parametrize("words", NEEDS_BROKER, ids=_ids)
def test_without_a_broker_each_command_says_how_to_start_one(
    words: tuple[str, ...], empty_machine: CommandLine
) -> None:
    result = empty_machine.type(*words)

    assert result.exit_code == 2
    assert "bus run" in result.stderr


@pytest.mark.parametrize("words", BAD_USAGE, ids=_ids)
def test_bad_usage_ends_with_2_and_a_sentence(words: tuple[str, ...], plant: Plant) -> None:
    result = plant.type(*words)

    assert result.exit_code == 2
    assert result.stdout == ""
    assert "Error: " in result.stderr


def test_doctor_finds_what_is_missing_and_says_that_sqlite_is_not_for_regulated_use(
    plant: Plant, empty_machine: CommandLine
) -> None:
    with_store = plant.type("doctor", COLUMNS="200")
    findings = empty_machine.json("doctor", exit_code=1)

    assert with_store.exit_code == 1
    assert "Not for regulated use" in with_store.stdout
    assert {"project", "store", "broker", "rights"} <= {finding["check"] for finding in findings}


def test_a_store_is_made_and_told_about(empty_machine: CommandLine) -> None:
    made = empty_machine.json("store", "upgrade")
    again = empty_machine.json("store", "upgrade")
    told = empty_machine.json("store", "info")

    assert (made["changed"], again["changed"]) == (True, False)
    assert told["revision"] == told["needed"] == made["now"]
    assert empty_machine.type("status", "--verify").exit_code == 0


@pytest.mark.parametrize("content", [b"", b"no database at all\n" * 100], ids=["empty", "garbage"])
def test_a_file_that_is_no_store_is_told_in_a_sentence(
    empty_machine: CommandLine, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "bus.db").write_bytes(content)

    result = empty_machine.type("status")

    assert result.exit_code == 2
    assert result.stderr.startswith("Error: ")


def test_what_nobody_foresaw_is_a_sentence_that_names_debug(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a \x1b[2J fault")

    monkeypatch.setattr(status, "_parts", fail)

    result = plant.type("status")
    debugged = plant.type("--debug", "status")

    assert result.exit_code == 2
    assert "RuntimeError" in result.stderr
    assert "--debug" in result.stderr
    assert "Traceback" not in result.output
    assert "\x1b" not in result.output
    assert "Traceback" in debugged.stderr


def test_ctrl_c_is_no_traceback(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(status, "_parts", interrupt)

    result = plant.type("status")

    assert result.exit_code == 130
    assert "Traceback" not in result.output


def test_ctrl_c_before_the_command_is_loaded_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(ModuleType):
        def __getattr__(self, name: str) -> object:
            raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "bus.cli.root", Interrupted("bus.cli.root"))

    with pytest.raises(SystemExit) as ended:
        main()

    assert ended.value.code == 130


def test_a_reader_that_goes_away_is_no_traceback(plant: Plant) -> None:
    command = [sys.executable, "-m", "bus", "message", "list", "--all", "-o", "ndjson"]
    environ = {name: value for name, value in plant.environ.items() if value is not None}
    with subprocess.Popen(
        command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        said = process.stderr.read()

    assert process.returncode == 141
    assert said == ""


WORDS = st.sampled_from(
    sorted(
        {word for words in leaves(bus) for word in words} - {"run", "router", "worker", "relay", "bench"}
        | {
            "-o",
            "json",
            "--all",
            "-n",
            "--state",
            "dead",
            "--reason",
            "1",
            "R1",
            "--since",
            "1h",
            "--where",
            "order.id=1",
        }
        | {"--type", "order.release.v1", "--document", "--yes", "--cause", "--help", "--debug", "-", "--", ""}
    )
)
GARBAGE = st.text(alphabet=st.characters(exclude_characters="\x00"), max_size=12)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words=st.lists(WORDS | GARBAGE, max_size=7))
def test_no_command_prints_a_traceback_whatever_is_typed(plant: Plant, words: list[str]) -> None:
    result = plant.type(*words, input=b"")

    assert result.exit_code in (0, 1, 2), result.output
    assert "Traceback" not in result.output or "--debug" in words
    assert "something unexpected" not in result.output


@pytest.mark.parametrize(
    "words", [("message", "list", "--type", "\ud800"), ("publish", "-", "--type", "x\udcff", "--system", "erp")]
)
def test_an_argument_that_is_no_text_is_told_in_a_sentence(words: tuple[str, ...], plant: Plant) -> None:
    result = plant.type(*words)

    assert result.exit_code == 2
    assert "is no UTF-8 text" in result.stderr
