"""The adapter `amqp` on a real RabbitMQ: what arrives at `bus.out`, and what each trouble becomes."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from amqp import Connection

from bus.broker.node_files import MAX_MESSAGE_BYTES
from bus.connectors import amqp_line
from bus.connectors.amqp import AmqpAdapter
from bus.errors import (
    ConfigurationError,
    DeliveryFailure,
    EndpointDown,
    OutcomeUnknown,
    PermanentFailure,
    TransientFailure,
)
from bus.model.message import Message
from bus.model.secret import Secret
from bus.model.system import Endpoint
from bus.ports import Answer, Parcel
from tests.conformance.adapters import KEY, SecretShelf, a_message
from tests.conformance.cutting_proxy import CuttingProxy
from tests.conformance.scripted_server import refusing_address
from tests.services import Vhost

TIMEOUT = timedelta(seconds=2)


class Subscriber:
    """A queue bound to bus.out for everything of site P100."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._connection = Connection(
            host=f"{parts.hostname}:{parts.port}",
            userid=parts.username,
            password=parts.password,
            virtual_host=parts.path[1:],
        )
        self._connection.connect()
        self._channel = self._connection.channel()
        self._channel.exchange_declare("bus.out", "topic", durable=True, auto_delete=False)
        self._channel.queue_declare("reader", durable=True, auto_delete=False)
        self._channel.queue_bind("reader", "bus.out", "P100.#")

    def take(self) -> Any:
        """The next message, None where there is none."""
        return self._channel.basic_get("reader", no_ack=True)

    def close(self) -> None:
        self._connection.close()


@pytest.fixture
def subscriber(vhost: Vhost) -> Iterator[Subscriber]:
    subscriber = Subscriber(vhost.amqp_url)
    yield subscriber
    subscriber.close()


@pytest.fixture
def secret(vhost: Vhost) -> SecretShelf:
    shelf = SecretShelf()
    shelf.value = vhost.admin_password
    return shelf


@pytest.fixture
def proxy(vhost: Vhost) -> Iterator[CuttingProxy]:
    parts = urlsplit(vhost.amqp_url)
    assert parts.hostname
    with CuttingProxy((parts.hostname, parts.port or 5672)) as proxy:
        yield proxy


def an_adapter(vhost: Vhost, secret: SecretShelf, *, server: str = "", **options: object) -> AmqpAdapter:
    server = server or vhost.amqp_url.rpartition("@")[2].partition("/")[0]
    login = {"user": vhost.admin_user, "password": "env:X"}
    endpoint = Endpoint(
        name="subscribers",
        system="subscribers",
        adapter="amqp",
        address=f"amqp://{server}/{vhost.name}",
        options={**login, **options},
        timeout=TIMEOUT,
    )
    return AmqpAdapter(endpoint, secret=secret)


@pytest.fixture
def adapter(vhost: Vhost, secret: SecretShelf) -> Iterator[AmqpAdapter]:
    adapter = an_adapter(vhost, secret)
    yield adapter
    adapter.close()


def send(adapter: AmqpAdapter, message: Message | None = None) -> Answer:
    return adapter.send(Parcel(message=message or a_message(), key=KEY))


def failure(adapter: AmqpAdapter, message: Message | None = None) -> DeliveryFailure:
    with pytest.raises(DeliveryFailure) as caught:
        send(adapter, message)
    return caught.value


# --- taken ------------------------------------------------------------------------------------------------------------


