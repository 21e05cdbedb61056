"""Stages that last for many faults, one for each kind of store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bus.broker.node import PrivateNode
from bus.errors import NotAvailable
from tests.conftest import cannot_be_had
from tests.faults.cluster_network import Network
from tests.faults.stage import VHOSTS, Stage, mortal_node, postgresql_store, sqlite_store
from tests.faults.stage import stage as staged
from tests.faults.survival import Survival
from tests.faults.tools import provide_libfaketime, provide_strace
from tests.services import PostgreSQL


@pytest.fixture(scope="session")
def fault_node(installed_rabbitmq: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateNode]:
    """A RabbitMQ that may be killed."""
    with mortal_node(tmp_path_factory.mktemp("node"), *VHOSTS) as node:
        yield node
        node.kill()  # nothing in it is needed any more, and a clean stop takes seconds


@pytest.fixture(scope="session")
def sqlite_stage(fault_node: PrivateNode, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("sqlite")
    with sqlite_store(folder) as store, staged(folder, fault_node, "sqlite", store) as made:
        yield made


@pytest.fixture(scope="session")
def postgresql_stage(
    fault_node: PrivateNode, postgresql: PostgreSQL, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("postgresql")
    with (
        postgresql.fresh_database() as url,
        postgresql_store(url) as store,
        staged(folder, fault_node, "postgresql", store) as made,
    ):
        yield made


@pytest.fixture(scope="session", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def lasting_stage(request: pytest.FixtureRequest) -> Stage:
    made: Stage = request.getfixturevalue(f"{request.param}_stage")
    return made


@pytest.fixture
def stage(lasting_stage: Stage) -> Stage:
    """The bus on each kind of store, complete and unharmed; what happens on it is told by the names of its orders."""
    lasting_stage.complete()
    return lasting_stage


@pytest.fixture(scope="session")
def strace(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What makes system calls of other processes slow, or fail."""
    try:
        return provide_strace(tmp_path_factory.mktemp("tools"))
    except NotAvailable as error:
        cannot_be_had(pytestconfig, "strace", error)


@pytest.fixture(scope="session")
def libfaketime(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What gives a process a clock of its own."""
    try:
        return provide_libfaketime(tmp_path_factory.mktemp("tools"))
    except NotAvailable as error:
        cannot_be_had(pytestconfig, "libfaketime", error)


@pytest.fixture
def survival(request: pytest.FixtureRequest) -> Survival:
    return Survival(request.node)


@pytest.fixture
def pipes(tmp_path: Path) -> Path:
    """Where named pipes may be made."""
    return tmp_path


@pytest.fixture(scope="session")
def namespaces(pytestconfig: pytest.Config) -> None:
    """This machine lets us make networks."""
    try:
        Network(size=1).close()
    except NotAvailable as error:
        cannot_be_had(pytestconfig, "A network namespace", error)
