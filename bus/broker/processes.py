"""The processes of a private node, known by a mark in their environment, and how they are ended.

Uses the standard library only and runs as a file of its own: the last act of a node whose parent died is
`python processes.py FOLDER MARK`. A process is signalled only when its environment carries the mark of the folder, so a
number that was given to somebody else's process in the meantime is never touched.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

MARK_VARIABLE = "PLANTBUS_NODE"
_RECORD = "processes.json"
_PATIENCE = 15.0  # seconds a node gets to stop by itself before it is killed
_LOOK_AGAIN = 0.05  # seconds


@dataclass(frozen=True)
class NodeRecord:
    """What one start of a node put into its folder: its mark and its two processes."""

    mark: str
    node: int
    epmd: int

    def write(self, folder: Path) -> None:
        """Replace the record of the folder in one step."""
        new = folder / f"{_RECORD}.new"
        new.write_text(json.dumps(asdict(self)))
        new.replace(folder / _RECORD)

    @staticmethod
    def read(folder: Path) -> NodeRecord | None:
        """The record of the last start, or None where there was none."""
        try:
            return NodeRecord(**json.loads((folder / _RECORD).read_text()))
        except (OSError, ValueError, TypeError):
            return None


def new_mark(folder: Path, *, token: str) -> str:
    """The mark of one start in this folder, to be put into the environment of everything it starts."""
    return f"{token}:{folder}"


def end_what_is_left(folder: Path) -> None:
    """End every process that any earlier start in this folder left behind; returns when they are gone."""
    if record := NodeRecord.read(folder):
        end_node(folder, record.mark)
    # A parent killed between a start and its record leaves processes that only their mark tells.
    _end(lambda: _marked(lambda mark: mark.partition(":")[2] == str(folder)), patience=_PATIENCE)


def end_node(folder: Path, mark: str) -> None:
    """End the node of this mark, then its port mapper; does nothing when a later start took the folder over."""
    record = NodeRecord.read(folder)
    if record is not None and record.mark == mark:
        # First the node alone: without its helper processes it would abort instead of stopping.
        _end(lambda: [pid for pid in _marked(mark.__eq__) if pid == record.node], patience=_PATIENCE)
    _end(lambda: _marked(mark.__eq__), patience=_PATIENCE)


def _marked(fits: Callable[[str], bool]) -> list[int]:
    """Ids of the processes of this user whose mark fits; a finished one has no environment any more."""
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit() and fits(_mark(entry))]


def _mark(process: Path) -> str:
    try:
        environment = os.fsdecode((process / "environ").read_bytes()).split("\0")
    except OSError:  # it ended meanwhile, or belongs to another user
        return ""
    return next((entry.partition("=")[2] for entry in environment if entry.startswith(f"{MARK_VARIABLE}=")), "")


def _end(find: Callable[[], list[int]], *, patience: float) -> None:
    """Ask what `find` names to stop; kill what is still there when the patience is used up."""
    _signal(find(), signal.SIGTERM)
    give_up_at = time.monotonic() + patience
    while (left := find()) and time.monotonic() < give_up_at:
        time.sleep(_LOOK_AGAIN)
    while left:
        _signal(left, signal.SIGKILL)
        time.sleep(_LOOK_AGAIN)
        left = find()


def _signal(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue  # it ended between the look and the signal


if __name__ == "__main__":
    end_node(Path(sys.argv[1]), sys.argv[2])
