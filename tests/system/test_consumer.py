"""Consumer and router at a real broker: order, redelivery, stale tags, and messages made to end their reader."""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from datetime import timedelta
from typing import Any

import amqp
import pytest

from bus.broker import link
from bus.broker.address import read_addresses
from bus.broker.consumer import MAX_DEPTH, READ_AHEAD, Consumer
from bus.broker.leftovers import _is_hint, run_dead_letters
from bus.broker.publisher import Publisher
from bus.broker.router import run_router
from bus.errors import StoreUnavailable
from bus.model.envelope import Envelope
from bus.model.topology import DEAD
from bus.ports import Receipt
from tests.services import Vhost
from tests.system.a_plant import ORDER, SOON, Plant, a_plant, an_order, numbers, read
from tests.system.tcp_line import TcpLine

QUEUE = "bus.in.transaction.0"
AT_ONCE = timedelta(seconds=0.3)
MUCH = 10**9


@pytest.fixture
def plant(vhost: Vhost) -> Plant:
    return a_plant(vhost)


@pytest.fixture
def consumer(plant: Plant) -> Iterator[Consumer]:
    consumer = Consumer(plant.url("bus"), QUEUE)
    yield consumer
    consumer.close()


def publish(plant: Plant, count: int, **overrides: Any) -> None:
    publisher = Publisher(plant.url("bus"))
    outcomes = publisher.publish_batch([an_order(number, **overrides) for number in range(count)], within=SOON)
    publisher.close()
    assert outcomes == [None] * count


def left(plant: Plant, count: int) -> list[Envelope]:
    """What a consumer that comes later finds; the queue must hold `count` and nothing else."""
    later = Consumer(plant.url("bus"), QUEUE, prefetch=count + 1)
    found = read(later, count)
    assert later.next_batch(limit=1, max_bytes=MUCH, wait=AT_ONCE) == []
    later.close()
    return found


def test_an_envelope_is_what_was_published_nothing_decoded(plant: Plant, consumer: Consumer) -> None:
    body = "3,5 kg Mehl für 4711".encode("latin-1")
    properties = {"message_id": "m-1", "content_type": "text/plain", "content_encoding": "latin-1"}
    publish(plant, 1, body=body, properties=properties, headers={"subject": "order:4711", "sequence": 2**40})

    [envelope] = read(consumer, 1)

    assert envelope.body == body
    assert envelope.routing_key == f"P100.erp.{ORDER}"
    assert envelope.properties == properties
    assert envelope.headers == {"subject": "order:4711", "sequence": 2**40}
    assert not envelope.redelivered


def test_an_empty_body_is_bytes(plant: Plant, consumer: Consumer) -> None:
    publish(plant, 1, body=b"")

    assert read(consumer, 1)[0].body == b""


def test_a_batch_ends_at_its_limit_or_its_bytes(plant: Plant, consumer: Consumer) -> None:
    publish(plant, 10, body=b"x" * 1000)

    first = consumer.next_batch(limit=4, max_bytes=MUCH, wait=SOON)
    second = consumer.next_batch(limit=100, max_bytes=2500, wait=SOON)
    alone = consumer.next_batch(limit=100, max_bytes=1, wait=SOON)

    assert (len(first), len(second), len(alone)) == (4, 2, 1)


def test_nothing_there_is_an_empty_batch(plant: Plant, consumer: Consumer) -> None:
    assert consumer.next_batch(limit=4, max_bytes=MUCH, wait=AT_ONCE) == []


def test_an_acknowledgement_covers_everything_before_it(plant: Plant, consumer: Consumer) -> None:
    publish(plant, 10)

    assert consumer.ack(read(consumer, 10)[6])
    consumer.close()

    assert numbers(left(plant, 3)) == [7, 8, 9]


