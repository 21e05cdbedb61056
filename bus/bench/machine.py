"""What a number was measured on: the machine, and the versions of everything that took part."""

from __future__ import annotations

import os
import platform
import sqlite3
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

_LIBRARIES = (
    "plantbus",
    "amqp",
    "celery",
    "dramatiq",
    "faststream",
    "marshmallow",
    "psycopg",
    "pydantic",
    "sqlalchemy",
    "uvloop",
)
_SYNCS = 50


def machine() -> dict[str, object]:
    """Cores, processor, memory in GiB, what the services write to, and the load when it was asked.

    Others at work spoil every number; a disk that syncs in no time, or none at all, flatters whoever commits often.
    """
    folder = Path(tempfile.gettempdir())
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": _of(Path("/proc/cpuinfo"), "model name") or platform.processor(),
        "architecture": platform.machine(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": platform.platform(terse=True),
        "filesystem": filesystem_of(folder),
        "fsync_ms": round(sync_seconds(folder) * 1000, 2),
        "load_before": round(os.getloadavg()[0], 2),
    }


def versions() -> dict[str, str]:
    """Of Python, SQLite and the libraries that are installed."""
    found = {"python": platform.python_version(), "sqlite": sqlite3.sqlite_version}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def filesystem_of(folder: Path) -> str:
    """The kind of file system that it is on, `ext4` say; empty where the system does not tell. Linux."""
    place = folder.resolve()
    try:
        mounts = [line.split() for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()]
    except OSError:
        return ""
    above = [(len(point), at, kind) for at, (_, point, kind, *_) in enumerate(mounts) if place.is_relative_to(point)]
    return max(above)[2] if above else ""  # of several on one another the last one is seen


def sync_seconds(folder: Path) -> float:
    """How long a page that was written takes to be on the disk: the median of some."""
    spans = []
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        for _ in range(_SYNCS):
            file.write(bytes(8192))
            began = time.perf_counter()
            os.fsync(file.fileno())
            spans.append(time.perf_counter() - began)
    return median(spans)


def _of(path: Path, field: str) -> str:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(field)), "")
