"""Fixtures of tests that run the bus as real processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.services import Vhost
from tests.system.running_bus import RunningBus, running_bus


@pytest.fixture
def bus(tmp_path: Path, store_url: str, vhost: Vhost) -> Iterator[RunningBus]:
    """Router, worker and relay of a small project, on each kind of store."""
    with running_bus(tmp_path / "project", store_url, vhost.amqp_url) as running:
        yield running
