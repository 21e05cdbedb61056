"""The turn of the month on real PostgreSQL: what is ended becomes history, the rest goes on, nobody's work fails."""

from __future__ import annotations

import secrets
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from bus.control.orders import discard_deliveries, replay_deliveries, say_it_happened
from bus.errors import BusError, OutcomeUnknown, PermanentFailure, StoreConflict, StoreRefuses
from bus.model.delivery import Event, State, succeed
from bus.pipeline.resume import NO_TURN, Observer, Relay
from bus.ports import Actor
from bus.store import months
from bus.store import tables as t
from bus.store.engine import Database
from bus.store.failures import FailureQuery, dead_groups, list_failures
from bus.store.follow import message_detail, trace
from bus.store.lane_views import list_lanes
from bus.store.overview import endpoint_lines, overview
from bus.store.search import MessageQuery, list_messages
from bus.store.sqlstore import SqlStore
from bus.store.unserved import unserved
from bus.store.verify import verify
from bus.testing import RecordedTelemetry, ScriptedEndpoint
from tests.conformance.books import discrepancies, states, steps, totals
from tests.conformance.months import (
    PERSON,
    RELAY,
    closed_in,
    fresh_store,
    in_the_open_month,
    let_the_month_end,
    period_of,
    turn,
)
from tests.conformance.stages import PLAIN, TEST, a_bus, an_attempt, claim, doubt, end, keep_steps, now_due, retry
from tests.services import PostgreSQL
from tests.small_project import a_native_step, a_step, small_catalogue

pytestmark = pytest.mark.postgresql

RIGHTS = (
    "GRANT USAGE ON SCHEMA public, history TO {role}",
    "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role}",
    "GRANT SELECT ON ALL TABLES IN SCHEMA history TO {role}",
    "GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {role}",
    "REVOKE UPDATE, DELETE, TRUNCATE ON journal FROM {role}",
    "REVOKE INSERT, UPDATE, DELETE, TRUNCATE ON period FROM {role}",
)
RIGHT_TO_TURN = "GRANT EXECUTE ON FUNCTION history.turn TO {role}"


@pytest.fixture
def store(postgresql: PostgreSQL) -> Iterator[SqlStore]:
    with fresh_store(postgresql) as fresh:
        yield fresh


def number_of(store: SqlStore, state: State) -> int:
    """The delivery in this state."""
    (number,) = [row.id for row in in_the_open_month(store, t.delivery) if row.state == state]
    return int(number)


def connected_to(store: SqlStore) -> SqlStore:
    """The same store over one connection of its own."""
    return SqlStore(Database(store.database.url.render_as_string(hide_password=False), pool_size=1))


def a_relay(store: SqlStore, telemetry: RecordedTelemetry) -> Relay:
    return Relay(
        store=store,
        wake=lambda _: None,
        without_hints=set,
        queues=small_catalogue().queues,
        telemetry=telemetry,
        name="relay:1",
        clock=lambda: timedelta(0),
        observer=Observer(),
    )


@contextmanager
def a_user_of_the_bus(store: SqlStore, *, may_turn: bool = True) -> Iterator[SqlStore]:
    """The store as a user who owns nothing in it sees it: the one that the bus works as in production."""
    role = f"plantbus_{secrets.token_hex(4)}"
    with store.database.write() as connection:
        connection.execute(text(f"CREATE ROLE {role} LOGIN"))
        for statement in (*RIGHTS, *([RIGHT_TO_TURN] if may_turn else [])):
            connection.execute(text(statement.format(role=role)))
    try:
        user = SqlStore(Database(store.database.url.set(username=role).render_as_string(hide_password=False)))
        yield user
        user.close()
    finally:
        with store.database.write() as connection:
            connection.execute(text(f"DROP OWNED BY {role}"))
            connection.execute(text(f"DROP ROLE {role}"))


# --- what a turn does ------------------------------------------------------------------------------------------------


def test_a_month_that_is_over_is_closed_and_everything_in_it_is_found_still(store: SqlStore) -> None:
    bus = a_bus(store)
    bus.receive(a_native_step("1", 1, document={"parts": 2}), a_step("6", 404), a_native_step("broken"))
    bus.receive(a_step("6", 404))
    bus.run_until_idle()
    discard_deliveries([number_of(store, State.DEAD)], store=store, actor=PERSON)
    before = totals(store)

    turned = turn(store)

    assert (turned.moved_along, turned.is_put_off) == (0, False)
    assert all(in_the_open_month(store, table) == [] for table in (t.message, t.delivery, t.attempt, t.receipt))
    assert closed_in(store, "message") == {"message_1": 5}
    assert [line.number for line in list_messages(store.database, MessageQuery(), limit=9).items] == [5, 4, 3, 2, 1]
    assert list_messages(store.database, MessageQuery(where=(("order", "1"),)), limit=9).items != []
    assert trace(store.database, 4).messages == 3
    assert message_detail(store.database, 4).journal != []
    assert overview(store.database).latency is not None
    assert totals(store) == before
    assert list(discrepancies(store)) == []


