"""The topology at a real broker: declared, compared, and its rights tried out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import httpx
import pytest

from bus.broker.consumer import Consumer
from bus.broker.declare import declare, look
from bus.broker.passwords import hash_password
from bus.broker.publisher import Publisher
from bus.errors import BrokerUnavailable, ConfigurationError, PublishRefused
from bus.model.envelope import Envelope
from bus.model.message_class import MessageClass
from bus.model.topology import DEAD, UNROUTED, Queue, definitions
from tests.services import Vhost
from tests.system.a_plant import ORDER, REPORT, SOON, a_plant, an_order, numbers, planned, read

TWO = {MessageClass.TRANSACTION: 2}


def test_declaring_twice_is_declaring_once(vhost: Vhost) -> None:
    plant = a_plant(vhost, partitions=TWO)

    declare(plant.topology, vhost.amqp_url)

    with plant.management() as management:
        assert management.diff(plant.topology).differences == ()
    assert look(plant.topology, vhost.amqp_url).differences == ()


def test_imported_definitions_are_what_is_declared(vhost: Vhost) -> None:
    plant = planned(vhost, partitions=TWO)
    hashes = {user.name: hash_password(user.password) for user in plant.topology.users}

    httpx.post(
        f"{vhost.management_url}/api/definitions",
        json=definitions(plant.topology, vhost=vhost.name, password_hash=hashes),
        auth=(vhost.admin_user, vhost.admin_password),
    ).raise_for_status()

    declare(plant.topology, plant.url("bus"))
    with plant.management() as management:
        assert management.diff(plant.topology).differences == ()


def test_without_the_management_api_what_is_missing_is_found_and_what_is_unseen_is_said(vhost: Vhost) -> None:
    topology = planned(vhost).topology

    comparison = look(topology, vhost.amqp_url)

    assert len(comparison.differences) == len(topology.exchanges) + len(topology.queues)
    assert "bindings" in comparison.unchecked


def test_a_queue_that_differs_is_named_with_what_differs(vhost: Vhost) -> None:
    topology = planned(vhost).topology
    other = replace(topology, queues=(Queue(DEAD, {"x-queue-type": "quorum"}),), bindings=())
    declare(other, vhost.amqp_url)

    with pytest.raises(ConfigurationError, match=r"queue bus\.dead is there and differs: .*single-active-consumer"):
        declare(topology, vhost.amqp_url)


def test_the_comparison_finds_a_missing_binding_a_foreign_one_and_a_wider_right(vhost: Vhost) -> None:
    plant = a_plant(vhost)
    api = httpx.Client(base_url=f"{vhost.management_url}/api", auth=(vhost.admin_user, vhost.admin_password))
    user = f"{vhost.name}-mes"
    with api:
        at = f"/bindings/{vhost.name}/e/bus.in/q/bus.in.transaction.0"
        api.delete(f"{at}/%2A.%2A.{ORDER}").raise_for_status()
        api.post(at, json={"routing_key": "#"}).raise_for_status()
        rights = {"configure": r"^\z", "write": ".*", "read": r"^\z"}
        api.put(f"/permissions/{vhost.name}/{user}", json=rights).raise_for_status()

    with plant.management() as management:
        found = management.diff(plant.topology).differences

    assert [(difference.kind, difference.name) for difference in found] == [
        ("binding", f"bus.in → queue bus.in.transaction.0 (*.*.{ORDER})"),
        ("binding", "bus.in → queue bus.in.transaction.0 (#)"),
        ("permission", user),
    ]


def test_a_user_nobody_planned_is_found(vhost: Vhost) -> None:
    plant = a_plant(vhost)
    fewer = replace(plant.topology, users=plant.topology.users[:-1])

    with plant.management() as management:
        found = management.diff(fewer).differences

    assert [(difference.kind, difference.name) for difference in found] == [("permission", f"{vhost.name}-mes")]


def test_a_new_user_needs_a_password(vhost: Vhost) -> None:
    plant = planned(vhost)
    nameless = replace(plant.topology, users=tuple(replace(user, password="") for user in plant.topology.users))

    with plant.management() as management, pytest.raises(ConfigurationError, match="is new and has no password"):
        management.apply_users(nameless, reveal=lambda reference: reference)


def test_a_refused_administrator_is_told_what_is_missing(vhost: Vhost) -> None:
    plant = a_plant(vhost)
    weak = replace(plant, vhost=replace(vhost, admin_user=f"{vhost.name}-mes", admin_password="mes"))

    with weak.management() as management, pytest.raises(BrokerUnavailable, match="tag administrator"):
        management.diff(plant.topology)


# --- rights ----------------------------------------------------------------------------------------------------------


def refusal(url: str, **overrides: Any) -> str:
    publisher = Publisher(url)
    [outcome] = publisher.publish_batch([an_order(1, **overrides)], within=SOON)
    publisher.close()
    assert isinstance(outcome, PublishRefused)
    return str(outcome)


def test_a_type_or_site_the_system_may_not_publish_is_refused_by_the_broker(vhost: Vhost) -> None:
    plant = a_plant(vhost)

    for key in (
        f"P100.mes.{ORDER}",
        f"P200.mes.{REPORT}",
        f"P100.erp.{ORDER}",
        f"P100.mes.{REPORT}2",
        f"P100.mes.{REPORT}\n",
        "",
    ):
        assert "ACCESS_REFUSED" in refusal(plant.url("mes"), routing_key=key)


def test_a_system_can_write_to_no_other_exchange(vhost: Vhost) -> None:
    plant = a_plant(vhost)

    for exchange in ("bus.out", "bus.dead", ""):
        assert "ACCESS_REFUSED" in refusal(plant.url("mes"), exchange=exchange, routing_key=f"P100.mes.{REPORT}")


def test_a_system_can_neither_declare_nor_read(vhost: Vhost) -> None:
    plant = a_plant(vhost)

    with pytest.raises(ConfigurationError, match="may not be declared by this user"):
        declare(plant.topology, plant.url("mes"))
    with pytest.raises(BrokerUnavailable, match="cannot be read"):
        Consumer(plant.url("mes"), "bus.in.transaction.0").open()


def test_an_unknown_type_ends_in_bus_unrouted(vhost: Vhost) -> None:
    plant = a_plant(vhost)
    publisher = Publisher(plant.url("bus"))

    outcomes = publisher.publish_batch([an_order(1, routing_key="P100.erp.order.relaese.v1")], within=SOON)
    publisher.close()

    assert outcomes == [None]
    consumer = Consumer(plant.url("bus"), UNROUTED)
    [envelope] = read(consumer, 1)
    consumer.close()
    assert envelope.routing_key == "P100.erp.order.relaese.v1"


def test_two_partitions_keep_the_order_of_each_subject(vhost: Vhost) -> None:
    plant = a_plant(vhost, partitions=TWO)
    orders = [an_order(number, headers={"subject": f"order:{number % 20}"}) for number in range(400)]
    publisher = Publisher(plant.url("bus"))
    publisher.publish_batch(orders, within=SOON)
    publisher.close()

    consumers = [Consumer(plant.url("bus"), f"bus.in.transaction.{number}") for number in (0, 1)]
    parts: tuple[list[Envelope], list[Envelope]] = ([], [])
    while len(parts[0]) + len(parts[1]) < len(orders):
        for consumer, part in zip(consumers, parts, strict=True):
            part += consumer.next_batch(limit=500, max_bytes=10**9, wait=SOON / 100)
    for consumer in consumers:
        consumer.close()

    subjects = [{envelope.headers["subject"] for envelope in part} for part in parts]
    assert all(subjects)
    assert not subjects[0] & subjects[1]
    for part in parts:
        for subject in {envelope.headers["subject"] for envelope in part}:
            arrived = numbers([envelope for envelope in part if envelope.headers["subject"] == subject])
            assert arrived == sorted(arrived)
