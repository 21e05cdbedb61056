"""The topology that follows from a project, as data: what is there, who may write what, and its text for RabbitMQ."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from marshmallow import Schema

from bus.errors import ConfigurationError
from bus.model.contract import Contract, Contracts
from bus.model.message_class import MessageClass
from bus.model.system import Endpoint, System
from bus.model.topology import NEVER, Binding, Topology, User, definitions, plan_topology

ORDER, STATUS = "order.release.v1", "equipment.status-changed.v1"


def a_system(name: str, **overrides: Any) -> System:
    stated = {"role": "MES", "sites": ("P100",), "user": name, "publishes": (ORDER,), "owner": "it", "support": "desk"}
    return System(name=name, **(stated | overrides))


def a_topology(*systems: System, **overrides: Any) -> Topology:
    contracts = [
        Contract(type=ORDER, owner="ERP", support="desk", schema=Schema),
        Contract(type=STATUS, owner="MES", support="desk", schema=Schema, message_class=MessageClass.EVENT),
    ]
    endpoint = Endpoint(name="mes-p100", system="mes", adapter="http", address="http://mes")
    return plan_topology(systems=systems, endpoints=[endpoint], contracts=Contracts(contracts), **overrides)


def user_of(topology: Topology, name: str) -> User:
    return next(user for user in topology.users if user.name == name)


def test_each_class_has_its_own_queue_and_each_type_one_binding() -> None:
    bindings = [binding for binding in a_topology().bindings if binding.source == "bus.in"]

    assert bindings == [
        Binding("bus.in", "bus.in.transaction.0", "queue", f"*.*.{ORDER}"),
        Binding("bus.in", "bus.in.event.0", "queue", f"*.*.{STATUS}"),
    ]


def test_partitions_are_hashed_by_subject() -> None:
    topology = a_topology(partitions={MessageClass.TRANSACTION: 2})

    hashed = next(exchange for exchange in topology.exchanges if exchange.name == "bus.in.transaction")
    assert (hashed.type, hashed.arguments) == ("x-consistent-hash", {"hash-header": "subject"})
    assert Binding("bus.in", "bus.in.transaction", "exchange", f"*.*.{ORDER}") in topology.bindings
    assert {b.destination for b in topology.bindings if b.source == "bus.in.transaction"} == {
        "bus.in.transaction.0",
        "bus.in.transaction.1",
    }


def test_every_queue_is_quorum_and_no_count_of_deliveries_ever_decides() -> None:
    for queue in a_topology().queues:
        assert queue.arguments["x-queue-type"] == "quorum"
        assert queue.arguments["x-delivery-limit"] == NEVER
        assert not {"x-message-ttl", "x-expires", "x-max-length"} & queue.arguments.keys()


def test_what_is_read_in_order_has_a_single_active_consumer() -> None:
    single = {queue.name for queue in a_topology().queues if queue.arguments.get("x-single-active-consumer")}

    assert single == {"bus.in.transaction.0", "bus.in.event.0", "bus.dead", "bus.unrouted"}


def test_work_queues_dead_letter_to_the_queue_the_bus_reads() -> None:
    topology = a_topology()

    for name in ("bus.in.transaction.0", "transform.event", "send.mes-p100"):
        assert topology.queue(name).arguments["x-dead-letter-exchange"] == "bus.dead"
    assert Binding("bus.dead", "bus.dead", "queue", "") in topology.bindings


def as_python_writes_it(pattern: str) -> str:
    return pattern.replace(r"\z", r"\Z")


def test_a_system_may_write_its_own_keys_and_nothing_else() -> None:
    mes = a_system("mes-p1", sites=("P100", "P200"), publishes=(ORDER, STATUS))

    user = user_of(a_topology(mes), "mes-p1")

    assert (user.configure, user.write, user.read) == (r"^\z", r"^bus\.in\z", r"^\z")
    write, read = user.topics["bus.in"]
    assert write == r"^(P100|P200)\.mes-p1\.(equipment\.status-changed\.v1|order\.release\.v1)\z"
    assert read == r"^\z"
    for key in (
        f"P300.mes-p1.{ORDER}",
        f"P100.mes-p2.{ORDER}",
        f"P100.mes-p1.{ORDER}2",
        "P100.mes-p1.orderXrelease.v1",
        f"P100.mes-p1.{ORDER}\n",
    ):
        assert not re.search(as_python_writes_it(write), key)
    assert re.search(as_python_writes_it(write), f"P100.mes-p1.{ORDER}")


def test_a_bridge_may_write_the_keys_of_the_systems_it_lists() -> None:
    bridge = a_system("gate", publishes=(), speaks_for=("mes",))

    write, _ = user_of(a_topology(bridge, a_system("mes")), "gate").topics["bus.in"]

    assert write == r"^P100\.mes\.order\.release\.v1\z"


def test_a_system_that_publishes_nothing_may_write_nothing() -> None:
    user = user_of(a_topology(a_system("wms", publishes=())), "wms")

    assert (user.write, user.topics["bus.in"]) == (r"^\z", (r"^\z", r"^\z"))


@pytest.mark.parametrize(
    "system",
    [
        a_system("two", user="one"),
        a_system("two", user="bus"),
        a_system("two", user="guest"),
        a_system("two", sites=("P.*",)),
        a_system("two", publishes=("order.(release|x).v1",)),
        a_system("two", speaks_for=("nobody",)),
    ],
)
def test_rights_that_would_reach_too_far_are_refused(system: System) -> None:
    with pytest.raises(ConfigurationError):
        a_topology(a_system("one"), system)


def test_the_definitions_are_the_same_text_for_the_same_project_and_hold_no_secret() -> None:
    systems = [a_system("one", password="env:ONE"), a_system("two", password="file:/run/two")]

    text = json.dumps(definitions(a_topology(*systems), vhost="plant"))

    assert text == json.dumps(definitions(a_topology(*reversed(systems)), vhost="plant"))
    assert "env:ONE" not in text
    assert {user["password_hash"] for user in json.loads(text)["users"]} == {""}


def test_definitions_carry_the_hashes_given() -> None:
    users = definitions(a_topology(a_system("one")), vhost="plant", password_hash={"one": "aGFzaA=="})["users"]

    assert {user["name"]: user["password_hash"] for user in users} == {"bus": "", "one": "aGFzaA=="}


def test_every_queue_that_keeps_messages_has_the_dead_letter_exchange_but_the_one_behind_it() -> None:
    topology = a_topology(a_system("mes"))

    without = {queue.name for queue in topology.queues if "x-dead-letter-exchange" not in queue.arguments}

    assert without == {"bus.dead"}
