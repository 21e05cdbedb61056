"""Promise 1: a message is acknowledged to the broker only after it is committed to disk."""

from __future__ import annotations

from tests.system.running_bus import RunningBus, a_step, locked_for_writers, until
from tests.system.tcp_line import TcpLine

FACTS = [a_step(str(4000 + number % 5), number) for number in range(20)]


def test_promise_1_a_router_killed_before_its_commit_loses_nothing(bus: RunningBus) -> None:
    bus.wait_for_router()
    with locked_for_writers(bus.store_url):
        bus.publish(*FACTS)
        assert until(lambda: bus.ready() == 0)  # the router has them all, and cannot commit them
        bus.kill("router")
        assert until(lambda: bus.ready() == len(FACTS))  # it had acknowledged none
        assert bus.messages() == 0

    bus.start("router")

    bus.comes_to_rest(received=len(FACTS))
    assert len(bus.keeper.book) == len(FACTS)
    assert bus.receipts() == {"accepted": len(FACTS)}
    bus.proves_itself()


def test_promise_1_a_router_killed_between_commit_and_ack_gets_everything_again_and_books_nothing_twice(
    bus: RunningBus,
) -> None:
    with TcpLine(bus.broker_url) as line:
        bus.kill("router")
        bus.start("router", broker_url=line.url)
        bus.wait_for_router()
        with locked_for_writers(bus.store_url):
            bus.publish(*FACTS)
            assert until(lambda: bus.ready() == 0)
            line.freeze()  # no acknowledgement reaches the broker from here on
        assert until(lambda: bus.messages() > 0)
        bus.kill("router")
        line.cut()
        assert until(lambda: bus.ready() == len(FACTS))
    committed = bus.messages()
    assert committed > 0

    bus.start("router")

    bus.comes_to_rest(received=len(FACTS) + committed)
    assert bus.receipts() == {"accepted": len(FACTS), "duplicate": committed}
    assert len(bus.keeper.book) == len(FACTS)
    bus.proves_itself()