def test_nothing_is_turned_before_the_month_is_over(store: SqlStore) -> None:
    keep_steps(store, "a")

    assert store.turn_month(actor=RELAY) is None
    assert closed_in(store, "message") == {"open": 1}


def test_sqlite_has_one_month_that_stays_open(tmp_path: Path, sqlite_with_tables: Path) -> None:
    shutil.copy(sqlite_with_tables, tmp_path / "bus.db")
    store = SqlStore(Database(f"sqlite:///{tmp_path}/bus.db"))
    let_the_month_end(store)

    assert store.turn_month(actor=RELAY) is None
    assert [month.state for month in months.months(store.database)] == ["open"]


def test_the_new_tables_are_as_the_old_ones_were(store: SqlStore) -> None:
    shape = """
        SELECT c.relname, k.conname, pg_get_constraintdef(k.oid)
        FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid
        WHERE k.connamespace = 'public'::regnamespace AND k.contype IN ('p', 'u', 'f', 'n')
        UNION ALL SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'
        UNION ALL SELECT c.relname, tgname, pg_get_triggerdef(t.oid)
        FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
        WHERE NOT tgisinternal AND relnamespace = 'public'::regnamespace
        UNION ALL SELECT table_name, column_name, data_type || is_nullable || coalesce(column_default, '')
        FROM information_schema.columns WHERE table_schema = 'public' AND column_name <> 'period'
        ORDER BY 1, 2, 3"""
    with store.database.read() as connection:
        before = connection.execute(text(shape)).all()

    turn(store)
    turn(store)

    with store.database.read() as connection:
        assert connection.execute(text(shape)).all() == before


def test_numbers_rise_from_month_to_month(store: SqlStore) -> None:
    keep_steps(store, "a", "b")
    end(store, claim(store), succeed())
    turn(store)

    keep_steps(store, "c")

    assert [row.id for row in in_the_open_month(store, t.message)] == [3]
    assert [row.id for row in in_the_open_month(store, t.delivery)] == [3]


def test_the_journal_of_a_new_month_is_stamped_and_refuses_changes(store: SqlStore) -> None:
    turn(store)

    assert [(row.act, row.login != "") for row in in_the_open_month(store, t.journal)] == [("turn", True)]
    with pytest.raises(BusError, match="append-only"), store.database.write() as connection:
        connection.execute(t.journal.delete())


# --- what is not ended -----------------------------------------------------------------------------------------------


def test_a_retry_that_moved_along_is_delivered_when_it_is_due(store: SqlStore) -> None:
    keep_steps(store, "a", "b")
    first, second = claim(store)
    end(store, [first], retry(due_in=timedelta(hours=1)))
    end(store, [second], succeed())

    turned = turn(store)
    now_due(store)
    queues = store.wake_due(limit=9)
    bus = a_bus(store, PLAIN)
    bus.run_until_idle()

    assert (turned.moved_along, queues) == (1, {"send.target"})
    assert [(row.id, row.state, row.attempts) for row in in_the_open_month(store, t.delivery)] == [
        (first.id, "DELIVERED", 2)
    ]
    assert [attempt.outcome for attempt in message_detail(store.database, 1).attempts] == ["fail", "succeed"]
    assert list(discrepancies(store)) == []


def test_a_lane_behind_a_standing_dead_one_goes_on_in_order_two_months_later(store: SqlStore) -> None:
    target = ScriptedEndpoint(script={"order:8": [PermanentFailure("target.422", "no")]})
    bus = a_bus(store, adapters={"target": target})
    bus.receive(a_step("8", 1), a_step("8", 2), a_step("9", 1))
    bus.run_until_idle()

    turn(store)
    bus.receive(a_step("8", 3))
    turn(store)
    blocked = [row.state for row in in_the_open_month(store, t.delivery)]
    replay_deliveries([1], store=store, catalogue=bus.catalogue, actor=PERSON)
    bus.run_until_idle()

    assert blocked == [State.DEAD, State.WAITING, State.READY]
    assert steps(target.received, "8") == [1, 2, 3]
    assert list(discrepancies(store)) == []


