"""Promise 1: a message is acknowledged to the broker only after it is committed to disk."""

from __future__ import annotations

from bus.client import Fact
from tests.system.running_bus import RunningBus, a_step, locked_for_writers, until
from tests.system.tcp_line import TcpLine


def twenty_facts(name: str) -> list[Fact]:
    """About five orders, whose names begin like this."""
    return [a_step(f"{name}-{number % 5}", number) for number in range(20)]


def test_promise_1_a_router_killed_before_its_commit_loses_nothing(bus: RunningBus) -> None:
    facts = twenty_facts("before")
    bus.wait_for_router()
    with locked_for_writers(bus.store_url):
        bus.publish(*facts)
        assert until(lambda: bus.ready() == 0)  # the router has them all, and cannot commit them
        bus.kill("router")
        assert until(lambda: bus.ready() == len(facts))  # it had acknowledged none
        assert not bus.receipts("before-")

    bus.start("router")

    bus.delivers(*(f"before-{number}" for number in range(5)), count=20)
    bus.stop("router")  # and acknowledges, so that nothing of this comes again
    assert bus.receipts("before-") == {"accepted": 20}
    bus.proves_itself()


def test_promise_1_a_router_killed_between_commit_and_ack_gets_everything_again_and_books_nothing_twice(
    bus: RunningBus,
) -> None:
    facts = twenty_facts("between")
    with TcpLine(bus.broker_url) as line:
        bus.kill("router")
        bus.start("router", broker_url=line.url)
        bus.wait_for_router()
        with locked_for_writers(bus.store_url):
            bus.publish(*facts)
            assert until(lambda: bus.ready() == 0)
            line.freeze()  # no acknowledgement reaches the broker from here on
        assert until(lambda: bus.receipts("between-").total() > 0)
        bus.kill("router")
        line.cut()
        assert until(lambda: bus.ready() == len(facts))
    committed = bus.receipts("between-")["accepted"]
    assert committed > 0

    bus.start("router")

    bus.delivers(*(f"between-{number}" for number in range(5)), count=20)
    assert until(lambda: bus.receipts("between-") == {"accepted": 20, "duplicate": committed})
    bus.proves_itself()
