"""RabbitMQ short of something: memory, disk, room in a queue, patience with a consumer, a place for dead letters."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path

import pika
import pytest

from bus.broker.node import PrivateNode
from bus.client import connect
from bus.crash_points import Point
from bus.errors import BrokerUnavailable, NotAvailable
from bus.model.topology import DEAD
from tests.conftest import cannot_be_had
from tests.faults.node_command import alarms, node_command
from tests.faults.stage import (
    PATIENCE,
    VHOSTS,
    Stage,
    channel,
    held_at,
    lasts,
    mortal_node,
    sqlite_store,
    under_load,
)
from tests.faults.stage import stage as staged
from tests.faults.survival import Survival
from tests.faults.tools import small_disk
from tests.faults.workload import Expected, Publishing, Truth, workload
from tests.system.running_bus import INBOUND, a_step, declare_project, until

pytestmark = pytest.mark.every_fault

PAUSE = timedelta(seconds=1)
"""Of publishers, so that the fault finds them at work."""


@contextmanager
def short_of_memory(node: PrivateNode) -> Iterator[None]:
    """Publishers are blocked while the block runs."""
    node_command(node, "set_vm_memory_high_watermark", "absolute", "1")
    try:
        assert until(lambda: "memory" in alarms(node), within=PATIENCE)
        yield
    finally:
        node_command(node, "set_vm_memory_high_watermark", "0.4")
    assert until(lambda: alarms(node) == "[]", within=PATIENCE)


def keeps_publishers_waiting(stage: Stage, truth: Truth) -> None:
    """The broker takes nothing for ten seconds: what is said meanwhile is not confirmed, and nothing new is there."""
    said = a_step(f"{truth.name}-meanwhile", 0)
    truth.expected[said.message_id] = Expected(f"{truth.name}-meanwhile", (0,), ("keeper",))
    line = connect(stage.bus.broker_url, system="mes", site="P1", patience=timedelta(seconds=10))
    with pytest.raises(BrokerUnavailable, match="never confirmed"), line:
        (outcome,) = line.publish_many([said])
    assert isinstance(outcome, BrokerUnavailable)
    assert stage.bus.states(f"{truth.name}-meanwhile") == []


@pytest.mark.timeout(400)
def test_a_memory_alarm_is_waited_out(stage: Stage, survival: Survival) -> None:
    with under_load(stage, survival.seed, pause=PAUSE) as load, short_of_memory(stage.node):
        keeps_publishers_waiting(stage, load.truth)

    survival.tell(stage.findings(load.truth), store=stage.kind, holding=load.holding)


@pytest.fixture
def disk(tmp_path: Path, pytestconfig: pytest.Config) -> Iterator[Path]:
    """A disk of the broker's own."""
    with ExitStack() as stack:
        try:
            mounted = stack.enter_context(small_disk(tmp_path / "disk", megabytes=256))
        except NotAvailable as error:
            cannot_be_had(pytestconfig, "a small disk", error)
        yield mounted


@pytest.fixture
def stage_on_disk(installed_rabbitmq: None, disk: Path, tmp_path: Path) -> Iterator[Stage]:
    with (
        mortal_node(disk / "node", *VHOSTS) as node,
        sqlite_store(tmp_path / "store") as store,
        staged(tmp_path, node, "sqlite", store) as made,
    ):
        yield made


@contextmanager
def short_of_disk(node: PrivateNode, disk: Path) -> Iterator[None]:
    """Somebody else filled it up to 20 MB; RabbitMQ takes nothing more when fewer than 50 are free."""
    ballast = disk / "ballast"
    free = int(subprocess.check_output(["df", "--output=avail", "-m", str(disk)], text=True).split()[-1])
    try:
        ballast.write_bytes(bytes((free - 20) * 1024 * 1024))
        assert until(lambda: "disk" in alarms(node), within=PATIENCE)
        yield
    finally:
        ballast.unlink()
    assert until(lambda: alarms(node) == "[]", within=PATIENCE)


