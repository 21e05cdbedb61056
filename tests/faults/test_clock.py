"""Clocks that jump by an hour or a day: nothing but retries, probes and times of day goes by them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.stage import PATIENCE, Stage, lasts, under_load
from tests.faults.survival import Survival
from tests.system.running_bus import LEASE, ROLES

JUMPS = {"an-hour-ahead": "+3600", "an-hour-back": "-3600", "a-day-back": "-86400"}
HEALED = "+0"


class Clock:
    """The wall clock of processes that are started with its environment; it is set while they run."""

    def __init__(self, library: Path, folder: Path) -> None:
        self._offset = folder / "clock"
        self.environ = {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(self._offset),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }
        self.set(HEALED)

    def set(self, offset: str) -> None:
        """Seconds beside the true time."""
        fresh = self._offset.with_suffix(".new")
        fresh.write_text(offset)
        fresh.replace(self._offset)
        says = [sys.executable, "-c", "import time; print(time.time())"]
        told = subprocess.run(says, env=os.environ | self.environ, check=True, capture_output=True, text=True).stdout
        assert abs(float(told) - time.time() - float(offset)) < PATIENCE


@pytest.fixture
def clock(libfaketime: Path, tmp_path: Path) -> Clock:
    return Clock(libfaketime, tmp_path)


@pytest.fixture
def restarted(lasting_stage: Stage) -> Iterator[None]:
    """Whoever had another clock is replaced afterwards."""
    yield
    lasting_stage.bus.stop(*ROLES)


def buried(stage: Stage) -> int:
    return len(stage.bus.told("worker buried"))


@pytest.mark.timeout(400)
@pytest.mark.every_fault
@pytest.mark.usefixtures("restarted")
@pytest.mark.parametrize("jump", JUMPS)
@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("lasting_stage", [pytest.param("postgresql", marks=pytest.mark.postgresql)], indirect=True)
def test_a_process_whose_own_clock_jumps_beside_a_postgresql(
    stage: Stage, clock: Clock, survival: Survival, role: str, jump: str
) -> None:
    """All times are its server's: nothing moves, whatever the process believes."""
    stage.bus.stop(role)
    stage.start(role, environ=clock.environ)
    dead = buried(stage)

    with under_load(stage, survival.seed) as load:
        clock.set(JUMPS[jump])
        lasts(2 * LEASE)

    survival.tell(stage.findings(load.truth), store=stage.kind, holding=load.holding)
    assert buried(stage) == dead


@pytest.mark.timeout(400)
@pytest.mark.every_fault
@pytest.mark.usefixtures("restarted")
@pytest.mark.parametrize("jump", JUMPS)
@pytest.mark.parametrize("lasting_stage", ["sqlite"], indirect=True)
def test_a_machine_whose_clock_jumps_and_is_set_right_again_beside_a_sqlite(
    stage: Stage, clock: Clock, survival: Survival, jump: str
) -> None:
    """All times are the machine's: what is to be tried again waits by them, leases and order do not go by them."""
    stage.bus.stop(*ROLES)
    stage.start(*ROLES, environ=clock.environ)
    dead = buried(stage)

    with under_load(stage, survival.seed) as load:
        clock.set(JUMPS[jump])
        lasts(2 * LEASE)
        if jump != "an-hour-ahead":
            clock.set(HEALED)
        # A clock that was ahead is left so until all is at rest: what is tried again by it is due by it.

    survival.tell(stage.findings(load.truth), store=stage.kind, holding=load.holding)
    assert buried(stage) == dead
