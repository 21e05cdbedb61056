"""How processes start: what is told, what is refused, and that each line of a JSON log is JSON, whoever wrote it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

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
