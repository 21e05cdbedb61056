"""A command line with a store that one bad day was recorded in; made once, copied for each test."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.unit.command_line import CommandLine, Plant
from tests.unit.plant_store import ROOT, make_plant_store


@pytest.fixture(scope="session")
def recorded_day(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plant") / "bus.db"
    make_plant_store(path)
    return path


@pytest.fixture
def plant(recorded_day: Path, tmp_path: Path) -> Plant:
    """The repository's project with the recorded day, to read and to change."""
    for file in recorded_day.parent.iterdir():
        shutil.copy(file, tmp_path / file.name)
    return Plant(_environ(tmp_path), tmp_path / "bus.db")


@pytest.fixture
def empty_machine(tmp_path: Path) -> CommandLine:
    """The repository's project on a machine without store and broker."""
    return CommandLine(_environ(tmp_path))


def _environ(folder: Path) -> dict[str, str | None]:
    return {
        "BUS_PROJECT": str(ROOT),
        "BUS_FOLDER": str(folder),
        "BUS_STORE": f"sqlite:///{folder / 'bus.db'}",
        "BUS_BROKER": None,
        "BUS_MANAGEMENT": None,
        "BUS_ACTOR": "night-shift",
        "COLUMNS": "80",
        "NO_COLOR": "1",
    }