def test_a_doubt_that_moved_along_is_decided_by_its_probe_or_by_a_person(store: SqlStore) -> None:
    lost = OutcomeUnknown("outcome.timeout", "no answer")
    target = ScriptedEndpoint(remembers_keys=False, script={"order:1": [lost], "order:2": [lost]})
    bus = a_bus(store, adapters={"target": target})
    bus.receive(a_step("1", 1), a_step("2", 1))
    bus.run_until_idle()
    turn(store)

    say_it_happened(2, document="4711", store=store, actor=PERSON)
    now_due(store)
    bus.run_until_idle()
    probed = [attempt.outcome for attempt in message_detail(store.database, 1).attempts]

    assert "probe: absent" in probed
    assert states(store)[1] is State.DELIVERED
    assert list(discrepancies(store)) == []


def test_what_a_worker_held_during_the_turn_it_settles_afterwards(store: SqlStore) -> None:
    keep_steps(store, "a", "b", "c")
    claimed = claim(store, limit=2)
    store.mark_sending(claimed[1].id, claimed[1].token)

    turn(store)
    end(store, claimed, succeed())

    assert states(store) == [State.DELIVERED, State.DELIVERED, State.READY]
    assert list(discrepancies(store)) == []


def test_everything_a_message_led_to_stays_in_one_month(store: SqlStore) -> None:
    target = ScriptedEndpoint(script={"order:1": [PermanentFailure("target.422", "no")]})
    bus = a_bus(store, adapters={"target": target})
    bus.receive(a_native_step("1", 1, document={"parts": 2}), a_native_step("2", 1))
    bus.run_until_idle()

    turned = turn(store)
    moved = {row.type: row.subject for row in in_the_open_month(store, t.message)}
    discard_deliveries([number_of(store, State.DEAD)], store=store, actor=PERSON)
    bus.run_until_idle()
    turn(store)

    assert turned.moved_along == 3
    assert moved == {"native.step.v1": "order:1", "test.step.v1": "order:1"}
    assert closed_in(store, "message") == {"message_1": 2, "message_2": 3}
    assert closed_in(store, "search_value") == {"search_value_1": 1, "search_value_2": 2}
    assert list(discrepancies(store)) == []


