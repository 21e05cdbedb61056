"""Traps of dramatiq 2.2.1 and pika 1.4.4 in consuming: each closed, each shown in the library."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import threading
from collections.abc import Callable, Iterator
from typing import Any

import dramatiq.worker
import pytest
from dramatiq import Broker, Worker, set_encoder
from dramatiq.broker import Consumer, MessageProxy
from dramatiq.encoder import JSONEncoder, PickleEncoder
from dramatiq.errors import ConnectionClosed

from bus.errors import StoreUnavailable
from bus.workers.wire import encode, hint_for
from tests.services import Vhost
from tests.system.tcp_line import TcpLine
from tests.system.workbench import PATIENCE, QUEUE, QUIET, Workbench

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


# --- what a message may do -------------------------------------------------------------------------------------------


def altered(**fields: object) -> bytes:
    return json.dumps(json.loads(encode(hint_for(QUEUE))) | fields).encode()


MALFORMED = {
    "ten-megabytes-of-garbage": os.urandom(10_000_000),
    "empty": b"",
    "not-utf-8": b"\xff\xfe{}",
    "deep": b"[" * 4000,
    "a-list": b"[1]",
    "no-fields": b"{}",
    "unknown-actor": altered(actor_name="os.system"),
    "actor-not-a-name": altered(actor_name=["x"]),
    "another-queue": altered(queue_name="elsewhere"),
    "options-null": altered(options=None),
    "options-that-throw": altered(options={"throws": "x"}, kwargs={"version": 9}),
    "options-that-retry": altered(options={"max_retries": 9}),
    "a-time-to-wait-for": altered(options={"eta": 9e15}),
    "a-pipe": altered(options={"pipe_target": {}}),
    "a-newer-version": altered(args=[99]),
    "arguments": altered(kwargs={"path": "/etc/passwd"}),
    "a-long-id": altered(message_id="x" * 100),
    "one-field-more": altered(surprise=1),
    "pickled": pickle.dumps({"queue_name": QUEUE}),
}
ENDS_ALL_WORK = ["actor-not-a-name", "another-queue", "options-null", "options-that-throw"]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_message_is_rejected_and_the_worker_lives(bench: Workbench, body: bytes) -> None:
    done = Counter()
    with bench.working(bench.ours(), {QUEUE: done.count}):
        bench.eye.declare(QUEUE)
        bench.eye.put(QUEUE, body)
        bench.eye.hint(QUEUE)

        assert bench.eye.take("bus.dead", 1) == [body]
        done.wait_for(1)

    assert [event["size"] for event in bench.recorder.named("hint rejected")] == [len(body)]
    assert done.value == 1


@pytest.mark.parametrize("kind", ENDS_ALL_WORK)
def test_the_plain_broker_works_no_more_after_one_malformed_message(bench: Workbench, kind: str) -> None:
    done = Counter()
    work = fail if kind == "options-that-throw" else done.count
    broker = bench.plain()
    broker.consume(QUEUE).close()
    with bench.working(broker, {QUEUE: work}) as worker:
        bench.eye.put(QUEUE, MALFORMED[kind])
        if kind in {"another-queue", "options-that-throw"}:
            worker.workers[0].join(PATIENCE)
            assert not worker.workers[0].is_alive()
            done = Counter()
        bench.eye.hint(QUEUE)

        assert not done.reaches(1, within=QUIET)


def test_garbage_is_not_logged(bench: Workbench, caplog: pytest.LogCaptureFixture) -> None:
    with bench.working(bench.ours(), {QUEUE: fail}):
        bench.eye.declare(QUEUE)
        bench.eye.put(QUEUE, b"secret" * 1000)
        event = bench.recorder.wait_for("hint rejected")

    assert "secret" not in caplog.text + str(event)


def test_the_plain_broker_logs_garbage_whole(bench: Workbench, caplog: pytest.LogCaptureFixture) -> None:
    consumer = bench.plain().consume(QUEUE, timeout=200)
    bench.eye.put(QUEUE, b"secret" * 1000)

    all_from(consumer)
    consumer.close()

    assert "secret" * 1000 in caplog.text


def test_nothing_is_unpickled_whatever_the_global_encoder_is(bench: Workbench, pickling: None) -> None:
    with bench.working(bench.ours(), {QUEUE: fail}):
        bench.eye.declare(QUEUE)
        bench.eye.put(QUEUE, pickle.dumps(Bomb()))
        bench.recorder.wait_for("hint rejected")

    assert not Bomb.exploded.is_set()


def test_the_plain_broker_unpickles_when_told_so_anywhere(bench: Workbench, pickling: None) -> None:
    consumer = bench.plain().consume(QUEUE, timeout=200)
    bench.eye.put(QUEUE, pickle.dumps(Bomb()))

    all_from(consumer)
    consumer.close()

    assert Bomb.exploded.is_set()


class Bomb:
    exploded = threading.Event()

    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        return explode, ()


def explode() -> None:
    Bomb.exploded.set()


@pytest.fixture
def pickling() -> Iterator[None]:
    Bomb.exploded.clear()
    set_encoder(PickleEncoder())
    yield
    set_encoder(JSONEncoder())


# --- parts -----------------------------------------------------------------------------------------------------------


class Counter:
    """Counts calls, and lets a test wait for them."""

    def __init__(self) -> None:
        self.value = 0
        self._changed = threading.Condition()

    def count(self) -> None:
        with self._changed:
            self.value += 1
            self._changed.notify_all()

    def reaches(self, value: int, *, within: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self.value >= value, within)

    def wait_for(self, value: int) -> None:
        assert self.reaches(value, within=PATIENCE), self.value


def fail() -> None:
    raise RuntimeError("a bug")


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


def all_from(consumer: Consumer) -> int:
    """How many messages come until none came for a while."""
    count = quiet = 0
    while quiet < 3:
        came = next(consumer) is not None
        count += came
        quiet = 0 if came else quiet + 1
    return count
