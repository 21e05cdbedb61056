"""Promise 6: a dead endpoint costs the others nothing and is called by probes only; a slow one starves nobody."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.services import Vhost
from tests.system.running_bus import ROLES, RunningBus, a_native_step, a_step, running_bus, until

CHECKS = 2
CONCURRENCY = 2
"""Calls that may be on their way when the first one finds the endpoint dead."""


@pytest.fixture
def bus_over_tls(tmp_path: Path, store_url: str, vhost: Vhost) -> Iterator[RunningBus]:
    """Keeper's connections can be counted while it is dead: it ends them before the TLS handshake, nothing is sent."""
    with running_bus(tmp_path / "project", store_url, vhost.amqp_url, tls=True) as running:
        yield running


def test_promise_6_calls_to_a_dead_endpoint_do_not_grow_with_its_backlog(bus_over_tls: RunningBus) -> None:
    bus = bus_over_tls

    with_a_short_backlog = calls_while_dead(bus, 20)
    bus.keeper.come_alive()
    assert until(lambda: bus.open_deliveries() == 0)
    assert len(bus.keeper.book) == 20
    with_a_long_one = calls_while_dead(bus, 500)

    assert with_a_short_backlog <= CHECKS + CONCURRENCY
    assert with_a_long_one <= CHECKS + CONCURRENCY
    assert len(bus.keeper.book) == 20
    bus.proves_itself()


def calls_while_dead(bus: RunningBus, backlog: int) -> int:
    """Connections to keeper from its death until it was checked twice, with so many deliveries waiting for it."""
    orders = [f"{backlog}-{number}" for number in range(backlog // 4)]
    checked = len(bus.told("endpoint check failed"))
    entries = len(bus.ledger.book)
    bus.keeper.play_dead()
    # The first step of every order goes to the other target too, which gets everything meanwhile.
    bus.publish(*(a_step(order, step, "keeper", *["ledger"][step:]) for step in range(4) for order in orders))
    bus.ledger.wait_for_entries(entries + len(orders))
    assert until(lambda: len(bus.told("endpoint check failed")) >= checked + CHECKS)
    calls = bus.keeper.connects
    assert until(lambda: bus.open_deliveries() == backlog)
    return calls


def test_promise_6_an_endpoint_that_hangs_starves_nobody(patient_bus: RunningBus) -> None:
    bus = patient_bus
    bus.keeper.hold()
    for calls in range(1, CONCURRENCY + 1):  # until it holds as many calls as it is given
        bus.publish(*(a_step(f"k{calls}-{number}", 1, "keeper") for number in range(20)))
        assert bus.keeper.wait_until(lambda calls=calls: len(bus.keeper.posted) == calls)  # type: ignore[misc]  # bound now, called now

    bus.publish(
        *(a_step(f"l{number}", 1, "ledger") for number in range(20)),
        *(a_native_step(f"n{number}", 1, "archive", "ledger") for number in range(20)),
    )

    bus.ledger.wait_for_entries(40)
    bus.archive.wait_for_entries(20)
    assert bus.keeper.book == []  # nobody waited for it
    assert len(bus.keeper.posted) == CONCURRENCY
    bus.keeper.release()
    bus.comes_to_rest(received=80)
    assert len(bus.keeper.book) == 40
    bus.proves_itself()


def test_promise_6_an_endpoint_whose_address_is_missing_is_held_alone(fresh_bus: RunningBus) -> None:
    bus = fresh_bus
    address = bus.folder / "archive-address"
    bus.stop(*ROLES)
    settings = bus.folder / "bus.toml"
    settings.write_text(settings.read_text().replace(f"{bus.archive.url}/post", f"file:{address.name}"))
    bus.start(*ROLES)

    bus.publish(a_step("1", 1, "keeper", "archive"), a_step("1", 2, "keeper", "archive"))

    bus.keeper.wait_for_entries(2)
    assert until(lambda: bool(bus.told("endpoint check failed", endpoint="archive"))), bus.tail()
    assert set(bus.states("1", "archive")) <= {"READY", "WAITING"}
    [told] = bus.told("endpoint cannot be opened")
    assert told["endpoint"] == "archive"
    shown = bus.order("endpoint", "show", "archive", "-o", "json").stdout
    assert "endpoint.not-opened" in shown
    assert f"secret file:{address.name}: {address} cannot be read" in shown
    assert bus.processes["worker"].poll() is None

    address.write_text(f"{bus.archive.url}/post")
    address.chmod(0o600)
    bus.stop("worker")
    bus.start("worker")

    bus.archive.wait_for_entries(2)
    bus.delivers("1", count=4)
    bus.proves_itself()
