"""Fixtures for the services of services.py, their markers, and what happens where a service cannot be had."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from bus.broker.installation import provide_rabbitmq
from bus.errors import BrokerUnavailable, NotAvailable
from tests.services import PostgreSQL, RabbitMQ, Vhost, postgresql_of_the_run, rabbitmq_of_the_run

_MISSING = pytest.StashKey[dict[str, str]]()
_MARKER_OF_FIXTURE = {"installed_rabbitmq": "rabbitmq", "rabbitmq": "rabbitmq", "postgresql": "postgresql"}

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell starts what is to run in its background
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def installed_rabbitmq(pytestconfig: pytest.Config) -> None:
    """RabbitMQ is on this machine: for tests that start nodes of their own."""
    try:
        provide_rabbitmq()
    except NotAvailable as error:
        cannot_be_had(pytestconfig, "RabbitMQ", error)


@pytest.fixture(scope="session")
def rabbitmq(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitMQ]:
    """The broker of this run, started when the first test asks for it."""
    with contextlib.ExitStack() as stack:
        try:
            broker = stack.enter_context(rabbitmq_of_the_run(tmp_path_factory.mktemp("rabbitmq")))
        except BrokerUnavailable:
            raise  # it is there and does not work: never a reason to skip
        except NotAvailable as error:
            cannot_be_had(pytestconfig, "RabbitMQ", error)
        yield broker


@pytest.fixture
def vhost(rabbitmq: RabbitMQ) -> Iterator[Vhost]:
    """An empty vhost on real RabbitMQ."""
    with rabbitmq.fresh_vhost() as fresh:
        yield fresh


@pytest.fixture(scope="session")
def postgresql(pytestconfig: pytest.Config) -> Iterator[PostgreSQL]:
    """The database server of this run, started when the first test asks for it."""
    with contextlib.ExitStack() as stack:
        try:
            server = stack.enter_context(postgresql_of_the_run())
        except NotAvailable as error:
            cannot_be_had(pytestconfig, "PostgreSQL", error)
        yield server


@pytest.fixture
def pg_database(postgresql: PostgreSQL) -> Iterator[str]:
    """The SQLAlchemy URL of an empty database on real PostgreSQL."""
    with postgresql.fresh_database() as url:
        yield url


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The SQLAlchemy URL of an empty database, once for each kind of store."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/bus.db"
    url: str = request.getfixturevalue("pg_database")
    return url


def cannot_be_had(config: pytest.Config, service: str, error: NotAvailable) -> NoReturn:
    """Skip on a developer's machine, loudly; fail where CI=true promised the service."""
    if os.environ.get("CI", "").lower() in {"true", "1"}:
        pytest.fail(f"CI=true, but {service} is missing: {error}", pytrace=False)
    config.stash.setdefault(_MISSING, {})[service] = str(error)
    pytest.skip(f"{service} is missing")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark tests by the services they use; leave out what is not asked for here."""
    for item in items:
        for fixture in getattr(item, "fixturenames", ()):
            if marker := _MARKER_OF_FIXTURE.get(fixture):
                item.add_marker(marker)
    for variable, marker in (("PLANTBUS_SAMPLES", "samples"), ("PLANTBUS_EVERY_FAULT", "every_fault")):
        if not os.environ.get(variable):
            left_out = [item for item in items if item.get_closest_marker(marker) is not None]
            config.hook.pytest_deselected(items=left_out)
            items[:] = [item for item in items if item.get_closest_marker(marker) is None]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say at the very end what this run could not prove."""
    for service, reason in config.stash.get(_MISSING, {}).items():
        terminalreporter.section(f"{service} IS MISSING: ITS TESTS DID NOT RUN", sep="!", red=True, bold=True)
        terminalreporter.write_line(reason)
