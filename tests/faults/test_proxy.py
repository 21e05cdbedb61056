"""The proxy itself: it does exactly the harm it is told to, at a real RabbitMQ."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from urllib.parse import urlsplit

import pytest

from bus.broker.consumer import Consumer
from bus.broker.publisher import Outcome, Publication, Publisher
from bus.errors import BrokerUnavailable
from tests.faults.proxy import Proxy, Side
from tests.services import Vhost
from tests.system.a_plant import Plant, a_plant, an_order, numbers, read
from tests.system.running_bus import until

QUEUE = "bus.in.transaction.0"
SOON = timedelta(seconds=10)
BRIEFLY = timedelta(seconds=0.5)


@pytest.fixture
def plant(vhost: Vhost) -> Plant:
    return a_plant(vhost)


@pytest.fixture
def proxy(vhost: Vhost) -> Iterator[Proxy]:
    broker = urlsplit(vhost.amqp_url)
    with Proxy((str(broker.hostname), broker.port or 5672), amqp=True) as proxy:
        yield proxy


def published(publisher: Publisher, *orders: Publication, within: timedelta = SOON) -> list[Outcome]:
    try:
        return publisher.publish_batch(orders, within=within)
    finally:
        publisher.close()


def test_a_lost_confirm_leaves_the_message_at_the_broker_and_its_publisher_in_the_dark(
    plant: Plant, proxy: Proxy
) -> None:
    proxy.lose_confirms()

    (outcome,) = published(Publisher(proxy.url(plant.url("erp"))), an_order(1), within=BRIEFLY)

    assert isinstance(outcome, BrokerUnavailable)
    assert proxy.dropped == {Side.CLIENT: 0, Side.SERVICE: 1}
    consumer = Consumer(plant.url("bus"), QUEUE)
    assert numbers(read(consumer, 1)) == [1]
    consumer.close()


def test_lost_acknowledgements_bring_the_messages_again(plant: Plant, proxy: Proxy) -> None:
    assert published(Publisher(proxy.url(plant.url("erp"))), an_order(1), an_order(2)) == [None, None]
    consumer = Consumer(proxy.url(plant.url("bus")), QUEUE)
    envelopes = read(consumer, 2)
    proxy.lose_acks()

    assert consumer.ack(envelopes[-1])
    assert until(lambda: proxy.dropped[Side.CLIENT] == 1)
    proxy.cut()

    again = read(consumer, 2)
    assert [envelope.redelivered for envelope in again] == [True, True]
    consumer.close()


def confirms(publisher: Publisher, order: Publication) -> bool:
    try:
        return publisher.publish_batch([order], within=BRIEFLY) == [None]
    except BrokerUnavailable:
        return False


@pytest.mark.parametrize("harm", ["stall", "swallow", "refuse"])
def test_while_it_harms_nothing_is_confirmed_and_afterwards_all_is(plant: Plant, proxy: Proxy, harm: str) -> None:
    publisher = Publisher(proxy.url(plant.url("erp")))
    assert publisher.publish_batch([an_order(1)], within=SOON) == [None]
    getattr(proxy, harm)()

    assert not confirms(publisher, an_order(2))
    {"stall": proxy.flow, "swallow": proxy.deliver, "refuse": proxy.accept}[harm]()

    assert published(publisher, an_order(3)) == [None]


def test_an_abandoned_connection_is_believed_until_its_client_gives_it_up(plant: Plant, proxy: Proxy) -> None:
    publisher = Publisher(proxy.url(plant.url("erp")))
    assert publisher.publish_batch([an_order(1)], within=SOON) == [None]
    proxy.abandon()
    assert proxy.believed == 1

    assert not confirms(publisher, an_order(2))

    assert published(publisher, an_order(3)) == [None]
    assert until(lambda: proxy.believed == 0)


def test_it_forwards_any_other_protocol_untouched(plant: Plant, vhost: Vhost) -> None:
    broker = urlsplit(vhost.amqp_url)
    with Proxy((str(broker.hostname), broker.port or 5672)) as plain:
        assert published(Publisher(plain.url(plant.url("erp"))), an_order(1)) == [None]
        assert len(plain.arrivals) == 1
