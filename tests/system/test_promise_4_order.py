"""Promise 4: in a lane deliveries are sent in the order in which their messages were accepted; books are asked."""

from __future__ import annotations

import os
from pathlib import Path

from tests.system.running_bus import RunningBus, a_native_step, a_step, until


def test_promise_4_order_is_kept_through_retries_and_an_outage(bus: RunningBus) -> None:
    bus.keeper.will("o1", 2, 503, 503)
    bus.ledger.will("o1", 3, 503)
    bus.keeper.will("o2", 0, 503)
    both = ("keeper", "ledger")

    bus.publish(*(a_step(order, step, *both) for step in range(5) for order in ("o1", "o2")))
    bus.keeper.wait_for_steps("o1", range(5))
    bus.ledger.wait_for_steps("o1", range(5))
    bus.keeper.stop()
    bus.ledger.stop()
    bus.publish(*(a_step(order, step, *both) for step in range(5, 10) for order in ("o1", "o2")))
    assert until(lambda: {e["endpoint"] for e in bus.told("endpoint tripped")} == set(both))
    bus.publish(*(a_step(order, step, *both) for step in range(10, 12) for order in ("o1", "o2")))
    bus.keeper.start()
    bus.ledger.start()

    for target in (bus.keeper, bus.ledger):
        for order in ("o1", "o2"):
            target.wait_for_steps(order, range(12))
    bus.delivers("o1", "o2", count=48)
    assert len(bus.keeper.posts("o1", 2)) == 3
    bus.proves_itself()


def test_promise_4_order_is_kept_when_a_worker_is_killed_with_claims_in_its_hands(bus: RunningBus) -> None:
    bus.keeper.hold()
    bus.kill("worker")
    bus.publish(*(a_step(order, step) for step in range(6) for order in ("held-1", "held-2")))
    assert until(lambda: len(bus.states("held-1") + bus.states("held-2")) == 12)
    bus.start("worker")
    bus.keeper.wait_for_post("held-1", 0)
    assert bus.states("held-1") == ["CLAIMED"] * 6  # it took all at once, and is sending the first
    holder = bus.deliveries("held-1")[0].worker

    bus.kill("worker")
    bus.start("worker")
    bus.publish(*(a_step(order, step) for step in range(6, 8) for order in ("held-1", "held-2")))
    assert until(lambda: bool(bus.told("worker buried", worker=holder)))
    bus.keeper.release()  # books what the killed worker had sent, and what the next one sends

    bus.keeper.wait_for_steps("held-1", range(8))
    bus.keeper.wait_for_steps("held-2", range(8))
    bus.delivers("held-1", "held-2", count=16)
    bus.proves_itself()


def test_promise_4_order_holds_for_a_native_message_paused_in_its_transform_also_when_its_worker_dies(
    bus: RunningBus, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)

    bus.publish(a_native_step("paused", 1, "keeper", "ledger", parts=2, gate=str(gate)))
    opened = open_for_its_reader(gate)
    bus.publish(a_step("paused", 3, "keeper", "ledger"), a_native_step("paused", 4, "keeper"), a_step("other", 1))
    bus.keeper.wait_for_steps("other", [1])  # other keys flow
    assert until(lambda: len(bus.states("paused")) == 3)  # both are in the store, and neither is begun
    assert bus.states("paused").count("CLAIMED") == 1
    bus.kill("worker")
    os.close(opened)
    bus.start("worker")
    opened = open_for_its_reader(gate)
    assert bus.states("paused").count("CLAIMED") == 1
    assert bus.keeper.steps("paused") == []
    os.close(opened)  # the transform ends

    bus.keeper.wait_for_steps("paused", [1, 2, 3, 4])
    bus.ledger.wait_for_steps("paused", [1, 2, 3])
    bus.delivers("paused", "other", count=3 + 4 + 3 + 1)
    bus.proves_itself()


def open_for_its_reader(pipe: Path) -> int:
    """The pipe's writing end, once the transformer holds the reading one: it waits there until this one is closed."""
    found: list[int] = []

    def try_it() -> bool:
        try:
            found.append(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
        except OSError:  # ENXIO: nobody reads yet
            return False
        return True

    assert until(try_it)
    return found[0]
