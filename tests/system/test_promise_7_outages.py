"""Promise 7: store down: nothing is acknowledged; broker down: publishers are told; all resume by themselves."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import httpx
import psycopg
import pytest

from bus.broker.node import PrivateNode
from bus.client import connect
from bus.errors import BrokerUnavailable
from tests.services import Vhost, definitions_with_user, postgresql_of_the_run
from tests.system.booking_target import Act
from tests.system.running_bus import INBOUND, ROLES, RunningBus, a_step, running_bus, until


@dataclass(frozen=True)
class MortalStore:
    """A store that can go away and come back."""

    url: str
    go_away: Callable[[], object]
    come_back: Callable[[], object]


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def mortal_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MortalStore]:
    """Each kind of store for one test alone: SQLite on a disk that can be unmounted, a PostgreSQL of its own."""
    if request.param == "sqlite":
        mounted, away = tmp_path / "disk", tmp_path / "unmounted"
        mounted.mkdir()
        yield MortalStore(f"sqlite:///{mounted}/bus.db", lambda: mounted.rename(away), lambda: away.rename(mounted))
    else:
        request.getfixturevalue("postgresql")  # skipped, or failed, where there is none
        with own_postgresql() as store:
            yield store


@contextlib.contextmanager
def own_postgresql() -> Iterator[MortalStore]:
    with postgresql_of_the_run() as server, contextlib.ExitStack() as stack:
        server.administrator.execute("CREATE DATABASE mortal")
        first = int((server.folder / "data" / "postmaster.pid").read_text().split()[0])
        command = Path(f"/proc/{first}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
        owner = server.folder.stat().st_uid

        def go_away() -> None:
            os.kill(first, signal.SIGINT)
            assert until(lambda: not (server.folder / "data" / "postmaster.pid").exists())

        def come_back() -> None:
            again = subprocess.Popen(command, user=owner, cwd="/", stderr=subprocess.DEVNULL, start_new_session=True)
            stack.callback(again.wait, 20)
            stack.callback(again.send_signal, signal.SIGINT)
            assert until(accepts)

        def accepts() -> bool:
            with contextlib.suppress(psycopg.OperationalError):
                psycopg.connect(host=str(server.folder), user="postgres").close()
                return True
            return False

        yield MortalStore(f"postgresql://postgres@/mortal?host={server.folder}", go_away, come_back)


def test_promise_7_while_the_store_is_away_nothing_is_acknowledged_and_all_resumes_by_itself(
    mortal_store: MortalStore, vhost: Vhost, tmp_path: Path
) -> None:
    with running_bus(tmp_path / "project", mortal_store.url, vhost.amqp_url, timeout=30) as bus:
        bus.wait_for_relay()  # a process that starts while the store is away says so and ends
        bus.keeper.will("a", 0, Act.HOLD_THEN_BOOK)
        bus.publish(a_step("a", 0), a_step("b", 0, "ledger"))
        bus.keeper.wait_for_post("a", 0)
        bus.ledger.wait_for_steps("b", [0])

        mortal_store.go_away()
        bus.publish(*(a_step("a", step, "keeper", "ledger") for step in range(1, 20)))
        bus.keeper.release()  # a worker learns an outcome that it cannot write down
        bus.keeper.wait_for_steps("a", [0])
        assert until(lambda: bool(bus.told("router waits for the store")))
        assert until(lambda: messages_at_the_broker(vhost) == 19)
        mortal_store.come_back()

        bus.keeper.wait_for_steps("a", range(20))
        bus.ledger.wait_for_steps("a", range(1, 20))
        bus.comes_to_rest(received=21)
        assert len(bus.keeper.posts("a", 0)) == 1
        assert alive(bus)
        bus.proves_itself()


def messages_at_the_broker(vhost: Vhost) -> int:
    """Those of the inbound queue, sent to the router or not; RabbitMQ counts them anew every five seconds."""
    answer = httpx.get(
        f"{vhost.management_url}/api/queues/{vhost.name}",
        params={"disable_stats": "true", "enable_queue_totals": "true"},
        auth=(vhost.admin_user, vhost.admin_password),
    )
    (found,) = [queue["messages"] for queue in answer.raise_for_status().json() if queue["name"] == INBOUND]
    return int(found)


@pytest.fixture
def own_node(tmp_path: Path, installed_rabbitmq: None) -> Iterator[PrivateNode]:
    """A RabbitMQ that a test may kill."""
    definitions = definitions_with_user("mes", "secret")
    with PrivateNode(tmp_path / "rabbitmq", definitions=definitions) as node:
        yield node


def test_promise_7_while_the_broker_is_down_publishers_get_an_error_and_all_resume_by_themselves(
    own_node: PrivateNode, store_url: str, tmp_path: Path
) -> None:
    url = f"amqp://mes:secret@127.0.0.1:{own_node.amqp_port}/%2F"
    with (
        running_bus(tmp_path / "project", store_url, url, timeout=30) as bus,
        connect(url, system="mes", site="P1", patience=timedelta(seconds=2)) as line,
    ):
        bus.keeper.will("a", 0, Act.HOLD_THEN_BOOK)
        assert line.publish_many([a_step("a", step, "keeper", "ledger") for step in range(10)]) == [None] * 10
        bus.keeper.wait_for_post("a", 0)

        confirmed = [a_step("b", step, "keeper", "ledger") for step in range(50)]
        assert line.publish_many(confirmed) == [None] * 50
        own_node.kill()
        (refused,) = line.publish_many([a_step("b", 50, "keeper", "ledger")])
        assert isinstance(refused, BrokerUnavailable)
        bus.keeper.release()
        bus.keeper.wait_for_entries(1)  # what a worker has in hand needs no broker; it may hold more than the first
        own_node.restart()
        line.publish_many([a_step("b", step, "keeper", "ledger") for step in (50, 51)])
        bus.publish(a_step("b", 52, "keeper", "ledger"))

        for target in (bus.keeper, bus.ledger):
            target.wait_for_steps("a", range(10))
            target.wait_for_steps("b", range(53))
        assert until(lambda: bus.open_deliveries() == 0)
        assert alive(bus)
        bus.proves_itself()


def alive(bus: RunningBus) -> bool:
    """Every process is the one that was started."""
    return set(bus.processes) == set(ROLES) and all(process.poll() is None for process in bus.processes.values())
