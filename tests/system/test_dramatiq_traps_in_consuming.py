"""Traps of dramatiq 2.2.1 and pika 1.4.4 in consuming: each closed, each shown in the library."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import dramatiq.worker
import pytest
from dramatiq import Broker, Worker
from dramatiq.broker import Consumer, MessageProxy
from dramatiq.errors import ConnectionClosed

from bus.errors import StoreUnavailable
from bus.workers.wire import encode, hint_for
from tests.services import Vhost
from tests.system.tcp_line import TcpLine
from tests.system.workbench import PATIENCE, QUEUE, QUIET, Counter, Workbench, all_from, fail

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


@pytest.fixture
def bench(vhost: Vhost, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workbench]:
    monkeypatch.setattr(dramatiq.worker, "CONSUMER_RESTART_DELAY_SECS", 0.05)
    with Workbench(vhost.amqp_url) as bench:
        yield bench


@pytest.fixture
def line(vhost: Vhost) -> Iterator[TcpLine]:
    with TcpLine(vhost.amqp_url) as line:
        yield line


# --- acknowledging ---------------------------------------------------------------------------------------------------


def test_a_stale_delivery_tag_acknowledges_nothing(bench: Workbench, line: TcpLine) -> None:
    acknowledge_late(bench, line, bench.ours(url=line.url, concurrency={QUEUE: 2}))

    assert bench.eye.holds(QUEUE, 1)


def test_the_plain_broker_acknowledges_the_wrong_message(bench: Workbench, line: TcpLine) -> None:
    acknowledge_late(bench, line, bench.plain(url=line.url))

    assert not bench.eye.holds(QUEUE, 1, within=QUIET)


def acknowledge_late(bench: Workbench, line: TcpLine, broker: Broker) -> None:
    """Take a hint, lose the connection, take another one and do not finish it, acknowledge the first."""
    broker.declare_queue(QUEUE)
    older = broker.consume(QUEUE, prefetch=2, timeout=200)
    bench.eye.hint(QUEUE)
    late = taken_from(older)
    line.cut()
    assert bench.eye.holds(QUEUE, 1)
    bench.eye.channel.queue_purge(QUEUE)
    bench.eye.hint(QUEUE)
    present = broker.consume(QUEUE, prefetch=2, timeout=200)
    unfinished = taken_from(present)

    present.ack(late)  # as ConsumerThread.post_process_message does
    present.close()

    closed(older)
    assert unfinished.message_id != late.message_id


def test_work_goes_on_after_a_cut_and_nothing_is_lost(bench: Workbench, line: TcpLine) -> None:
    done = Counter()
    with bench.working(bench.ours(url=line.url), {QUEUE: done.count}):
        bench.eye.declare(QUEUE)
        bench.eye.hint(QUEUE)
        done.wait_for(1)
        line.cut()
        bench.eye.hint(QUEUE, 3)

        done.wait_for(4)
        assert bench.eye.holds(QUEUE, 0)

    assert bench.eye.ready(QUEUE) == 0


def test_a_failure_is_dead_lettered_to_the_bus(bench: Workbench) -> None:
    with bench.working(bench.ours(), {QUEUE: fail}):
        bench.eye.declare(QUEUE)
        hint = encode(hint_for(QUEUE))
        bench.eye.put(QUEUE, hint)

        assert bench.eye.take("bus.dead", 1) == [hint]
    assert bench.recorder.named("hint failed")[0]["queue"] == QUEUE


def test_a_store_that_is_away_kills_no_hints(bench: Workbench) -> None:
    def store_is_away() -> None:
        raise StoreUnavailable("the database does not answer")

    with bench.working(bench.ours(), {QUEUE: store_is_away}):
        bench.eye.declare(QUEUE)
        bench.eye.hint(QUEUE)
        bench.recorder.wait_for("hint spent")

    assert bench.eye.ready("bus.dead") == 0


def test_the_plain_broker_without_retries_marks_a_failure_done(bench: Workbench) -> None:
    failed = threading.Event()
    broker = bench.plain(middleware=[])
    with bench.working(broker, {QUEUE: failing(failed)}):
        broker.enqueue(hint_for(QUEUE))
        assert failed.wait(PATIENCE)

    assert [bench.eye.ready(name) for name in (QUEUE, f"{QUEUE}.XQ", f"{QUEUE}.DQ")] == [0, 0, 0]


def test_a_failure_is_kept_when_nothing_can_be_published(bench: Workbench) -> None:
    broker = bench.ours()
    with bench.working(broker, {QUEUE: failing(threading.Event(), then=cut_off(broker))}):
        bench.eye.declare(QUEUE)
        bench.eye.hint(QUEUE)

        assert len(bench.eye.take("bus.dead", 1)) == 1


def test_the_plain_broker_loses_a_failure_when_its_retry_cannot_be_published(bench: Workbench) -> None:
    failed = threading.Event()
    broker = bench.plain()
    broker.consume(QUEUE).close()
    with bench.working(broker, {QUEUE: failing(failed, then=cut_off(broker))}):
        bench.eye.hint(QUEUE)
        assert failed.wait(PATIENCE)

    assert [bench.eye.ready(name) for name in (QUEUE, f"{QUEUE}.XQ", f"{QUEUE}.DQ")] == [0, 0, 0]


# --- how much is taken -----------------------------------------------------------------------------------------------


def test_a_consumer_takes_no_more_than_the_concurrency_of_its_queue(bench: Workbench) -> None:
    consumer = consume_ten(bench, bench.ours(concurrency={QUEUE: 2}))

    assert all_from(consumer) == 2
    assert bench.eye.holds(QUEUE, 8)
    consumer.close()


def test_the_plain_broker_takes_twice_the_threads_of_all_queues(bench: Workbench) -> None:
    worker = Worker(bench.plain(), worker_threads=8)

    consumer = consume_ten(bench, bench.plain(), prefetch=worker.queue_prefetch)

    assert all_from(consumer) == 10
    consumer.close()


def test_what_an_older_consumer_still_runs_is_not_taken_again(bench: Workbench, line: TcpLine) -> None:
    broker = bench.ours(url=line.url, concurrency={QUEUE: 2})
    older = consume_ten(bench, broker)
    running = [taken_from(older), taken_from(older)]
    line.cut()

    present = broker.consume(QUEUE, timeout=200)
    assert all_from(present) == 0
    assert bench.eye.holds(QUEUE, 10)

    present.ack(running[0])
    assert all_from(present) == 1
    assert bench.eye.holds(QUEUE, 9)

    present.ack(running[1])
    assert all_from(present) == 1
    closed(older, present)


def test_the_plain_broker_takes_a_full_prefetch_beside_what_still_runs(bench: Workbench, line: TcpLine) -> None:
    broker = bench.plain(url=line.url)
    older = consume_ten(bench, broker, prefetch=2)
    assert all_from(older) == 2
    line.cut()

    present = broker.consume(QUEUE, prefetch=2, timeout=200)

    assert all_from(present) == 2
    closed(older, present)


# --- parts -----------------------------------------------------------------------------------------------------------


def failing(failed: threading.Event, *, then: Callable[[], None] = lambda: None) -> Callable[[], None]:
    def work() -> None:
        then()
        failed.set()
        fail()

    return work


def cut_off(broker: Any) -> Callable[[], None]:
    """Nothing listens any more where the broker's next connection goes."""

    def cut() -> None:
        for parameters in broker.parameters if isinstance(broker.parameters, list) else [broker.parameters]:
            parameters.port = 1

    return cut


def consume_ten(bench: Workbench, broker: Broker, *, prefetch: int = 16) -> Consumer:
    broker.declare_queue(QUEUE)
    consumer = broker.consume(QUEUE, prefetch=prefetch, timeout=200)
    bench.eye.hint(QUEUE, 10)
    return consumer


def closed(*consumers: Consumer) -> None:
    for consumer in consumers:
        with contextlib.suppress(ConnectionClosed):  # the library's consumers say so when they are
            consumer.close()


def taken_from(consumer: Consumer) -> MessageProxy:
    for _ in range(50):
        if (message := next(consumer)) is not None:
            return message
    raise AssertionError("nothing came")