def test_what_was_not_acknowledged_comes_again_in_order_and_marked(plant: Plant, consumer: Consumer) -> None:
    publish(plant, 200)
    read(consumer, 50)

    consumer.close()

    again = left(plant, 200)
    assert numbers(again) == list(range(200))
    assert all(envelope.redelivered for envelope in again)


def test_a_tag_of_a_lost_connection_acknowledges_nothing(plant: Plant) -> None:
    publish(plant, 20)
    with TcpLine(plant.url("bus")) as line:
        consumer = Consumer(line.url, QUEUE, prefetch=10)
        stale = read(consumer, 10)
        line.cut()
        again = read(consumer, 10)

        assert numbers(again) == numbers(stale)
        assert not consumer.holds(stale[-1])
        assert not consumer.ack(stale[-1])
        consumer.close()

    assert numbers(left(plant, 20)) == list(range(20))


def test_a_consumer_waits_for_a_broker_that_is_away(plant: Plant) -> None:
    with TcpLine(plant.url("bus")) as line:
        consumer = Consumer(line.url, QUEUE)
        consumer.open()
        line.cut()
        assert consumer.next_batch(limit=1, max_bytes=MUCH, wait=AT_ONCE) == []
        publish(plant, 1)

        assert numbers(read(consumer, 1)) == [0]
        consumer.close()


def test_the_second_consumer_of_a_queue_stands_by_and_takes_over_in_order(plant: Plant, consumer: Consumer) -> None:
    publish(plant, 20)
    read(consumer, 10)
    standby = Consumer(plant.url("bus"), QUEUE)

    assert standby.next_batch(limit=1, max_bytes=MUCH, wait=AT_ONCE) == []
    consumer.close()

    assert numbers(read(standby, 20)) == list(range(20))
    standby.close()


# --- the router ------------------------------------------------------------------------------------------------------


class Recorder:
    """Receives; stops the router after so many batches; raises what it is told to, first."""

    def __init__(self, *, stop_after: int, errors: Sequence[Exception] = ()) -> None:
        self.stop = threading.Event()
        self.batches: list[list[Envelope]] = []
        self.kept: list[int] = []
        self._stop_after = stop_after
        self._errors = list(errors)

    def __call__(self, batch: Sequence[Envelope]) -> Collection[str]:
        self.batches.append(list(batch))
        if self._errors:
            raise self._errors.pop(0)
        self.kept += numbers(list(batch))
        self._stop_after -= 1
        if not self._stop_after:
            self.stop.set()
        return ("transform.transaction",)


def ignore(queues: Collection[str]) -> None:
    """Nobody is waiting for hints."""


def test_queues_with_work_are_woken_after_the_acknowledgement(plant: Plant, consumer: Consumer) -> None:
    publish(plant, 3)
    receive = Recorder(stop_after=1)
    woken: list[Collection[str]] = []

    run_router(consumer, receive, woken.append, receive.stop)

    assert woken == [("transform.transaction",)]


def test_a_router_that_stops_loses_nothing_and_keeps_the_order(plant: Plant, consumer: Consumer) -> None:
    publish(plant, 300)
    receive = Recorder(stop_after=2)

    run_router(consumer, receive, ignore, receive.stop, limit=40)

    kept = len(receive.kept)
    assert 0 < kept <= 80
    assert receive.kept + numbers(left(plant, 300 - kept)) == list(range(300))


def test_while_the_store_is_away_nothing_is_acknowledged_and_the_batch_is_offered_again(
    plant: Plant, consumer: Consumer
) -> None:
    publish(plant, 10)
    receive = Recorder(stop_after=1, errors=[StoreUnavailable("away")] * 2)

    run_router(consumer, receive, ignore, receive.stop)

    assert [numbers(batch) for batch in receive.batches] == [numbers(receive.batches[0])] * 3
    assert numbers(left(plant, 10 - len(receive.kept))) == list(range(len(receive.kept), 10))


