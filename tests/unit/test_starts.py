"""How processes start: what is told, what is refused, and that each line of a JSON log is JSON, whoever wrote it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bus.processes import children_of
from bus.project import load_project
from tests.unit.command_line import CommandLine
from tests.unit.plant_store import ROOT

NOWHERE = "amqp://bus:secret@127.0.0.1:1/"
ROLES = ["router", "worker", "relay"]


def a_project(folder: Path, endpoint: str, *, route: str = "") -> Path:
    for name in ("routes", "transformers", "adapters"):
        (folder / name).mkdir()
    if route:
        (folder / "routes" / "__init__.py").touch()
        (folder / "routes" / "the_only.py").write_text(route)
    (folder / "bus.toml").write_text(
        '[sites.P1]\n[systems.books]\nrole="ERP"\nsites=["P1"]\nuser="b"\nowner="o"\nsupport="s"\n'
        f'[endpoints.books]\nsystem = "books"\nadapter = "http"\n{endpoint}\n'
    )
    return folder


def log_of(project: Path, *words: str) -> list[dict[str, Any]]:
    """What a process that refuses to start has logged; it fails on a line that is no JSON."""
    done = subprocess.run(
        [sys.executable, "-m", "bus", *words, "-o", "json"],
        cwd=project,
        env=os.environ | {"BUS_BROKER": NOWHERE, "BUS_STORE": f"sqlite:///{project}/bus.db"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    return [json.loads(line) for line in done.stderr.splitlines()]


@pytest.mark.parametrize(
    ("endpoint", "place"),
    [
        ('address = "env:NOT_SET_HERE"', "address"),
        ('address = "http://127.0.0.1:1/"\noptions = { token = "env:NOT_SET_HERE" }', "token"),
    ],
)
def test_a_secret_that_is_missing_is_told_before_anything_is_started(tmp_path: Path, endpoint: str, place: str) -> None:
    first, *_ = log_of(a_project(tmp_path, endpoint), "run")

    assert first["level"] == "WARNING"
    assert first["event"] == "endpoint lacks a secret: its deliveries are held"
    assert first["endpoint"] == "books"
    assert first["detail"] == (
        f"bus.toml [endpoints.books] {place}: secret env:NOT_SET_HERE: the variable is not set; "
        "export NOT_SET_HERE before starting the bus"
    )


def test_doctor_names_every_secret_that_is_missing_once_and_its_place(tmp_path: Path) -> None:
    endpoint = 'address = "env:NO_ADDRESS"\noptions = { user = "u", password = "file:no-password" }'
    a_project(tmp_path, endpoint)
    bus = CommandLine(
        {"BUS_PROJECT": str(tmp_path), "BUS_STORE": f"sqlite:///{tmp_path}/bus.db", "BUS_BROKER": NOWHERE}
    )

    findings = [f for f in bus.json("doctor", exit_code=1) if f["check"] == "endpoint books"]

    assert [finding["result"] for finding in findings] == ["bad", "bad"]
    address, password = (finding["text"] for finding in findings)
    assert address.startswith("bus.toml [endpoints.books] address: secret env:NO_ADDRESS: the variable is not set")
    assert password.startswith("bus.toml [endpoints.books] password: secret file:no-password: ")


@pytest.mark.parametrize("role", ROLES)
def test_what_an_address_turned_into_refuses_a_start_by_hand_and_ends_no_process_of_bus_run(
    tmp_path: Path, role: str
) -> None:
    a_project(tmp_path, 'address = "file:books-address"')
    (tmp_path / "books-address").write_text("no address")
    (tmp_path / "books-address").chmod(0o600)

    [by_hand] = log_of(tmp_path, role)
    [supervised] = log_of(tmp_path, role, "--supervised")

    assert "[endpoints.books]" in by_hand["event"]
    assert "there is no store" in supervised["event"]  # it came further: the endpoint is no reason to end


def test_bus_run_tells_its_processes_that_it_has_checked_the_endpoints() -> None:
    children = children_of(load_project(ROOT), "json")

    assert all("--supervised" in child.argv for child in children)


@pytest.mark.parametrize("role", ["run", *ROLES])
def test_what_python_itself_says_is_a_line_of_the_log(tmp_path: Path, role: str) -> None:
    route = (
        "import threading, warnings\n"
        "warnings.warn('outdated')\n"
        "dying = threading.Thread(target=lambda: 1 / 0, name='dying')\n"
        "dying.start()\n"
        "dying.join()\n"
        "class Untidy:\n"
        "    def __del__(self):\n"
        "        raise LookupError('untidy')\n"
        "Untidy()\n"
    )
    a_project(tmp_path, 'address = "http://127.0.0.1:1/"', route=route)

    warned, died, ignored, *_ = log_of(tmp_path, role)

    assert "UserWarning: outdated" in warned["event"]
    assert (died["level"], died["thread"], died["exception"]) == (
        "ERROR",
        "dying",
        "ZeroDivisionError('division by zero')",
    )
    assert ignored["exception"] == "LookupError('untidy')"


def test_the_whole_story_of_an_error_is_a_line_of_the_log(tmp_path: Path) -> None:
    (tmp_path / "bus.toml").write_text("[bus\n")

    story, error = log_of(tmp_path, "--debug", "worker")

    assert story["event"].startswith("Traceback")
    assert "is not TOML" in error["event"]