def test_a_turn_is_put_off_while_too_much_is_not_ended(store: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(months, "MOVED_AT_MOST", 2)
    keep_steps(store, "a", "b", "c")

    put_off = turn(store)
    end(store, claim(store, limit=1), succeed())
    turned = store.turn_month(actor=RELAY)

    assert (put_off.is_put_off, put_off.moved_along) == (True, 0)
    assert turned is not None
    assert (turned.is_put_off, turned.moved_along) == (False, 2)


# --- what is touched again -------------------------------------------------------------------------------------------


def test_a_finished_one_of_a_closed_month_is_sent_once_more(store: SqlStore) -> None:
    bus = a_bus(store, adapters={"target": (target := ScriptedEndpoint())})
    bus.receive(a_native_step("1", 1, document={"parts": 2}), a_step("2", 1))
    bus.run_until_idle()
    last = max(
        row.id for row in in_the_open_month(store, t.delivery) if row.destination == "target" and row.message != 2
    )
    turn(store)
    turn(store)

    done = replay_deliveries([last], store=store, catalogue=bus.catalogue, actor=PERSON, repeat=True)
    bus.run_until_idle()

    assert done.repeated == [last]
    assert sorted(steps(target.received, "1")) == [1, 2, 2]
    assert closed_in(store, "message") == {"message_1": 1, "open": 3}
    assert closed_in(store, "attempt") == {"attempt_1": 1, "open": len(in_the_open_month(store, t.attempt))}
    assert list(discrepancies(store)) == []


def test_a_large_body_of_a_closed_month_is_sent_once_more(store: SqlStore) -> None:
    bus = a_bus(store, PLAIN, adapters={"target": (target := ScriptedEndpoint())})
    bus.receive(a_step("1", 1, document={"text": "x" * 300_000}))
    bus.run_until_idle()
    turn(store)

    done = replay_deliveries([1], store=store, catalogue=bus.catalogue, actor=PERSON, repeat=True)
    bus.run_until_idle()

    assert (done.repeated, len(target.received)) == ([1], 2)


def test_one_part_of_a_split_in_a_closed_month_is_refused_with_the_whole_it_is_of(store: SqlStore) -> None:
    bus = a_bus(store)
    bus.receive(a_step("1", 1, document={"parts": 2}))
    bus.run_until_idle()
    turn(store)
    with store.database.history() as connection:
        part, whole = connection.execute(
            text("SELECT d.id, m.parent FROM delivery d JOIN message m ON m.id = d.message WHERE d.part > 0 LIMIT 1")
        ).one()

    done = replay_deliveries([part], store=store, catalogue=bus.catalogue, actor=PERSON, repeat=True)

    assert f"what delivery {whole} was split into" in done.refused[part]


def test_a_probe_that_comes_back_after_the_month_was_closed_is_kept_with_its_delivery(store: SqlStore) -> None:
    keep_steps(store, "a")
    (doubted,) = claim(store)
    end(store, [doubted], doubt())
    say_it_happened(doubted.id, document="4711", store=store, actor=PERSON)
    turn(store)

    asked = replace(an_attempt(doubted, succeed()), outcome="probe: absent")
    store.put_off_doubt(doubted.id, of_claim=doubted.token, attempt=asked, again_in=None)
    store.settle_doubt(doubted.id, Event.ABSENT, actor=TEST, of_claim=doubted.token, attempt=asked)

    detail = message_detail(store.database, 1)
    assert [attempt.outcome for attempt in detail.attempts] == ["doubt", "probe: absent", "probe: absent"]
    assert [delivery.state for delivery in detail.deliveries] == ["DELIVERED"]


def test_a_late_answer_about_something_in_a_closed_month_is_kept_with_it(store: SqlStore) -> None:
    keep_steps(store, "a")
    (late,) = claim(store, worker="worker:late")
    store.bury_worker("worker:late", actor=RELAY)
    end(store, claim(store), succeed())
    turn(store)

    end(store, [late], succeed())

    assert closed_in(store, "attempt") == {"open": 2}
    assert [attempt.late for attempt in message_detail(store.database, 1).attempts] == [False, True]
    assert list(discrepancies(store)) == []


# --- others are at work ----------------------------------------------------------------------------------------------


def test_two_relays_turn_each_month_once_under_load_and_nobody_s_work_fails(store: SqlStore) -> None:
    _never_in_a_deadlock_for_being_slow(store)
    targets = [ScriptedEndpoint(), ScriptedEndpoint()]
    finished, failures = threading.Event(), []
    received = [0, 0]

    def work(number: int) -> None:
        own = connected_to(store)
        bus = a_bus(own, adapters={"target": targets[number]}, worker=f"worker:{number}")
        while not finished.is_set():
            first = received[number]
            try:
                bus.receive(*(a_step(f"{step % 20}", 1_000_000 * number + step) for step in range(first, first + 20)))
                received[number] += 20
                bus.work("transform.transaction")
                bus.work("send.target")
            except BusError as error:
                failures.append(repr(error))
                break
        own.close()

    def relay(name: str) -> None:
        own = connected_to(store)
        while not finished.is_set():
            try:
                own.turn_month(actor=Actor(name=name, reason="the month is over"))
            except StoreConflict:
                continue  # tried again
        own.close()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    threads += [threading.Thread(target=relay, args=(f"relay:{number}",)) for number in range(2)]
    for thread in threads:
        thread.start()
    while period_of(store) < 4 and not failures:
        seen = list(received)
        while received == seen and not failures:
            finished.wait(0.01)
        failures += [one.text for one in verify(store.database)]
        let_the_month_end(store)
    finished.set()
    for thread in threads:
        thread.join()
    a_bus(store, adapters={"target": targets[0]}).run_until_idle()

    assert failures == []
    assert sum(len(target.received) for target in targets) == sum(received)
    assert [month.state for month in months.months(store.database)][:3] == ["closed"] * 3
    with store.database.history() as connection:
        turns = connection.execute(text("SELECT count(*) FROM journal WHERE act = 'turn'")).scalar_one()
    assert turns == period_of(store) - 1
    assert list(discrepancies(store)) == []


def _never_in_a_deadlock_for_being_slow(store: SqlStore) -> None:
    """PostgreSQL looks for deadlocks after a second: on a machine where nothing runs for so long, it finds a turn."""
    with store.database.write() as connection:
        name = connection.execute(text("SELECT current_database()")).scalar_one()
        connection.execute(text(f"ALTER DATABASE {name} SET deadlock_timeout = '60s'"))


def test_a_connection_goes_on_with_the_statements_it_prepared_before_the_turn(store: SqlStore) -> None:
    alone = connected_to(store)
    bus = a_bus(alone, adapters={"target": (target := ScriptedEndpoint())})

    for month in range(3):
        for step in range(8):  # psycopg prepares what it is asked for the sixth time
            bus.receive(a_step("1", 100 * month + step), a_native_step("2", 100 * month + step))
            bus.run_until_idle()
        turn(store)
    alone.close()

    assert len(target.received) == 48
    assert list(discrepancies(store)) == []


def test_a_turn_gives_up_where_somebody_works_for_long_and_is_done_later(store: SqlStore) -> None:
    keep_steps(store, "a")
    let_the_month_end(store)

    with store.database.write() as connection:
        connection.execute(t.delivery.update().values(tries=1))
        with pytest.raises(StoreConflict):
            store.turn_month(actor=RELAY)
        keep_steps(store, "b")  # nobody waits behind the one that gave up
    turned = store.turn_month(actor=RELAY)

    assert turned is not None
    assert turned.moved_along == 2


@pytest.mark.parametrize(
    "ask",
    [
        lambda database: list_failures(database, State.DEAD, FailureQuery(), limit=9).items,
        lambda database: dead_groups(database, FailureQuery()),
        lambda database: list_lanes(database, limit=9).items,
        lambda database: unserved(database, served=[]),
        lambda database: list_messages(database, MessageQuery(state=State.DEAD), limit=9).items,
        lambda database: message_detail(database, 1).attempts,
        lambda database: overview(database).routes,
        lambda database: [line.ready for line in endpoint_lines(database, ["target"])],
    ],
)
def test_who_asks_during_the_turn_is_told_what_was_there(store: SqlStore, ask: Callable[[Database], object]) -> None:
    target = ScriptedEndpoint(script={"order:8": [PermanentFailure("target.422", "no")]})
    bus = a_bus(store, PLAIN, adapters={"target": target})
    bus.receive(a_step("8", 1), a_step("8", 2))
    bus.run_until_idle()
    bus.receive(a_step("9", 1))
    before = ask(store.database)

    with store.database.write() as connection, ThreadPoolExecutor(1) as pool:
        connection.execute(text("SELECT history.turn(1, 100)"))
        asked = pool.submit(ask, store.database)
        _until_somebody_waits(store)
        connection.commit()
        told = asked.result()

    assert told == before
    assert ask(store.database) == before


def _until_somebody_waits(store: SqlStore) -> None:
    waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
    while True:
        with store.database.look() as connection:
            if connection.execute(waiting).scalar_one():
                return


def test_a_relay_turns_the_month_and_says_so(store: SqlStore) -> None:
    telemetry = RecordedTelemetry()
    relay = a_relay(store, telemetry)
    relay.round()
    let_the_month_end(store)

    relay.clock = lambda: timedelta(minutes=2)
    relay.round()

    (event,) = telemetry.named("month turned")
    assert event["moved_along"] == 0
    assert period_of(store) == 2


# --- rights ----------------------------------------------------------------------------------------------------------


def test_the_bus_s_own_user_turns_months_and_can_neither_change_the_journal_nor_drop_a_month(store: SqlStore) -> None:
    with a_user_of_the_bus(store) as of_the_bus:
        bus = a_bus(of_the_bus)
        bus.receive(a_step("1", 1), a_native_step("2", 1))
        bus.run_until_idle()

        let_the_month_end(store)
        turned = of_the_bus.turn_month(actor=RELAY)
        bus.receive(a_step("1", 2))
        bus.run_until_idle()
        replay_deliveries([1], store=of_the_bus, catalogue=bus.catalogue, actor=PERSON, repeat=True)

        assert turned is not None
        assert list(discrepancies(of_the_bus)) == []
        for forbidden in ("UPDATE journal SET reason = ''", "DELETE FROM history.journal_1", "DROP TABLE delivery"):
            with pytest.raises(StoreRefuses), of_the_bus.database.write() as connection:
                connection.execute(text(forbidden))


def test_a_relay_that_may_not_turn_says_so_once_an_hour_and_goes_on(store: SqlStore) -> None:
    with a_user_of_the_bus(store, may_turn=False) as of_the_bus:
        telemetry = RecordedTelemetry()
        relay = a_relay(of_the_bus, telemetry)
        let_the_month_end(store)

        times = iter([timedelta(0), timedelta(minutes=30), NO_TURN + timedelta(seconds=1)])
        relay.clock = lambda: next(times)
        for _ in range(3):
            relay.round()

    assert len(telemetry.named("month cannot be turned")) == 2
