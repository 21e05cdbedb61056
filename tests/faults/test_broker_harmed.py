"""RabbitMQ and the lines to it: killed, cut, stalled, confirms and acks lost, queues and bindings deleted, garbage."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel

from bus.model.envelope import EXCHANGE
from bus.model.topology import UNROUTED
from tests.faults.proxy import Proxy, Side
from tests.faults.stage import PATIENCE, QUEUES, Stage, lasts, under_load
from tests.faults.survival import Survival
from tests.faults.workload import Publishing, workload
from tests.system.running_bus import CANONICAL, INBOUND, NATIVE, declare_project, until

IMPATIENT = timedelta(seconds=2)
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


def close_channels(stage: Stage) -> None:
    stage.line.say_to_service(UNKNOWN_ACK)


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


@contextmanager
def channel(stage: Stage) -> Iterator[BlockingChannel]:
    connection = pika.BlockingConnection(pika.URLParameters(stage.bus.broker_url))
    try:
        yield connection.channel()
    finally:
        connection.close()


def delete_hints(stage: Stage) -> None:
    """Every Dramatiq queue goes, with whatever is in it."""
    with channel(stage) as broker:
        for queue in QUEUES[4:]:
            broker.queue_delete(queue)


def garbage(stage: Stage) -> None:
    """10 MB of it on the inbound queue and on a Dramatiq queue; the one is kept as invalid, the other is no hint."""
    kept, rejected = unreadable(stage), len(stage.bus.told("hint rejected"))
    pieces = [os.urandom(5_000_000), *(os.urandom(100_000) for _ in range(50)), b"", b"{}", b"null", b"\x80" * 9]
    with channel(stage) as broker:
        broker.confirm_delivery()
        for piece in pieces:
            broker.basic_publish("", INBOUND, piece, pika.BasicProperties(delivery_mode=2), mandatory=True)
            broker.basic_publish("", "send.keeper", piece, pika.BasicProperties(delivery_mode=2), mandatory=True)
    assert until(lambda: unreadable(stage) >= kept + len(pieces), within=PATIENCE)
    assert until(lambda: len(stage.bus.told("hint rejected")) >= rejected + len(pieces), within=PATIENCE)


def unreadable(stage: Stage) -> int:
    receipts = stage.bus.receipts()
    return receipts["invalid"] + receipts["refused"]


HARM: dict[str, Callable[[Stage], None]] = {
    "killed": kill_broker,
    "restarted": restart_broker,
    "acks-lost": lose_acks,
    "confirms-of-hints-lost": lose_confirms_of_hints,
    "channels-closed-in-mid-batch": close_channels,
    "lines-stalled": stall_lines,
    "lines-half-open": swallow_lines,
    "lines-refused": refuse_lines,
    "hint-queues-deleted": delete_hints,
    "garbage": garbage,
}
SELECTED = {"channels-closed-in-mid-batch"}


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    "harm", [pytest.param(name, marks=() if name in SELECTED else pytest.mark.every_fault) for name in HARM]
)
def test_what_was_confirmed_survives_a_broker(stage: Stage, survival: Survival, harm: str) -> None:
    with under_load(stage, survival.seed) as load:
        HARM[harm](stage)

    survival.tell(stage.findings(load.truth), store=stage.kind, holding=load.holding)
    assert all(process.poll() is None for process in stage.bus.processes.values()), stage.bus.tail()


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
