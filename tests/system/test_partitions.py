"""Several routers on many partitions: order per key and the sums hold while one is killed and another is added."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from bus.model.message_class import MessageClass
from bus.model.topology import queues_of
from tests.services import Vhost
from tests.system.running_bus import RunningBus, a_native_step, a_step, running_bus, until

PARTITIONS = 16
ORDERS, STEPS = 40, 15
QUEUES = queues_of(MessageClass.TRANSACTION, PARTITIONS)


@pytest.fixture
def partitioned(tmp_path: Path, store_url: str, vhost: Vhost) -> Iterator[RunningBus]:
    with running_bus(
        tmp_path / "project", store_url, vhost.amqp_url, roles=("worker", "relay"), partitions=PARTITIONS
    ) as bus:
        yield bus


def readers(bus: RunningBus) -> dict[str, set[str]]:
    """The queues that each router opened."""
    routers = [name for name in bus.processes if name.startswith("router")]
    return {name: {line["queue"] for line in bus.told("consumer opened", by=name)} & {*QUEUES} for name in routers}


def keep_publishing(bus: RunningBus, has_come_far: threading.Event) -> None:
    for step in range(STEPS):
        bus.publish(
            *(
                (a_native_step if order % 2 else a_step)(f"part-{order}", step, "keeper", "ledger")
                for order in range(ORDERS)
            )
        )
        if step == STEPS // 3:
            has_come_far.set()


@pytest.mark.timeout(400)
def test_order_is_kept_while_of_two_routers_one_is_killed_and_one_is_added(partitioned: RunningBus) -> None:
    bus = partitioned
    bus.start_as("router-low", "router", "--partitions", "0-7")
    bus.start_as("router-high", "router", "--partitions", "8-15")
    assert until(lambda: readers(bus) == {"router-low": {*QUEUES[:8]}, "router-high": {*QUEUES[8:]}}), bus.tail()
    has_come_far = threading.Event()
    publishing = threading.Thread(target=keep_publishing, args=(bus, has_come_far))
    publishing.start()
    assert has_come_far.wait(120)

    bus.kill("router-low")
    bus.start_as("router-all", "router")

    publishing.join()
    assert until(lambda: readers(bus)["router-all"] == {*QUEUES}), bus.tail()
    orders = [f"part-{order}" for order in range(ORDERS)]
    for order in orders:
        bus.keeper.wait_for_steps(order, range(STEPS), within=120)
        bus.ledger.wait_for_steps(order, range(STEPS), within=120)
    bus.delivers(*orders)
    assert bus.receipts("")["accepted"] == ORDERS * STEPS
    assert Counter(entry.order for entry in bus.ledger.book) == Counter(dict.fromkeys(orders, STEPS))
    bus.proves_itself()
