"""What people ask of a project without broker and store: check, routes, contracts, topology."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.command_line import CommandLine
from tests.unit.plant_store import ROOT, sap_order

TYPE = ("--type", "sap.production-order.v2")


@pytest.fixture
def order(tmp_path: Path) -> Path:
    path = tmp_path / "order.json"
    path.write_text(json.dumps(sap_order("000001000777")))
    return path


# --- check -----------------------------------------------------------------------------------------------------------


def test_a_sound_project_passes(empty_machine: CommandLine) -> None:
    result = empty_machine.type("check")

    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("ok")


@pytest.mark.parametrize(
    ("broken", "named"),
    [
        ("[bus]\nunknown = 1\n", "unknown"),
        ("[bus\n", "is not TOML"),
        ('[systems.erp]\nrole = "ERP"\n', "systems.erp"),
        ("[sites.P100]\n", "sap.production-order.v2"),
    ],
)
def test_a_broken_project_is_refused_with_the_place(tmp_path: Path, broken: str, named: str) -> None:
    for folder in ("routes", "transformers"):
        (tmp_path / folder).mkdir()
    if named.startswith("sap"):
        broken += (
            '[systems.erp]\nrole="ERP"\nsites=["P100"]\npublishes=["sap.production-order.v2"]\nowner="o"\nsupport="s"\n'
        )
    (tmp_path / "bus.toml").write_text(broken)

    checked = CommandLine({"BUS_PROJECT": str(tmp_path), "COLUMNS": "200"})

    result = checked.type("check")
    assert result.exit_code == 1
    assert "bus.toml" in result.stdout
    assert named in result.stdout
    assert json.loads(checked.type("check", "-o", "json").stdout)[0]["complaint"]


def test_a_mistake_in_a_file_outside_the_project_is_told_with_its_file_and_line(tmp_path: Path) -> None:
    shared, project = tmp_path / "shared", tmp_path / "project"
    shared.mkdir()
    (project / "routes").mkdir(parents=True)
    (shared / "common_to_plants.py").write_text("fine = 1\nnot = fine\n")
    (project / "routes" / "__init__.py").touch()
    (project / "routes" / "ours_and_theirs.py").write_text("import common_to_plants\n")
    (project / "bus.toml").write_text("")
    words = [sys.executable, "-m", "bus", "--project", str(project), "check", "-o", "json"]
    environ = os.environ | {"PYTHONPATH": str(shared)}

    # A process of its own: in this one another project's routes are imported already.
    result = subprocess.run(words, env=environ, capture_output=True, text=True, check=False)

    assert result.returncode == 1
    assert f"{shared / 'common_to_plants.py'}:2: SyntaxError" in result.stdout


# --- routes ----------------------------------------------------------------------------------------------------------


def test_explain_prints_each_route_with_its_conditions(empty_machine: CommandLine, order: Path) -> None:
    result = empty_machine.type("route", "explain", order, *TYPE, COLUMNS="120")

    assert result.exit_code == 0, result.output
    assert "sap-orders-become-releases → bus  takes it" in result.stdout
    assert 'holds  OrderIsReleased == "X", was "X"' in result.stdout


def test_explain_says_which_condition_failed(empty_machine: CommandLine, tmp_path: Path) -> None:
    planned = tmp_path / "planned.json"
    planned.write_text(json.dumps(sap_order("1", OrderIsReleased="")))

    result = empty_machine.type("route", "explain", planned, *TYPE)

    assert 'failed OrderIsReleased == "X", was ""' in result.stdout
    assert "unrouted" in result.stdout


def test_try_gives_every_receivers_exact_output_through_re_entry(empty_machine: CommandLine, order: Path) -> None:
    tried = empty_machine.json("route", "try", order, *TYPE)

    (entering,) = tried["deliveries"][0]["entering"]
    (delivery,) = entering["deliveries"]
    assert (entering["type"], delivery["to"]) == ("order.release.v1", "mes-p100")
    (output,) = delivery["outputs"]
    assert output["body"].startswith("<?xml")
    assert "<QuantityString>125.5</QuantityString>" in output["body"]


def test_try_prints_the_exact_bytes_of_one_receiver(empty_machine: CommandLine, order: Path) -> None:
    tried = empty_machine.json("route", "try", order, *TYPE)
    (delivery,) = tried["deliveries"][0]["entering"][0]["deliveries"]

    exact = empty_machine.type("route", "try", order, *TYPE, "--exact", "--to", "mes-p100")
    nothing = empty_machine.type("route", "try", order, *TYPE, "--exact", "--to", "erp")

    assert exact.stdout == delivery["outputs"][0]["body"]
    assert "to mes-p100: b2mml.operations-schedule" in exact.stderr
    assert (nothing.stdout, nothing.exit_code) == ("", 0)


@pytest.mark.parametrize("words", [("--to", "mes-p100"), ("--exact", "--to", "nobody"), ("--exact", "-o", "json")])
def test_try_refuses_what_does_not_go_together(empty_machine: CommandLine, order: Path, words: tuple[str, ...]) -> None:
    assert empty_machine.type("route", "try", order, *TYPE, *words).exit_code == 2


def test_try_tells_what_would_be_dead(empty_machine: CommandLine, tmp_path: Path) -> None:
    strange = tmp_path / "strange.json"
    strange.write_text(json.dumps(sap_order("1", ProductionUnit="XYZ")))

    result = empty_machine.type("route", "try", strange, *TYPE)

    assert result.exit_code == 1
    assert "would be dead" in result.stdout
    assert "value-map.missing" in result.stdout


def test_try_reads_standard_input(empty_machine: CommandLine) -> None:
    result = empty_machine.type("route", "try", "-", *TYPE, input=json.dumps(sap_order("7")).encode())

    assert result.exit_code == 0, result.output


def test_try_opens_a_document_as_the_router_would(empty_machine: CommandLine, tmp_path: Path) -> None:
    bad = tmp_path / "bad.json"
    bad.write_bytes(b'{"ManufacturingOrder": }')

    refused = empty_machine.type("route", "try", bad, *TYPE)
    foreign = empty_machine.type("route", "try", bad, *TYPE, "--system", "mes-p100")
    unknown = empty_machine.type("route", "try", bad, "--type", "no.such-type.v1")

    assert (refused.exit_code, foreign.exit_code, unknown.exit_code) == (1, 1, 1)
    assert "line 1, column 24" in refused.stderr
    assert "sender.not-allowed-type" in foreign.stderr
    assert "order.release.v1" in unknown.stderr


def test_canonical_types_that_nobody_publishes_can_be_tried(empty_machine: CommandLine, tmp_path: Path) -> None:
    example = tmp_path / "release.json"
    example.write_text(empty_machine.json("contract", "show", "order.release.v1")["examples"][0])

    tried = empty_machine.json("route", "try", example, "--type", "order.release.v1")

    assert [delivery["to"] for delivery in tried["deliveries"]] == ["mes-p100"]


# --- contracts and topology ------------------------------------------------------------------------------------------


def test_a_contract_shows_its_fields_and_rules(empty_machine: CommandLine) -> None:
    shown = empty_machine.json("contract", "show", "order.release.v1")

    fields = {field["path"]: field for field in shown["fields"]}
    assert fields["order.id"]["required"]
    assert fields["components.*.material.id"]["rules"]
    assert shown["key"] == "order:{order.id}"


def test_every_contract_can_be_shown_at_80_columns(empty_machine: CommandLine) -> None:
    for contract in empty_machine.json("contract", "list"):
        result = empty_machine.type("contract", "show", contract["type"])

        assert result.exit_code == 0, result.output
        assert " object at 0x" not in result.stdout


def test_topology_is_shown_as_rabbitmqs_definitions(empty_machine: CommandLine) -> None:
    shown = empty_machine.json("topology", "show")

    assert {"send.erp", "bus.unrouted"} <= {queue["name"] for queue in shown["queues"]}
    assert all(user["password_hash"] == "" for user in shown["users"])


def test_routes_are_listed_by_type_and_destination(empty_machine: CommandLine) -> None:
    by_type = empty_machine.json("route", "list", "--type", "order.release.v1")

    assert [route["to"] for route in by_type] == ["mes-p100", "mes-p200"]
    assert all(route["to"] == "erp" for route in empty_machine.json("route", "list", "--to", "erp"))


def test_a_project_can_be_named_before_or_after_the_command(tmp_path: Path) -> None:
    shutil.copy(ROOT / "bus.toml", tmp_path)
    nowhere = CommandLine({"BUS_PROJECT": None})

    assert nowhere.type("--project", ROOT, "contract", "list").exit_code == 0
    assert nowhere.type("contract", "list", "--project", ROOT).exit_code == 0


# --- endpoints that cannot be opened ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ('address = "env:NOT_SET_HERE"', ""),
        ('address = "http://127.0.0.1:1/"\noptions = { token = "env:NOT_SET_HERE" }', ""),
        ('address = "env:NOT_SET_HERE"\noptions = { tokn = "env:NOT_SET_HERE" }', "tokn"),
        ('address = "ftp://127.0.0.1/"', "bus.toml [endpoints.books]"),
        ('address = "http://127.0.0.1:1/"\noptions = { tokn = "env:NOT_SET_HERE" }', "tokn"),
    ],
    ids=["address-missing", "token-missing", "address-missing-and-unknown-option", "wrong-address", "unknown-option"],
)
def test_a_secret_that_is_missing_stops_no_start_and_what_is_wrong_does(
    tmp_path: Path, options: str, complaint: str
) -> None:
    (tmp_path / "bus.toml").write_text(
        '[sites.P1]\n[systems.books]\nrole="ERP"\nsites=["P1"]\nuser="b"\nowner="o"\nsupport="s"\n'
        f'[endpoints.books]\nsystem = "books"\nadapter = "http"\n{options}\n'
    )
    for folder in ("routes", "transformers"):
        (tmp_path / folder).mkdir()

    result = CommandLine({"BUS_PROJECT": str(tmp_path), "COLUMNS": "200"}).type("check", "-o", "json")

    found = [row["complaint"] for row in json.loads(result.stdout) if row["complaint"].startswith("bus.toml [end")]
    assert bool(found) is bool(complaint), result.output
    assert all(complaint in each for each in found)


@pytest.mark.parametrize("role", ["run", "router", "worker", "relay"])
def test_a_process_that_refuses_to_start_says_so_in_the_form_of_its_log(tmp_path: Path, role: str) -> None:
    (tmp_path / "bus.toml").write_text("[bus\n")

    done = subprocess.run(
        [sys.executable, "-m", "bus", "--project", tmp_path, role, "-o", "json"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    [line] = done.stderr.splitlines()
    assert done.returncode == 2
    assert json.loads(line)["level"] == "ERROR"
    assert "is not TOML" in json.loads(line)["event"]
    assert done.stdout == ""


@pytest.mark.parametrize("numbers", ["", "x", "1-", "3-1", "-1", "0-64", "1;2", "²"])
def test_partitions_are_numbers_and_ranges(numbers: str) -> None:
    result = CommandLine({}).type("router", "--partitions", numbers)

    assert result.exit_code == 2
    assert "numbers from 0 to 63 are expected" in " ".join(result.stderr.split())


def test_a_partition_that_does_not_exist_is_named() -> None:
    result = CommandLine({}).type("router", "--partitions", "0-2,7")

    assert result.exit_code == 2
    assert "there is no partition 1, the last one is 0" in result.stderr


def _a_project(folder: Path, endpoint: str, **files: str) -> CommandLine:
    for name in ("routes", "transformers", "adapters"):
        (folder / name).mkdir()
        if files:
            (folder / name / "__init__.py").touch()
    for name, text in files.items():
        (folder / name.replace("__", "/")).with_suffix(".py").write_text(text)
    (folder / "bus.toml").write_text(
        '[sites.P1]\n[systems.books]\nrole="ERP"\nsites=["P1"]\nuser="b"\nowner="o"\nsupport="s"\n'
        f'[endpoints.books]\nsystem = "books"\n{endpoint}\n'
    )
    return CommandLine(
        {
            "BUS_PROJECT": str(folder),
            "BUS_STORE": f"sqlite:///{folder}/bus.db",
            "COLUMNS": "200",
            "TARGET": "hunter2-S3cret",
        }
    )


@pytest.mark.parametrize(
    "address",
    ["env:TARGET", "hunter2-S3cret", "http://xn--a/hunter2-S3cret", "user:hunter2-S3cret/x", "ftp://hunter2-S3cret@h/"],
)
def test_an_address_that_is_none_is_never_quoted(tmp_path: Path, address: str) -> None:
    result = _a_project(tmp_path, f'adapter = "http"\naddress = "{address}"').type("check")

    assert result.exit_code == 1
    assert "[endpoints.books]" in result.stdout
    assert "hunter2" not in result.output


@pytest.mark.parametrize(
    "endpoint",
    [
        'adapter = "http"\naddress = "http://h/hook?token=S3cret"',
        'adapter = "amqp"\naddress = "amqp://u:S3cret@h/"\noptions = { url = "env:U" }',
    ],
)
def test_an_address_is_shown_without_what_may_be_secret(tmp_path: Path, endpoint: str) -> None:
    bus = _a_project(tmp_path, endpoint)
    assert bus.type("store", "upgrade").exit_code == 0

    for words in (("endpoint", "show", "books"), ("endpoint", "show", "books", "-o", "json"), ("endpoint", "list")):
        assert "S3cret" not in bus.type(*words).output


def test_the_reference_of_an_address_is_shown(tmp_path: Path) -> None:
    bus = _a_project(tmp_path, 'adapter = "http"\naddress = "env:NOT_SET_HERE"')
    assert bus.type("store", "upgrade").exit_code == 0

    assert "env:NOT_SET_HERE" in bus.type("endpoint", "show", "books").stdout


def test_an_adapter_that_is_not_there_is_found_though_its_address_is_missing(tmp_path: Path) -> None:
    bus = _a_project(tmp_path, 'adapter = "adapters.nope:Missing"\naddress = "env:NOT_SET_HERE"')

    assert "adapters.nope" in bus.type("check").stdout


def test_an_adapter_that_raises_is_named_and_its_words_are_not_repeated(tmp_path: Path) -> None:
    shy = "class Shy:\n    def __init__(self, endpoint, *, secret):\n        raise LookupError('hunter2')\n"
    _a_project(tmp_path, 'adapter = "adapters.shy_one:Shy"\naddress = "http://h/"', adapters__shy_one=shy)

    [complaint] = _checked_elsewhere(tmp_path)

    assert "[endpoints.books]" in complaint
    assert "LookupError" in complaint
    assert "hunter2" not in complaint


@pytest.mark.parametrize("file", ["transformers__leaves", "routes__leaves"])
def test_a_project_that_leaves_python_is_not_taken_for_sound(tmp_path: Path, file: str) -> None:
    _a_project(tmp_path, 'adapter = "http"\naddress = "http://h/"', **{file: "raise SystemExit(0)\n"})

    [complaint] = _checked_elsewhere(tmp_path)

    assert f"{file.replace('__', '/')}.py:1: SystemExit" in complaint


def _checked_elsewhere(folder: Path) -> list[str]:
    """What `bus check` complains of, in a process that never imported this repository's own project."""
    words = [sys.executable, "-m", "bus", "check", "-o", "json"]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    return [row["complaint"] for row in json.loads(done.stdout)]