def test_a_router_stopped_while_the_store_is_away_leaves_everything_at_the_broker(
    plant: Plant, consumer: Consumer
) -> None:
    publish(plant, 10)
    stop = threading.Event()

    def receive(batch: Sequence[Envelope]) -> Collection[str]:
        stop.set()
        raise StoreUnavailable("away")

    run_router(consumer, receive, ignore, stop)

    assert numbers(left(plant, 10)) == list(range(10))


def test_a_router_that_fails_leaves_its_batch_at_the_broker(plant: Plant, consumer: Consumer) -> None:
    publish(plant, 10)
    receive = Recorder(stop_after=1, errors=[ZeroDivisionError()])

    with pytest.raises(ZeroDivisionError):
        run_router(consumer, receive, ignore, receive.stop)

    assert numbers(left(plant, 10)) == list(range(10))


def test_the_connection_stays_alive_through_a_store_outage_of_several_heartbeats(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "HEARTBEAT", timedelta(seconds=2))
    publish(plant, 1)
    consumer = Consumer(plant.url("bus"), QUEUE)
    receive = Recorder(stop_after=1, errors=[StoreUnavailable("away")] * 5)

    run_router(consumer, receive, ignore, receive.stop)

    assert len(receive.batches) == 6
    # A lost connection would have left the acknowledgement behind.
    assert left(plant, 0) == []


def test_the_connection_stays_alive_through_a_batch_that_takes_several_heartbeats(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "HEARTBEAT", timedelta(seconds=2))
    publish(plant, 1)
    stop = threading.Event()
    offered: list[int] = []

    def receive(batch: Sequence[Envelope]) -> Collection[str]:
        offered.extend(numbers(list(batch)))
        time.sleep(7)  # what opening it costs
        stop.set()
        return ()

    run_router(Consumer(plant.url("bus"), QUEUE), receive, ignore, stop)

    assert offered == [0]
    # A lost connection would have left the acknowledgement behind.
    assert left(plant, 0) == []


def test_dead_letters_are_recorded_with_reason_and_origin(plant: Plant) -> None:
    publish(plant, 1)
    _raw_channel(plant, lambda channel: _reject_one(channel, QUEUE))
    stop = threading.Event()
    recorded: list[Receipt] = []

    def record(receipts: Sequence[Receipt]) -> None:
        recorded.extend(receipts)
        stop.set()

    run_dead_letters(Consumer(plant.url("bus"), DEAD), record, stop)

    [receipt] = recorded
    assert receipt.cause == "dead-lettered.rejected"
    assert QUEUE in receipt.detail
    assert (receipt.body, receipt.routing_key) == (b"0", f"P100.erp.{ORDER}")


def test_a_dead_letter_of_bus_unrouted_is_a_message_and_that_of_a_workers_queue_a_hint() -> None:
    recorded = [
        not _is_hint(Envelope(routing_key="k", body=b"", headers={"x-death": [{"queue": queue}]}))
        for queue in ("bus.unrouted", "bus.in.event.0", "", "send.erp", "transform.event")
    ]

    assert recorded == [True, True, True, False, False]


# --- large messages --------------------------------------------------------------------------------------------------

LARGE = 1_000_000


def test_no_more_is_read_ahead_than_a_process_may_hold_and_nothing_is_lost(plant: Plant, consumer: Consumer) -> None:
    publisher = Publisher(plant.url("bus"))
    for number in range(24):
        large = an_order(number, body=str(number).encode().ljust(LARGE))
        assert publisher.publish_batch([large], within=SOON) == [None]
    publisher.close()

    found = consumer.next_batch(limit=24, max_bytes=LARGE, wait=SOON)
    held = []
    while len(found) < 24:
        consumer.keep_alive()
        held.append(consumer.held)
        found += consumer.next_batch(limit=24, max_bytes=2 * LARGE, wait=SOON)

    assert numbers(found) == list(range(24))
    assert max(held) < READ_AHEAD + LARGE
    assert consumer.held == 0
    assert consumer.ack(found[-1])