@pytest.mark.timeout(400)
def test_a_disk_alarm_is_waited_out(stage_on_disk: Stage, disk: Path, survival: Survival) -> None:
    stage = stage_on_disk
    with under_load(stage, survival.seed, pause=PAUSE) as load, short_of_disk(stage.node, disk):
        keeps_publishers_waiting(stage, load.truth)

    survival.tell(stage.findings(load.truth), store=stage.kind, holding=load.holding)


@contextmanager
def impatient_with_consumers(stage: Stage) -> Iterator[None]:
    """Whoever acknowledges nothing for 3 s loses its AMQP channel, not after half an hour. For those who come now."""

    def set_patience(timeout: int, tick: int) -> None:
        order = (
            "application:set_env(rabbit, consumer_timeout, {}), application:set_env(rabbit, channel_tick_interval, {})."
        )
        node_command(stage.node, "eval", order.format(timeout, tick))

    set_patience(3_000, 500)
    try:
        yield
    finally:
        set_patience(1_800_000, 60_000)


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("role", "point"),
    [("router", "receive.after_commit"), ("router", "receive.before_commit"), ("worker", "send.after_call")],
)
def test_a_consumer_that_takes_longer_than_the_broker_waits(
    stage: Stage, pipes: Path, survival: Survival, role: str, point: Point
) -> None:
    load = workload(stage.bus, seed=survival.seed, name=stage.new_name())
    timed_out = stage.node.log_path.read_text(errors="replace").count(_TIMED_OUT)
    with impatient_with_consumers(stage), held_at(pipes, point) as hold:
        stage.replace(role, crash_at=f"{point}={hold.pipe}")
        publishing = Publishing(load, stage.bus.broker_url)
        assert until(hold.is_reached, within=PATIENCE), stage.bus.tail()
        assert until(
            lambda: stage.node.log_path.read_text(errors="replace").count(_TIMED_OUT) > timed_out, within=PATIENCE
        )
    publishing.finish(within=PATIENCE)
    stage.comes_to_rest(load.truth)

    survival.tell(stage.findings(load.truth), store=stage.kind, holding=1)
    assert all(process.poll() is None for process in stage.bus.processes.values()), stage.bus.tail()


_TIMED_OUT = "timed out waiting for delivery acknowledgement"


@pytest.mark.timeout(400)
def test_a_queue_that_is_full_makes_publishers_wait(stage: Stage, survival: Survival) -> None:
    """Somebody gave the inbound queue a limit, and the router is away until it is reached."""
    limit = ("--apply-to", "queues", "full", f"^{INBOUND}$", '{"max-length": 20}')
    vhost = stage.bus.broker_url.rpartition("/")[2]
    load = workload(stage.bus, seed=survival.seed, name=stage.new_name())
    stage.bus.stop("router")
    node_command(stage.node, "set_policy", "-p", vhost, *limit)
    try:
        publishing = Publishing(load, stage.bus.broker_url)
        assert until(lambda: publishing.refused > 0, within=PATIENCE)
        stage.start("router")
        publishing.finish(within=PATIENCE)
    finally:
        node_command(stage.node, "clear_policy", "-p", vhost, "full")
    stage.comes_to_rest(load.truth)

    survival.tell(stage.findings(load.truth), store=stage.kind, holding=publishing.refused)


@pytest.mark.timeout(400)
def test_without_a_place_for_dead_letters_nothing_is_rejected_into_nowhere(stage: Stage, survival: Survival) -> None:
    """Workers that find none take no hints; with the place the garbage among these gets there, and is told."""
    told = len(stage.bus.told("hint dead-lettered"))
    with under_load(stage, survival.seed, pause=PAUSE) as load:
        with channel(stage) as broker:
            broker.exchange_delete(DEAD)
            broker.queue_delete(DEAD)
        stage.line.cut()
        with channel(stage) as broker:
            broker.basic_publish("", GARBAGE_FOR, b"no hint", pika.BasicProperties(delivery_mode=2))
        lasts(5)
        assert stage.bus.ready(GARBAGE_FOR) > 0
        declare_project(stage.bus.folder, stage.bus.broker_url)
        assert until(lambda: len(stage.bus.told("hint dead-lettered")) > told, within=PATIENCE), stage.bus.tail()

    survival.tell(stage.findings(load.truth), store=stage.kind, holding=load.holding)


GARBAGE_FOR = "send.ledger"
