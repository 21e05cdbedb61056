"""The command line as a person types it, against a project and a store of the test's own."""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from bus.cli.root import bus
from bus.store.engine import Database
from bus.store.sqlstore import SqlStore


@dataclass(frozen=True)
class CommandLine:
    """Types commands; what they print goes to a terminal of `COLUMNS` columns."""

    environ: Mapping[str, str | None] = field(default_factory=dict)

    def type(self, *words: object, input: bytes | None = None, **environ: str | None) -> Result:  # noqa: A002
        hooks = threading.excepthook, sys.unraisablehook
        try:
            return CliRunner().invoke(bus, [str(word) for word in words], input=input, env={**self.environ, **environ})
        finally:  # a command that is a process of the bus takes them until it ends
            threading.excepthook, sys.unraisablehook = hooks
            logging.captureWarnings(False)

    def json(self, *words: object, exit_code: int = 0) -> Any:
        """What the command prints as JSON."""
        result = self.type(*words, "-o", "json")
        assert result.exit_code == exit_code, result.output
        return json.loads(result.stdout)


@dataclass(frozen=True)
class Plant(CommandLine):
    """A command line with the store of `plant_store.py`."""

    path: Path = Path()

    def store(self) -> SqlStore:
        return SqlStore(Database(f"sqlite:///{self.path}"))

    def number(self, subject: str, state: str) -> int:
        """The delivery of that subject in that state."""
        (row,) = [
            delivery
            for message in self.json("message", "list", "--subject", subject, "--state", state)
            for delivery in self.json("message", "show", message["number"])["deliveries"]
            if delivery["state"] == state.upper().replace("-", "_")
        ]
        return int(row["number"])
