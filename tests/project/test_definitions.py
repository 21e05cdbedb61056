"""rabbitmq/definitions.json says what the project's bus.toml and contracts say."""

from __future__ import annotations

import json
from pathlib import Path

from bus.model.topology import VHOST, definitions
from bus.project import load_project, topology_of

ROOT = Path(__file__).parents[2]


def test_the_checked_in_definitions_are_current() -> None:
    current = json.dumps(definitions(topology_of(load_project(ROOT)), vhost=VHOST), indent=2) + "\n"

    written = (ROOT / "rabbitmq" / "definitions.json").read_text()

    assert written == current, "write it again: bus topology show -o json > rabbitmq/definitions.json"
