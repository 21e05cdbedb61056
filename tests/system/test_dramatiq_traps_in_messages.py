"""Traps of dramatiq 2.2.1 in what a message may do to a worker: each closed, each shown in the library."""

from __future__ import annotations

import json
import os
import pickle
import threading
from collections.abc import Callable, Iterator

import dramatiq.worker
import pytest
from dramatiq import set_encoder
from dramatiq.encoder import JSONEncoder, PickleEncoder

from bus.workers.wire import encode, hint_for
from tests.services import Vhost
from tests.system.workbench import OTHER, PATIENCE, QUEUE, QUIET, Counter, Workbench, all_from, fail

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


@pytest.fixture
def bench(vhost: Vhost, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workbench]:
    monkeypatch.setattr(dramatiq.worker, "CONSUMER_RESTART_DELAY_SECS", 0.05)
    with Workbench(vhost.amqp_url) as bench:
        yield bench


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


def test_a_message_runs_no_other_queues_actor(bench: Workbench) -> None:
    other = Counter()
    with bench.working(bench.ours(concurrency={QUEUE: 1, OTHER: 1}), {QUEUE: fail, OTHER: other.count}):
        bench.eye.declare(QUEUE)
        bench.eye.put(QUEUE, altered(actor_name=OTHER))

        assert bench.recorder.wait_for("hint rejected")["cause"] == "hint.unknown-actor"
    assert other.value == 0


def test_the_plain_broker_runs_whatever_actor_a_message_names(bench: Workbench) -> None:
    other = Counter()
    broker = bench.plain()
    broker.consume(QUEUE).close()
    with bench.working(broker, {QUEUE: fail, OTHER: other.count}):
        bench.eye.put(QUEUE, altered(actor_name=OTHER))

        other.wait_for(1)


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
