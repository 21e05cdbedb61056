"""Fixtures of tests that run the bus as real processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.services import PostgreSQL, RabbitMQ, Vhost
from tests.system.running_bus import RunningBus, running_bus


@pytest.fixture
def bus(shared_bus: RunningBus) -> RunningBus:
    """Router, worker and relay of a small project, on each kind of store; started once for many tests.

    A test keeps to orders of its own, and may end processes: before the next one what is missing is started.
    """
    shared_bus.complete()
    return shared_bus


@pytest.fixture
def fresh_bus(tmp_path: Path, store_url: str, vhost: Vhost) -> Iterator[RunningBus]:
    """As `bus`, for one test alone: nothing happened before."""
    with running_bus(tmp_path / "project", store_url, vhost.amqp_url) as running:
        yield running


@pytest.fixture
def patient_bus(tmp_path: Path, store_url: str, vhost: Vhost) -> Iterator[RunningBus]:
    """As `fresh_bus`, but its calls may take longer than a test waits for anything."""
    with running_bus(tmp_path / "project", store_url, vhost.amqp_url, timeout=60) as running:
        yield running


@pytest.fixture(scope="session", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def shared_bus(
    request: pytest.FixtureRequest, rabbitmq: RabbitMQ, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningBus]:
    folder = tmp_path_factory.mktemp("shared")
    with rabbitmq.fresh_vhost() as vhost:
        if request.param == "sqlite":
            with running_bus(folder / "project", f"sqlite:///{folder}/bus.db", vhost.amqp_url) as running:
                yield running
        else:
            server: PostgreSQL = request.getfixturevalue("postgresql")
            with (
                server.fresh_database() as url,
                running_bus(folder / "project", url, vhost.amqp_url) as running,
            ):
                yield running
