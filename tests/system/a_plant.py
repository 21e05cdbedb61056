"""A small plant for tests at a real broker: two systems with users of their own, their topology, their URLs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

from marshmallow import Schema

from bus.broker.consumer import Consumer
from bus.broker.declare import declare
from bus.broker.management import Management
from bus.broker.publisher import Publication
from bus.model.contract import Contract, Contracts
from bus.model.envelope import Envelope
from bus.model.message_class import MessageClass
from bus.model.system import Endpoint, System
from bus.model.topology import Topology, plan_topology
from tests.services import Vhost

ORDER, REPORT = "order.release.v1", "mes.report.v1"
SOON = timedelta(seconds=30)


@dataclass(frozen=True)
class Plant:
    """Users are named after the vhost: a broker's users are everybody's."""

    vhost: Vhost
    topology: Topology

    def url(self, system: str) -> str:
        """The broker as this system logs in there; its password is its own name."""
        user = f"{self.vhost.name}-{system}"
        return f"amqp://{user}:{system}@{urlsplit(self.vhost.amqp_url).netloc.rpartition('@')[2]}/{self.vhost.name}"

    def management(self) -> Management:
        return Management(
            self.vhost.management_url,
            vhost=self.vhost.name,
            user=self.vhost.admin_user,
            password=self.vhost.admin_password,
        )


def a_plant(vhost: Vhost, *, partitions: Mapping[MessageClass, int] | None = None) -> Plant:
    """Declared, and with its users."""
    plant = planned(vhost, partitions=partitions)
    declare(plant.topology, vhost.amqp_url)
    with plant.management() as management:
        management.apply_users(plant.topology, reveal=lambda reference: reference)
    return plant


def planned(vhost: Vhost, *, partitions: Mapping[MessageClass, int] | None = None) -> Plant:
    """Nothing of it is at the broker yet."""
    systems = [_system(vhost, "erp", ("P100", "P200"), (ORDER,)), _system(vhost, "mes", ("P100",), (REPORT,))]
    topology = plan_topology(
        systems=systems,
        endpoints=[Endpoint(name="mes-p100", system="mes", adapter="http", address="http://mes")],
        contracts=Contracts(Contract(type=t, owner="ERP", support="desk", schema=Schema) for t in (ORDER, REPORT)),
        partitions=partitions or {},
        engine=f"{vhost.name}-bus",
        engine_password="bus",
    )
    return Plant(vhost, topology)


def _system(vhost: Vhost, name: str, sites: tuple[str, ...], publishes: tuple[str, ...]) -> System:
    return System(
        name=name,
        role=name.upper(),
        sites=sites,
        user=f"{vhost.name}-{name}",
        publishes=publishes,
        owner="it",
        support="desk",
        password=name,
    )


def an_order(number: int = 0, **overrides: Any) -> Publication:
    """Publications whose bodies are their numbers."""
    order = Publication(exchange="bus.in", routing_key=f"P100.erp.{ORDER}", body=str(number).encode())
    return replace(order, **overrides)


def read(consumer: Consumer, count: int) -> list[Envelope]:
    """The next messages of a queue; fewer when they do not come soon."""
    found: list[Envelope] = []
    while len(found) < count:
        batch = consumer.next_batch(limit=count - len(found), max_bytes=10**9, wait=SOON)
        if not batch:
            break
        found += batch
    return found


def numbers(envelopes: list[Envelope]) -> list[int]:
    return [int(envelope.body) for envelope in envelopes]
