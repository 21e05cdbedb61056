"""Which processes belong to a plant day: all that it starts carry the day's folder in their environment."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from tests.plant.launch import PlantTrouble, wait_until

VARIABLE = "PLANT_DAY"


def left_of(folder: Path) -> dict[int, str]:
    """Process id → command line of what carries this folder's mark, without the process that asks."""
    mark = f"{VARIABLE}={folder}"
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid() and mark in _environment(entry):
            found[int(entry.name)] = _command(entry)
    return found


def end_left(folder: Path) -> None:
    """End what an earlier day in this folder left behind because it was killed."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in left_of(folder):
            _signal(pid, number)
        try:
            wait_until(lambda: not left_of(folder), within=10, what="the processes of an earlier day have ended")
        except PlantTrouble:
            continue
        return


def require_none_left(folder: Path) -> None:
    """Nothing of the day may run on after it.

    Raises:
        PlantTrouble: these do; they were killed.
    """
    try:
        wait_until(lambda: not left_of(folder), within=10, what="everything has ended")
    except PlantTrouble as error:
        left = left_of(folder)
        for pid in left:
            _signal(pid, signal.SIGKILL)
        listed = "; ".join(f"{pid}: {command}" for pid, command in left.items())
        raise PlantTrouble(f"still running after the day, killed now: {listed}") from error


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return  # it ended between the look and the signal


def _environment(process: Path) -> list[str]:
    try:
        return os.fsdecode((process / "environ").read_bytes()).split("\0")
    except OSError:  # it ended meanwhile, or belongs to another user
        return []


def _command(process: Path) -> str:
    try:
        return os.fsdecode((process / "cmdline").read_bytes()).replace("\0", " ").strip()
    except OSError:
        return "?"