def test_a_message_arrives_with_every_property_of_the_native_form(
    subscriber: Subscriber, adapter: AmqpAdapter, vhost: Vhost
) -> None:
    message = a_message(
        time=datetime(2026, 3, 1, 6, 30, tzinfo=UTC),
        correlation_id="c-1",
        causation_id="m-0",
        sequence=7,
        business_date=date(2026, 3, 1),
        traceparent="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    )

    send(adapter, message)

    received = subscriber.take()
    assert received.body == message.body
    assert received.delivery_info["routing_key"] == "P100.erp.order.release.v1"
    assert received.properties | {"application_headers": None} == {
        "message_id": "m-1",
        "type": "order.release.v1",
        "app_id": "erp",
        "user_id": vhost.admin_user,
        "correlation_id": "c-1",
        "delivery_mode": 2,
        "content_type": "application/json",
        "application_headers": None,
    }
    assert received.headers == {
        "site": "P100",
        "subject": "order:4711",
        "time": "2026-03-01T06:30:00+00:00",
        "causation_id": "m-0",
        "sequence": 7,
        "business_date": "2026-03-01",
        "traceparent": message.traceparent,
        "idempotency_key": KEY,
    }


def test_the_attempt_keeps_what_was_published_and_that_it_was_confirmed(
    subscriber: Subscriber, adapter: AmqpAdapter, secret: SecretShelf
) -> None:
    exchange = send(adapter).exchange

    assert exchange.sent.startswith(b"basic.publish bus.out P100.erp.order.release.v1\r\n")
    assert exchange.sent.endswith(b"\r\n\r\n" + a_message().body)
    assert exchange.received == b"basic.ack"
    assert secret.value.encode() not in exchange.sent


def test_messages_from_several_threads_all_arrive(subscriber: Subscriber, adapter: AmqpAdapter) -> None:
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda number: send(adapter, a_message(id=f"m-{number}")), range(40)))

    received = {subscriber.take().properties["message_id"] for _ in range(40)}
    assert received == {f"m-{number}" for number in range(40)}
    assert subscriber.take() is None


def test_the_login_may_stand_in_a_secret_url(subscriber: Subscriber, vhost: Vhost) -> None:
    endpoint = Endpoint(
        name="subscribers",
        system="subscribers",
        adapter="amqp",
        address="bus.out of the plant's broker",
        options={"url": "env:BUS_BROKER"},
    )
    adapter = AmqpAdapter(endpoint, secret=lambda name: Secret(name, vhost.amqp_url))

    send(adapter)

    adapter.close()
    assert subscriber.take() is not None


def test_the_next_node_is_asked_where_the_first_one_refuses(subscriber: Subscriber, vhost: Vhost) -> None:
    with refusing_address() as address:
        dead = address.replace("http://", f"amqp://{vhost.admin_user}:any@")
        endpoint = Endpoint(
            name="subscribers", system="s", adapter="amqp", address="broker", options={"url": "env:BUS_BROKER"}
        )
        adapter = AmqpAdapter(endpoint, secret=lambda name: Secret(name, f"{dead}/v; {vhost.amqp_url}"))

        send(adapter)

    adapter.close()
    assert subscriber.take() is not None


# --- not taken --------------------------------------------------------------------------------------------------------


def test_a_message_nobody_has_a_queue_for_is_tried_again_later(subscriber: Subscriber, adapter: AmqpAdapter) -> None:
    trouble = failure(adapter, a_message(site="P900"))

    assert isinstance(trouble, TransientFailure)
    assert trouble.cause == "target.unroutable"
    assert send(adapter).exchange.received == b"basic.ack"


def test_a_missing_exchange_holds_the_endpoint(adapter: AmqpAdapter) -> None:
    trouble = failure(adapter)

    assert isinstance(trouble, EndpointDown)
    assert trouble.cause == "endpoint.missing-exchange"


def test_a_refused_connection_holds_the_endpoint(vhost: Vhost, secret: SecretShelf) -> None:
    with refusing_address() as address:
        trouble = failure(an_adapter(vhost, secret, server=address.removeprefix("http://")))

    assert isinstance(trouble, EndpointDown)
    assert trouble.cause == "endpoint.refused-connection"


def test_refused_credentials_hold_the_endpoint_and_a_rotated_password_needs_no_restart(
    subscriber: Subscriber, adapter: AmqpAdapter, secret: SecretShelf
) -> None:
    right, secret.value = secret.value, "wrong"
    trouble = failure(adapter)
    secret.value = right

    send(adapter)

    assert isinstance(trouble, EndpointDown)
    assert trouble.cause == "endpoint.credentials-refused"
    assert subscriber.take() is not None


