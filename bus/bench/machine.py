"""What a number was measured on: the machine, and the versions of everything that took part."""

from __future__ import annotations

import os
import platform
import sqlite3
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

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
)


def machine() -> dict[str, object]:
    """Cores, processor, memory in GiB, and the load when it was asked: others at work spoil every number."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": _of(Path("/proc/cpuinfo"), "model name") or platform.processor(),
        "architecture": platform.machine(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": platform.platform(terse=True),
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


def _of(path: Path, field: str) -> str:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(field)), "")
