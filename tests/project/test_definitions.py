"""rabbitmq/definitions.json says what the project's bus.toml and contracts say."""

from __future__ import annotations

from pathlib import Path

from bus.bootstrap import VHOST, topology_of
from bus.model.topology import definitions_text
from bus.project import load_project

ROOT = Path(__file__).parents[2]


def test_the_checked_in_definitions_are_current() -> None:
    current = definitions_text(topology_of(load_project(ROOT)), vhost=VHOST)

    written = (ROOT / "rabbitmq" / "definitions.json").read_text()

    assert written == current, "write it again: bus topology show -o json > rabbitmq/definitions.json"
