"""A command answers at once because it imports only what it works with: most of its time is that of its imports."""

from __future__ import annotations

import subprocess
import sys

import pytest

import bus
from tests.unit.command_line import Plant

STORE = frozenset({"sqlalchemy"})
POSTGRESQL = frozenset({"psycopg", "sqlalchemy.dialects.postgresql"})
CONTRACTS = frozenset({"marshmallow", "msgspec"})
BROKER = frozenset({"amqp", "kombu", "pika", "dramatiq", "ssl"})
OTHERS = frozenset({"alembic", "httpx", "httpcore", "loguru"})
PIPELINE = frozenset({"bus.pipeline", "bus.control", "bus.bootstrap", "bus.store.sqlstore"})
PROJECT = frozenset({"bus.project", "routes", "transformers", "adapters"})
NEVER = POSTGRESQL | (BROKER - {"ssl"}) | OTHERS | PIPELINE

TOLD = """
import atexit, sys
atexit.register(lambda: print(*sys.modules, file=sys.stderr))
from bus.cli import main
main()
"""


def imported_by(plant: Plant, *words: str) -> set[str]:
    """The modules a command has imported when it ends."""
    environ = {name: value for name, value in plant.environ.items() if value is not None}

    done = subprocess.run(
        [sys.executable, "-c", TOLD, *words], env=environ, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    return set(done.stderr.splitlines()[-1].split())


@pytest.mark.parametrize(
    ("command", "never"),
    [
        ("--help", NEVER | STORE | CONTRACTS | PROJECT | BROKER),
        ("message list", NEVER | CONTRACTS | PROJECT),
        ("message show 1", NEVER | CONTRACTS | PROJECT),
        ("lane list", NEVER | CONTRACTS | PROJECT),
        ("status", NEVER | CONTRACTS | PROJECT),
        ("dead list", NEVER | CONTRACTS | PROJECT),
        ("doubt list", NEVER | CONTRACTS | PROJECT),
        ("endpoint list", NEVER),
        ("contract list", NEVER | STORE | BROKER),
        ("route list", NEVER | STORE | BROKER),
    ],
)
def test_a_command_imports_nothing_it_does_not_work_with(plant: Plant, command: str, never: frozenset[str]) -> None:
    assert imported_by(plant, *command.split()) & never == set()


def test_every_public_name_is_there_when_it_is_asked_for() -> None:
    assert all(hasattr(bus, name) for name in bus.__all__)
    assert set(bus.__all__) <= set(dir(bus))
    assert not hasattr(bus, "no_such_name")