def test_a_missing_right_to_write_holds_the_endpoint(
    subscriber: Subscriber, adapter: AmqpAdapter, vhost: Vhost
) -> None:
    httpx.put(
        f"{vhost.management_url}/api/permissions/{vhost.name}/{vhost.admin_user}",
        json={"configure": "", "write": "", "read": ".*"},
        auth=(vhost.admin_user, vhost.admin_password),
    ).raise_for_status()

    trouble = failure(adapter)

    assert isinstance(trouble, EndpointDown)
    assert trouble.cause == "endpoint.credentials-refused"
    assert subscriber.take() is None


@pytest.mark.parametrize(
    "message",
    [a_message(id="i" * 256), a_message(type="t" * 250), a_message(sequence=2**31)],
    ids=["id", "key", "number"],
)
def test_what_amqp_cannot_carry_is_final_and_not_sent(vhost: Vhost, secret: SecretShelf, message: Message) -> None:
    trouble = failure(an_adapter(vhost, secret), message)

    assert isinstance(trouble, PermanentFailure)
    assert trouble.cause == "request.invalid"


# --- it may have happened ---------------------------------------------------------------------------------------------


def test_a_lost_confirm_leaves_the_outcome_unknown_and_the_message_may_be_there(
    subscriber: Subscriber, vhost: Vhost, secret: SecretShelf, proxy: CuttingProxy
) -> None:
    adapter = an_adapter(vhost, secret, server=proxy.address)
    send(adapter)
    subscriber.take()
    proxy.lose_the_next_answer()

    trouble = failure(adapter)

    adapter.close()
    assert isinstance(trouble, OutcomeUnknown)
    assert trouble.cause == "outcome.connection-cut"
    assert subscriber.take().properties["message_id"] == "m-1"


def test_a_confirm_that_does_not_come_leaves_the_outcome_unknown_at_the_time_out(
    subscriber: Subscriber, vhost: Vhost, secret: SecretShelf, proxy: CuttingProxy
) -> None:
    adapter = an_adapter(vhost, secret, server=proxy.address)
    send(adapter)
    proxy.swallow_answers()

    trouble = failure(adapter)

    adapter.close()
    assert isinstance(trouble, OutcomeUnknown)
    assert trouble.cause == "outcome.timeout"


def test_a_broker_that_drips_holds_nobody_beyond_the_time_out(
    subscriber: Subscriber, vhost: Vhost, secret: SecretShelf, proxy: CuttingProxy
) -> None:
    adapter = an_adapter(vhost, secret, server=proxy.address)
    send(adapter)
    proxy.drip_answers()

    confirming = failure(adapter)
    logging_in = failure(adapter)

    adapter.close()
    assert (type(confirming), confirming.cause) == (OutcomeUnknown, "outcome.timeout")
    assert (type(logging_in), logging_in.cause) == (EndpointDown, "endpoint.connect-timeout")


