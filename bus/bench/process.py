"""What the system knows of a process: its memory, its processor time, its children. Linux."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_PARENT, _UTIME, _STIME = 1, 11, 12
"""Places in /proc/PID/stat behind the program's name; proc(5)."""


def resident_bytes(pid: int) -> int:
    """The memory it has in RAM; what it shares with others counts whole.

    Raises:
        ProcessLookupError: it ended.
    """
    for line in _read(pid, "status").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise ProcessLookupError(f"process {pid} has no memory any more")


def cpu_seconds(pid: int) -> float:
    """Processor time that it used itself.

    Raises:
        ProcessLookupError: it ended.
    """
    fields = _stat(pid)
    return (int(fields[_UTIME]) + int(fields[_STIME])) / _TICKS


def words_of(pid: int) -> list[str]:
    """Its command line.

    Raises:
        ProcessLookupError: it ended.
    """
    return _read(pid, "cmdline").split("\0")[:-1]


def children_of(parent: int) -> Iterator[int]:
    """The processes that it started itself and that run."""
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            try:
                if int(_stat(int(entry))[_PARENT]) == parent:
                    yield int(entry)
            except ProcessLookupError:
                continue


def _stat(pid: int) -> list[str]:
    return _read(pid, "stat").rpartition(")")[2].split()


def _read(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text()
    except OSError as error:
        raise ProcessLookupError(f"process {pid} ended") from error