# --- messages made to end their reader -------------------------------------------------------------------------------


class RawProperties(amqp.Message):  # type: ignore[misc]  # py-amqp has no types
    """A message whose property bytes are as given."""

    raw = b""

    def _serialize_properties(self) -> bytes:
        return self.raw


def _table(payload: bytes) -> bytes:
    return struct.pack(">HI", 0x2000, len(payload)) + payload


def _nested(depth: int) -> bytes:
    payload = b""
    for _ in range(depth):
        payload = b"\x01tF" + struct.pack(">I", len(payload)) + payload
    return payload


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(struct.pack(">HB", 0x0020, 2) + b"\xff\xfe", id="a type that is no UTF-8"),
        pytest.param(_table(b"\x01tT" + b"\xff" * 8), id="a time beyond all years"),
        pytest.param(_table(_nested(5000)), id="tables in tables"),
        pytest.param(_table(_nested(MAX_DEPTH + 1)), id="tables in tables that can be read, but not shown"),
    ],
)
def test_properties_that_cannot_be_read_are_said_and_hold_up_nobody(
    plant: Plant, consumer: Consumer, raw: bytes
) -> None:
    publish(plant, 1)
    poison = RawProperties(b"poison")
    poison.raw = raw
    _raw_channel(plant, lambda channel: channel.basic_publish(poison, "bus.in", f"P100.erp.{ORDER}"))
    publish(plant, 1)

    before, found, after = read(consumer, 3)

    assert (before.body, found.body, after.body) == (b"0", b"poison", b"0")
    assert found.unreadable
    assert found.properties == {}
    assert found.headers == {}
    assert not before.unreadable
    assert not after.unreadable


def test_a_publisher_cannot_say_that_its_properties_are_unreadable(plant: Plant, consumer: Consumer) -> None:
    forged = amqp.Message(b"forged", cluster_id="plantbus-unreadable: whatever", message_id="mine")
    _raw_channel(plant, lambda channel: channel.basic_publish(forged, "bus.in", f"P100.erp.{ORDER}"))

    [found] = read(consumer, 1)

    assert (found.unreadable, found.properties["message_id"]) == ("", "mine")


def test_headers_may_nest_as_far_as_they_can_be_shown(plant: Plant, consumer: Consumer) -> None:
    nested = RawProperties(b"nested")
    nested.raw = _table(_nested(MAX_DEPTH))
    _raw_channel(plant, lambda channel: channel.basic_publish(nested, "bus.in", f"P100.erp.{ORDER}"))

    [found] = read(consumer, 1)

    assert (found.unreadable, list(found.headers)) == ("", ["t"])


def test_a_routing_key_that_is_no_text_holds_up_nobody(plant: Plant) -> None:
    key = b"P100.erp.\xff\xfe"
    _raw_channel(plant, lambda channel: channel.basic_publish(amqp.Message(b"poison"), "bus.in", key))
    consumer = Consumer(plant.url("bus"), "bus.unrouted")

    [found] = read(consumer, 1)
    consumer.close()

    assert (found.body, found.routing_key) == (b"poison", r"P100.erp.\xff\xfe")


def _raw_channel(plant: Plant, act: Any) -> None:
    [address] = read_addresses(plant.url("bus"))
    connection = link.connect([address], name="a test")
    channel = connection.channel()
    channel.confirm_select()
    confirmed = threading.Event()
    channel.events["basic_ack"].add(lambda tag, multiple: confirmed.set())
    if act(channel) is not False:
        while not confirmed.is_set():
            link.drain(connection, within=SOON)
    channel.close()
    connection.close()


def _reject_one(channel: Any, queue: str) -> bool:
    arrived: list[Any] = []
    channel.basic_consume(queue, callback=arrived.append)
    while not arrived:
        channel.connection.drain_events(timeout=SOON.total_seconds())
    channel.basic_reject(arrived[0].delivery_tag, requeue=False)
    return False