def test_a_connection_that_was_cut_while_idle_costs_nothing(
    subscriber: Subscriber, vhost: Vhost, secret: SecretShelf, proxy: CuttingProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(amqp_line, "SETTLED", timedelta(0))
    adapter = an_adapter(vhost, secret, server=proxy.address)
    send(adapter)
    proxy.cut()

    send(adapter, a_message(id="m-2"))

    adapter.close()
    assert [subscriber.take().properties["message_id"] for _ in range(2)] == ["m-1", "m-2"]


# --- several in one go ------------------------------------------------------------------------------------------------


def parcels(*messages: Message) -> list[Parcel]:
    return [Parcel(message=message, key=f"key of {message.id}") for message in messages]


def test_several_arrive_in_their_order_and_each_has_its_own_confirm(
    subscriber: Subscriber, adapter: AmqpAdapter
) -> None:
    answers = adapter.send_many(parcels(*(a_message(id=f"m-{number}") for number in range(200))))

    received = [subscriber.take() for _ in range(200)]
    assert [each.properties["message_id"] for each in received] == [f"m-{number}" for number in range(200)]
    assert [isinstance(answer, Answer) and answer.exchange.received for answer in answers] == [b"basic.ack"] * 200


def test_of_several_only_those_fail_that_would_fail_alone(subscriber: Subscriber, adapter: AmqpAdapter) -> None:
    answers = adapter.send_many(
        parcels(
            a_message(id="m-1"),
            a_message(id="m-2", site="P900"),
            a_message(id="i" * 256),
            a_message(id="m-3"),
            a_message(id="m-4", site="P901"),
        )
    )

    assert [each.cause if isinstance(each, DeliveryFailure) else "" for each in answers] == [
        "",
        "target.unroutable",
        "request.invalid",
        "",
        "target.unroutable",
    ]
    assert [subscriber.take().properties["message_id"] for _ in range(2)] == ["m-1", "m-3"]
    assert subscriber.take() is None


def test_one_that_ends_the_channel_takes_no_neighbour_with_it(subscriber: Subscriber, adapter: AmqpAdapter) -> None:
    too_large = a_message(id="m-2", body=b" " * (MAX_MESSAGE_BYTES + 1))

    answers = adapter.send_many(parcels(a_message(id="m-1"), too_large, a_message(id="m-3")))

    assert [each.cause if isinstance(each, DeliveryFailure) else "" for each in answers] == ["", "target.refused", ""]
    received = [each.properties["message_id"] for each in iter(subscriber.take, None)]
    assert sorted(set(received)) == ["m-1", "m-3"]


def test_of_several_each_is_unknown_whose_confirm_was_lost(
    subscriber: Subscriber, vhost: Vhost, secret: SecretShelf, proxy: CuttingProxy
) -> None:
    adapter = an_adapter(vhost, secret, server=proxy.address)
    send(adapter)
    proxy.lose_the_next_answer()

    answers = adapter.send_many(parcels(*(a_message(id=f"m-{number}") for number in range(5))))

    adapter.close()
    lost = [each for each in answers if isinstance(each, OutcomeUnknown)]
    assert lost
    assert {each.cause for each in lost} == {"outcome.connection-cut"}
    assert all(isinstance(each, OutcomeUnknown | Answer) for each in answers)


# --- checks and configuration -----------------------------------------------------------------------------------------


def test_a_check_passes_when_the_exchange_is_there(subscriber: Subscriber, adapter: AmqpAdapter) -> None:
    adapter.check()


def test_a_check_says_what_is_missing(adapter: AmqpAdapter, secret: SecretShelf) -> None:
    with pytest.raises(EndpointDown) as no_exchange:
        adapter.check()
    secret.value = "wrong"
    with pytest.raises(EndpointDown) as no_login:
        adapter.check()

    assert no_exchange.value.cause == "endpoint.missing-exchange"
    assert no_login.value.cause == "endpoint.credentials-refused"


@pytest.mark.parametrize(
    ("address", "options"),
    [
        ("http://127.0.0.1/", {"user": "bus", "password": "env:X"}),
        ("amqp://bus:hidden-word@127.0.0.1/", {"user": "bus", "password": "env:X"}),
        ("amqp://127.0.0.1:port/", {"user": "bus", "password": "env:X"}),
        ("amqp://169.254.169.254/", {"user": "bus", "password": "env:X"}),
        ("amqp://127.0.0.1/", {"user": "bus"}),
        ("amqp://127.0.0.1/", {"user": "bus", "password": "env:X", "exchnge": "bus.out"}),
    ],
)
def test_configuration_that_makes_no_sense_is_refused(address: str, options: dict[str, object]) -> None:
    endpoint = Endpoint(name="subscribers", system="s", adapter="amqp", address=address, options=options)

    with pytest.raises(ConfigurationError) as caught:
        AmqpAdapter(endpoint, secret=SecretShelf())

    assert "subscribers" in str(caught.value)
    assert "hidden-word" not in str(caught.value)
