"""Traps of dramatiq 2.2.1 and pika 1.4.4 in declaring queues and publishing: each closed, each shown in the library."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from dramatiq import set_encoder
from dramatiq.encoder import JSONEncoder, PickleEncoder

from bus.errors import BrokerUnavailable, ConfigurationError, Unroutable
from bus.workers import connection
from bus.workers.hints import DramatiqHints
from bus.workers.wire import hint_for
from tests.services import Vhost
from tests.system.tcp_line import TcpLine
from tests.system.workbench import ARGUMENTS, OTHER, PATIENCE, QUEUE, Workbench

WEEK = 7 * 86_400_000
BLOCKED = bytes.fromhex("01 0000 0000000a 000a 003c 05") + b"alarm" + b"\xce"  # connection.blocked("alarm")


@pytest.fixture
def bench(vhost: Vhost) -> Iterator[Workbench]:
    with Workbench(vhost.amqp_url) as bench:
        yield bench


@pytest.fixture
def line(vhost: Vhost) -> Iterator[TcpLine]:
    with TcpLine(vhost.amqp_url) as line:
        yield line


# --- queues ----------------------------------------------------------------------------------------------------------


def test_a_queue_is_a_quorum_queue_with_the_arguments_of_the_topology(bench: Workbench) -> None:
    broker = bench.ours()
    broker.declare_queue(QUEUE)

    broker.consume(QUEUE).close()

    assert bench.eye.is_declared_with(QUEUE, ARGUMENTS)


def test_the_plain_broker_declares_classic_queues(bench: Workbench) -> None:
    bench.plain().consume(QUEUE).close()

    assert not bench.eye.is_declared_with(QUEUE, ARGUMENTS)
    assert bench.eye.is_declared_with(QUEUE, {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": f"{QUEUE}.XQ"})


def test_no_delay_queue_and_no_expiring_dead_letter_queue_is_made(bench: Workbench) -> None:
    with bench.working(bench.ours(), {QUEUE: lambda: None}) as worker:
        bench.eye.declare(QUEUE)

        assert list(worker.consumers) == [QUEUE]
    assert not bench.eye.is_there(f"{QUEUE}.DQ")
    assert not bench.eye.is_there(f"{QUEUE}.XQ")


def test_the_plain_broker_forgets_dead_letters_after_a_week_and_consumes_delays(bench: Workbench) -> None:
    broker = bench.plain()
    with bench.working(broker, {QUEUE: lambda: None}) as worker:
        broker.consume(QUEUE).close()

        assert sorted(worker.consumers) == [QUEUE, f"{QUEUE}.DQ"]
    assert bench.eye.is_declared_with(f"{QUEUE}.XQ", {"x-message-ttl": WEEK})


def test_a_queue_whose_dead_letters_would_vanish_is_not_consumed(bench: Workbench) -> None:
    broker = bench.ours()
    bench.eye.channel.exchange_delete("bus.dead")

    with pytest.raises(Exception, match=r"bus\.dead"):
        broker.consume(QUEUE)

    assert not bench.eye.is_there(QUEUE)


def test_a_delay_is_refused(bench: Workbench) -> None:
    with pytest.raises(ConfigurationError, match="the store knows what is due"):
        bench.ours().enqueue(hint_for(QUEUE), delay=60_000)


def test_the_plain_broker_holds_delayed_messages_in_memory(bench: Workbench) -> None:
    broker = bench.plain()
    with bench.working(broker, {QUEUE: lambda: None}) as worker:
        broker.enqueue(hint_for(QUEUE), delay=60_000)

        held = worker.consumers[f"{QUEUE}.DQ"].delay_queue.get(timeout=PATIENCE)

    assert held.message.queue_name == f"{QUEUE}.DQ"


# --- publishing ------------------------------------------------------------------------------------------------------


def test_a_hint_for_a_missing_queue_is_logged_and_raised(bench: Workbench) -> None:
    broker = bench.ours()

    with pytest.raises(Unroutable, match=OTHER):
        broker.enqueue(hint_for(OTHER))

    assert bench.recorder.named("hint not put")[0]["queue"] == OTHER
    assert not bench.eye.is_there(OTHER)


def test_the_plain_broker_loses_a_message_for_a_missing_queue(bench: Workbench) -> None:
    broker = bench.plain()
    broker.enqueue(hint_for(QUEUE))
    bench.eye.channel.queue_delete(QUEUE)

    broker.enqueue(hint_for(QUEUE))

    assert not bench.eye.is_there(QUEUE)


def test_a_hint_that_the_broker_did_not_confirm_is_an_error_in_time(bench: Workbench, line: TcpLine) -> None:
    broker = bench.ours(url=line.url, confirm_within=connection.CONNECT_LIMIT / 10)
    bench.eye.declare(QUEUE)
    broker.enqueue(hint_for(QUEUE))
    line.freeze()

    with pytest.raises(BrokerUnavailable):
        broker.enqueue(hint_for(QUEUE))

    assert bench.eye.ready(QUEUE) == 1


def test_the_plain_broker_reports_a_message_as_sent_that_is_not(bench: Workbench, line: TcpLine) -> None:
    broker = bench.plain(url=line.url)
    broker.enqueue(hint_for(QUEUE))
    line.freeze()

    broker.enqueue(hint_for(QUEUE))

    assert bench.eye.ready(QUEUE) < 2


def test_the_plain_broker_waits_for_a_confirm_without_limit(bench: Workbench, line: TcpLine) -> None:
    broker = bench.plain(url=line.url, confirm_delivery=True)
    broker.enqueue(hint_for(QUEUE))
    line.freeze()
    returned = threading.Event()

    def publish() -> None:
        broker.enqueue(hint_for(QUEUE))
        returned.set()

    publishing = threading.Thread(target=publish)
    publishing.start()

    assert not returned.wait(3)
    line.cut()
    line.thaw()
    publishing.join(PATIENCE)


def test_a_publisher_that_the_broker_blocks_is_free_again(
    bench: Workbench, line: TcpLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "BLOCKED_LIMIT", connection.BLOCKED_LIMIT / 10)
    broker = bench.ours(url=line.url, confirm_within=connection.CONNECT_LIMIT * 2)
    bench.eye.declare(QUEUE)
    broker.enqueue(hint_for(QUEUE))

    line.say_to_client(BLOCKED)
    line.freeze()
    threading.Timer(2, line.thaw).start()
    broker.enqueue(hint_for(QUEUE))

    assert line.accepted == 2
    assert bench.eye.ready(QUEUE) >= 2


def test_the_plain_broker_stays_with_a_connection_that_blocks(bench: Workbench, line: TcpLine) -> None:
    broker = bench.plain(url=line.url, confirm_delivery=True)
    broker.enqueue(hint_for(QUEUE))

    line.say_to_client(BLOCKED)
    line.freeze()
    threading.Timer(2, line.thaw).start()
    broker.enqueue(hint_for(QUEUE))

    assert line.accepted == 1


def test_an_idle_publisher_keeps_its_connection(
    bench: Workbench, line: TcpLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "HEARTBEAT", connection.HEARTBEAT / 15)
    broker = bench.ours(url=line.url)
    bench.eye.declare(QUEUE)
    broker.enqueue(hint_for(QUEUE))

    assert not line.broker_hung_up.wait(8)
    broker.enqueue(hint_for(QUEUE))
    assert line.accepted == 1


def test_the_plain_broker_lets_an_idle_publisher_die(bench: Workbench, line: TcpLine) -> None:
    broker = bench.plain(url=f"{line.url}?heartbeat=2")
    broker.enqueue(hint_for(QUEUE))

    assert line.broker_hung_up.wait(8)


def test_a_connection_that_was_cut_is_replaced_without_a_word(bench: Workbench, line: TcpLine) -> None:
    broker = bench.ours(url=line.url)
    bench.eye.declare(QUEUE)
    broker.enqueue(hint_for(QUEUE))
    line.cut()

    broker.enqueue(hint_for(QUEUE))

    assert bench.eye.ready(QUEUE) == 2


def test_publishing_threads_share_one_connection(bench: Workbench, line: TcpLine) -> None:
    broker = bench.ours(url=line.url)
    bench.eye.declare(QUEUE)

    in_threads(lambda: broker.enqueue(hint_for(QUEUE)), 8)

    assert line.accepted == 1
    assert bench.eye.ready(QUEUE) >= 1


def test_the_plain_broker_keeps_a_connection_for_every_thread_that_ever_published(
    bench: Workbench, line: TcpLine
) -> None:
    broker = bench.plain(url=line.url)

    in_threads(lambda: broker.enqueue(hint_for(QUEUE)), 8)

    assert len(broker.connections) == 8


def test_hints_are_json_whatever_the_global_encoder_is(bench: Workbench, pickling: None) -> None:
    bench.eye.declare(QUEUE)

    bench.ours().enqueue(hint_for(QUEUE))

    assert bench.eye.take(QUEUE, 1)[0].startswith(b"{")


def test_the_plain_broker_pickles_when_told_so_anywhere(bench: Workbench, pickling: None) -> None:
    bench.plain().enqueue(hint_for(QUEUE))

    assert not bench.eye.take(QUEUE, 1)[0].startswith(b"{")


# --- the port --------------------------------------------------------------------------------------------------------


def test_waking_puts_one_confirmed_hint_on_each_queue(bench: Workbench) -> None:
    bench.eye.declare(QUEUE, OTHER)

    DramatiqHints(bench.ours(), telemetry=bench.recorder).wake([QUEUE, OTHER, QUEUE])

    assert (bench.eye.ready(QUEUE), bench.eye.ready(OTHER)) == (1, 1)


def test_waking_goes_on_behind_a_queue_that_is_missing(bench: Workbench) -> None:
    bench.eye.declare(OTHER)

    DramatiqHints(bench.ours(), telemetry=bench.recorder).wake([QUEUE, OTHER])

    assert bench.eye.ready(OTHER) == 1
    assert bench.recorder.named("hint not put")[0]["queue"] == QUEUE


def test_waking_without_a_broker_is_logged_and_returns(bench: Workbench) -> None:
    broker = bench.ours(url="amqp://bus:secret@127.0.0.1:1/nowhere")

    DramatiqHints(broker, telemetry=bench.recorder).wake([QUEUE, OTHER])

    event = bench.recorder.named("hints not put")[0]
    assert event["queues"] == [QUEUE, OTHER]
    assert "secret" not in str(event)


@pytest.fixture
def pickling() -> Iterator[None]:
    set_encoder(PickleEncoder())
    yield
    set_encoder(JSONEncoder())


def in_threads(do: object, count: int) -> None:
    assert callable(do)
    threads = [threading.Thread(target=do) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
