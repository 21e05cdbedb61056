"""The publisher at a real broker: every message has its own outcome, whatever happens to its neighbours."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from bus.broker.consumer import Consumer
from bus.broker.publisher import Outcome, Publication, Publisher
from bus.errors import BrokerUnavailable, PublishRefused, Unroutable
from tests.services import Vhost
from tests.system.a_plant import ORDER, SOON, Plant, a_plant, an_order, numbers, read
from tests.system.tcp_line import TcpLine

QUEUE = "bus.in.transaction.0"
AT_ONCE = timedelta(seconds=0.3)


@pytest.fixture
def plant(vhost: Vhost) -> Plant:
    return a_plant(vhost)


@pytest.fixture
def line(plant: Plant) -> Iterator[TcpLine]:
    with TcpLine(plant.url("erp")) as line:
        yield line


def published(plant: Plant, count: int) -> list[int]:
    """At least so many, and what stands behind them."""
    consumer = Consumer(plant.url("bus"), QUEUE, prefetch=count + 1)
    found = read(consumer, count)
    found += consumer.next_batch(limit=count, max_bytes=10**9, wait=AT_ONCE)
    consumer.close()
    return numbers(found)


def kinds(outcomes: list[Outcome]) -> list[type | None]:
    return [None if outcome is None else type(outcome) for outcome in outcomes]


def test_a_batch_is_confirmed_as_a_whole_and_in_order(plant: Plant) -> None:
    publisher = Publisher(plant.url("erp"), window=64)

    outcomes = publisher.publish_batch([an_order(number) for number in range(1000)], within=SOON)
    publisher.close()

    assert outcomes == [None] * 1000
    assert published(plant, 1000) == list(range(1000))


def test_a_message_without_a_queue_is_returned_and_its_neighbours_are_confirmed(plant: Plant) -> None:
    publisher = Publisher(plant.url("bus"))
    nobody = an_order(1, exchange="bus.out")

    outcomes = publisher.publish_batch([an_order(0), nobody, an_order(2), nobody], within=SOON)
    publisher.close()

    assert kinds(outcomes) == [None, Unroutable, None, Unroutable]
    assert published(plant, 2) == [0, 2]


def test_posing_as_another_system_is_refused_and_disturbs_nobody(plant: Plant) -> None:
    neighbour, publisher = Publisher(plant.url("erp")), Publisher(plant.url("erp"))
    neighbour.publish_batch([an_order(0)], within=SOON)
    posing = an_order(2, properties={"user_id": "mes"})

    outcomes = publisher.publish_batch([an_order(1), posing, an_order(3)], within=SOON)
    outcomes += publisher.publish_batch([an_order(4)], within=SOON)
    outcomes += neighbour.publish_batch([an_order(5)], within=SOON)
    publisher.close()
    neighbour.close()

    assert kinds(outcomes) == [None, PublishRefused, None, None, None]
    assert "PRECONDITION_FAILED" in str(outcomes[1])
    # The first one's confirm may have been lost with the AMQP channel: then it was published twice.
    assert list(dict.fromkeys(published(plant, 5))) == [0, 1, 3, 4, 5]


def test_a_missing_exchange_is_refused_with_what_to_do(plant: Plant) -> None:
    publisher = Publisher(plant.url("bus"))

    [outcome] = publisher.publish_batch([an_order(exchange="bus.inn")], within=SOON)
    publisher.close()

    assert isinstance(outcome, PublishRefused)
    assert "bus topology apply" in str(outcome)


def test_a_broker_that_does_not_confirm_in_time_leaves_the_outcome_unknown(plant: Plant, line: TcpLine) -> None:
    publisher = Publisher(line.url)
    publisher.publish_batch([an_order(0)], within=SOON)
    line.freeze()

    outcomes = publisher.publish_batch([an_order(1), an_order(2)], within=AT_ONCE)
    line.thaw()
    again = publisher.publish_batch([an_order(1), an_order(2)], within=SOON)
    publisher.close()

    assert kinds(outcomes) == [BrokerUnavailable, BrokerUnavailable]
    assert again == [None, None]


def orders_of(subjects: str) -> list[Publication]:
    return [an_order(number, headers={"subject": subject}) for number, subject in enumerate(subjects)]


def test_a_message_waits_until_the_first_of_its_subject_was_taken(plant: Plant, line: TcpLine) -> None:
    publisher = Publisher(line.url)
    publisher.publish_batch([], within=SOON)
    line.mute()

    outcomes = publisher.publish_batch(orders_of("abcab"), within=AT_ONCE)
    publisher.close()

    assert kinds(outcomes) == [BrokerUnavailable] * 5
    assert published(plant, 3) == [0, 1, 2]


def test_a_message_waits_for_no_confirm_once_one_of_its_subject_was_taken(plant: Plant, line: TcpLine) -> None:
    publisher = Publisher(line.url)
    publisher.publish_batch(orders_of("ab"), within=SOON)
    line.mute()

    outcomes = publisher.publish_batch(orders_of("abcab"), within=AT_ONCE)
    publisher.close()

    assert kinds(outcomes) == [BrokerUnavailable] * 5
    assert published(plant, 7) == [0, 1, 0, 1, 2, 3, 4]


def test_a_message_waits_for_no_confirm_once_many_of_its_kind_were_taken(plant: Plant, line: TcpLine) -> None:
    many = [an_order(number, headers={"subject": str(number)}) for number in range(1100)]
    publisher = Publisher(line.url)
    publisher.publish_batch(many, within=SOON)
    line.mute()

    outcomes = publisher.publish_batch(orders_of("aabb"), within=AT_ONCE)
    publisher.close()

    assert kinds(outcomes) == [BrokerUnavailable] * 4
    assert published(plant, 1104)[1100:] == [0, 1, 2, 3]


def test_a_lost_connection_is_opened_again_by_the_next_batch(plant: Plant, line: TcpLine) -> None:
    publisher = Publisher(line.url)
    publisher.publish_batch([an_order(0)], within=SOON)
    line.cut()

    publisher.keep_alive()
    outcomes = publisher.publish_batch([an_order(1)], within=SOON)
    publisher.close()

    assert outcomes == [None]
    assert line.accepted == 2


def test_a_node_that_is_down_is_passed_over(plant: Plant) -> None:
    nobody = plant.url("erp").replace(plant.url("erp").rpartition("@")[2].split("/")[0], "127.0.0.1:1")
    publisher = Publisher(f"{nobody};{plant.url('erp')}")

    outcomes = publisher.publish_batch([an_order(0)], within=SOON)
    publisher.close()

    assert outcomes == [None]


def test_a_wrong_password_is_said_without_showing_it(plant: Plant) -> None:
    publisher = Publisher(plant.url("erp").replace(":erp@", ":not-it@"))

    with pytest.raises(BrokerUnavailable, match="refused user") as caught:
        publisher.publish_batch([an_order(0)], within=SOON)

    assert "not-it" not in str(caught.value)


def test_a_blocked_connection_is_waited_for_and_then_said(plant: Plant, line: TcpLine) -> None:
    publisher = Publisher(line.url)
    publisher.publish_batch([an_order(0)], within=SOON)
    line.say_to_client(_method(10, 60, b"\x0dlow on memory"))
    while not publisher._blocked:  # whether what was said was read is nobody's business but this test's
        publisher.keep_alive()

    with pytest.raises(BrokerUnavailable, match="memory or disk alarm"):
        publisher.publish_batch([an_order(1)], within=AT_ONCE)
    line.say_to_client(_method(10, 61))
    outcomes = publisher.publish_batch([an_order(2)], within=SOON)
    publisher.close()

    assert outcomes == [None]


@pytest.mark.parametrize(
    "wrong",
    [
        {"routing_key": f"P100.erp.{ORDER}" + "x" * 250},
        {"properties": {"message_id": "ü" * 128}},
        {"headers": {"subject": None}},
        {"headers": {"sequence": 2**63}},
    ],
)
def test_what_amqp_cannot_carry_is_refused_before_anything_is_sent(wrong: dict[str, Any]) -> None:
    with pytest.raises(PublishRefused):
        Publication(**({"exchange": "bus.in", "routing_key": "key", "body": b""} | wrong))


def _method(class_id: int, method_id: int, arguments: bytes = b"") -> bytes:
    payload = struct.pack(">HH", class_id, method_id) + arguments
    return struct.pack(">BHI", 1, 0, len(payload)) + payload + b"\xce"
