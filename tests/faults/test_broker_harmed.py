"""RabbitMQ and the lines to it: killed, cut, stalled, confirms and acks lost, queues and bindings deleted, garbage."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pika
import pytest

from bus.crash_points import Point
from bus.model.envelope import EXCHANGE
from bus.model.topology import UNROUTED
from tests.faults.moments import held_by
from tests.faults.proxy import Proxy, Side
from tests.faults.stage import HEARTBEAT, PATIENCE, QUEUES, Stage, channel, held_at, lasts, under_load
from tests.faults.survival import Survival
from tests.faults.workload import Publishing, workload
from tests.system.running_bus import CANONICAL, INBOUND, NATIVE, ROLES, declare_project, until

IMPATIENT = timedelta(seconds=2)
PAUSE = timedelta(seconds=1)
"""Of publishers, so that the fault finds them at work."""
_UNKNOWN_ACK = (60).to_bytes(2) + (80).to_bytes(2) + (1_000_000).to_bytes(8) + b"\x00"
UNKNOWN_ACK = b"\x01" + (1).to_bytes(2) + len(_UNKNOWN_ACK).to_bytes(4) + _UNKNOWN_ACK + b"\xce"
"""An acknowledgement of what was never sent: RabbitMQ closes the AMQP channel with 406."""


def kill_broker(stage: Stage) -> None:
    stage.node.kill()
    stage.node.restart()


def restart_broker(stage: Stage) -> None:
    stage.node.restart()


def lose_acks(stage: Stage) -> None:
    """Whatever a process acknowledges comes again once its connection ends; it confirms what it likes."""
    before = stage.line.dropped[Side.CLIENT]
    stage.line.lose_acks()
    assert until(lambda: stage.line.dropped[Side.CLIENT] > before + 3, within=PATIENCE)
    stage.line.lose_nothing()
    stage.line.cut()


def lose_confirms_of_hints(stage: Stage) -> None:
    before = stage.line.dropped[Side.SERVICE]
    stage.line.lose_confirms()
    assert until(lambda: stage.line.dropped[Side.SERVICE] > before, within=PATIENCE)
    stage.line.lose_nothing()


def stall_lines(stage: Stage) -> None:
    stage.line.stall()
    lasts(15)
    stage.line.flow()


def swallow_lines(stage: Stage) -> None:
    """Half-open connections: everybody believes to be connected, and nothing arrives."""
    stage.line.swallow()
    lasts(15)
    stage.line.deliver()


def refuse_lines(stage: Stage) -> None:
    stage.line.refuse()
    lasts(10)
    stage.line.accept()


def delete_hints(stage: Stage) -> int:
    """Every Dramatiq queue goes; how many hints lay in them."""
    with channel(stage) as broker:
        return sum(int(broker.queue_delete(queue).method.message_count) for queue in QUEUES[4:])


def garbage(stage: Stage) -> None:
    """10 MB of it on every queue: what is for the router is kept as invalid, what is for workers is no hint."""
    kept, rejected = unreadable(stage), rejected_hints(stage)
    pieces = [os.urandom(5_000_000), *(os.urandom(100_000) for _ in range(50)), b"", b"{}", b"null", b"\x80" * 9]
    with channel(stage) as broker:
        broker.confirm_delivery()
        for queue in QUEUES:
            for piece in pieces:
                broker.basic_publish("", queue, piece, pika.BasicProperties(delivery_mode=2), mandatory=True)
    hints = QUEUES[4:]
    assert until(lambda: unreadable(stage) >= kept + len(pieces) * (len(QUEUES) - len(hints)), within=PATIENCE)
    told = {queue: rejected[queue] + len(pieces) for queue in hints}
    assert until(lambda: all(rejected_hints(stage)[queue] >= told[queue] for queue in hints), within=PATIENCE)


def rejected_hints(stage: Stage) -> Counter[str]:
    """By queue."""
    return Counter(each["queue"] for each in stage.bus.told("hint rejected"))


def unreadable(stage: Stage) -> int:
    receipts = stage.bus.receipts()
    return receipts["invalid"] + receipts["refused"]


HARM: dict[str, Callable[[Stage], object]] = {
    "killed": kill_broker,
    "restarted": restart_broker,
    "acks-lost": lose_acks,
    "confirms-of-hints-lost": lose_confirms_of_hints,
    "lines-stalled": stall_lines,
    "lines-half-open": swallow_lines,
    "lines-refused": refuse_lines,
    "hint-queues-deleted": delete_hints,
    "garbage": garbage,
}


@pytest.mark.timeout(400)
@pytest.mark.every_fault
@pytest.mark.parametrize("harm", HARM)
def test_what_was_confirmed_survives_a_broker(stage: Stage, survival: Survival, harm: str) -> None:
    with under_load(stage, survival.seed) as load:
        HARM[harm](stage)

    survival.tell(stage.findings(load.truth), store=stage.kind, holding=load.holding)
    assert all(process.poll() is None for process in stage.bus.processes.values()), stage.bus.tail()


@pytest.mark.timeout(600)
@pytest.mark.every_fault
def test_a_connection_that_nobody_ends_is_given_up_by_its_heartbeat(stage: Stage, survival: Survival) -> None:
    """Neither side is told anything: a process and the broker find out for themselves that the other one is gone."""
    with under_load(stage, survival.seed, orders=48, pause=PAUSE) as load:
        stage.line.abandon()
        assert stage.line.believed > len(ROLES)
        assert until(lambda: not stage.line.believed, within=3 * HEARTBEAT + PATIENCE), stage.bus.tail()

    survival.tell(stage.findings(load.truth), store=stage.kind, holding=load.holding)
    assert all(process.poll() is None for process in stage.bus.processes.values()), stage.bus.tail()


def channels_closed(stage: Stage) -> int:
    """How often the node closed an AMQP channel because of a delivery tag that it does not know."""
    return stage.node.log_path.read_text(errors="replace").count(_CLOSED)


_CLOSED = "unknown delivery tag"


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("role", "point"),
    [
        ("router", "receive.after_commit"),
        pytest.param("router", "receive.after_open", marks=pytest.mark.every_fault),
        pytest.param("worker", "transform.after_claim", marks=pytest.mark.every_fault),
        pytest.param("worker", "send.after_call", marks=pytest.mark.every_fault),
    ],
)
def test_a_channel_closed_in_mid_batch_brings_the_batch_again_and_nothing_twice(
    stage: Stage, pipes: Path, survival: Survival, role: str, point: Point
) -> None:
    load = workload(stage.bus, seed=survival.seed, name=stage.new_name())
    with held_at(pipes, point) as hold:
        victim = stage.replace(role, crash_at=f"{point}={hold.pipe}")
        publishing = Publishing(load, stage.bus.broker_url)
        assert until(hold.is_reached, within=PATIENCE), stage.bus.tail()
        closed = channels_closed(stage)
        stage.line.say_to_service(UNKNOWN_ACK)
        assert until(lambda: channels_closed(stage) > closed, within=PATIENCE)
    publishing.finish(within=PATIENCE)
    stage.comes_to_rest(load.truth)

    survival.tell(stage.findings(load.truth), store=stage.kind, holding=held_by(stage, victim, point))
    if point.startswith("receive."):
        assert stage.bus.receipts(load.truth.name)["duplicate"] > load.truth.confirmed.total() - len(
            load.truth.confirmed
        )
    assert all(process.poll() is None for process in stage.bus.processes.values()), stage.bus.tail()


@pytest.mark.timeout(400)
@pytest.mark.every_fault
def test_hints_that_a_deleted_queue_held_are_put_again(stage: Stage, survival: Survival) -> None:
    stage.bus.stop("worker")
    load = workload(stage.bus, seed=survival.seed, name=stage.new_name())
    Publishing(load, stage.bus.broker_url).finish(within=PATIENCE)
    assert until(lambda: stage.bus.ready("transform.transaction") > 0, within=PATIENCE), stage.bus.tail()
    lost = delete_hints(stage)
    stage.start("worker")
    stage.comes_to_rest(load.truth)

    survival.tell(stage.findings(load.truth), store=stage.kind, holding=lost)
    assert lost > 0


@pytest.mark.timeout(400)
@pytest.mark.every_fault
def test_confirms_lost_on_their_way_to_a_publisher_cost_duplicates_only(stage: Stage, survival: Survival) -> None:
    load = workload(stage.bus, seed=survival.seed, name=stage.new_name())
    with Proxy(("127.0.0.1", stage.node.amqp_port), amqp=True) as line:
        line.lose_confirms()
        publishing = Publishing(load, line.url(stage.bus.broker_url), patience=IMPATIENT)
        assert until(lambda: line.dropped[Side.SERVICE] > 10, within=PATIENCE)
        line.lose_nothing()
        publishing.finish(within=PATIENCE)
    stage.comes_to_rest(load.truth)

    survival.tell(stage.findings(load.truth), store=stage.kind, holding=line.dropped[Side.SERVICE])
    assert stage.bus.receipts(load.truth.name)["duplicate"] > 0


@pytest.mark.timeout(400)
@pytest.mark.every_fault
def test_what_no_binding_takes_is_kept_aside_and_received(stage: Stage, survival: Survival) -> None:
    with channel(stage) as broker:
        for name in (NATIVE, CANONICAL):
            broker.queue_unbind(INBOUND, EXCHANGE, f"*.*.{name}")
    stage.bus.stop("router")
    load = workload(stage.bus, seed=survival.seed, name=stage.new_name())
    Publishing(load, stage.bus.broker_url).finish(within=PATIENCE)
    assert until(lambda: stage.bus.ready(UNROUTED) == load.truth.received)
    stage.start("router")
    stage.comes_to_rest(load.truth)
    declare_project(stage.bus.folder, stage.bus.broker_url)

    survival.tell(stage.findings(load.truth), store=stage.kind, holding=load.truth.received)
