"""The store under several threads and processes at once: nobody loses, nobody starves, nothing sticks."""

from __future__ import annotations

import itertools
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TypeVar

from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from bus.errors import StoreConflict
from bus.model.delivery import Event, State, succeed
from bus.pipeline.replay import replay
from bus.store import tables as t
from bus.store.engine import Database
from bus.store.indexes import SCHEMA
from bus.store.schema import require_current, revisions, upgrade
from bus.store.sqlstore import SqlStore
from bus.testing import ScriptedEndpoint, a_message
from tests.conformance.books import discrepancies, recount, rows, states, steps, totals
from tests.conformance.stages import PLAIN, TEST, a_bus, an_attempt, claim, doubt, end, keep_steps
from tests.small_project import TO_BUS, TO_TARGET, a_native_step, a_step

T = TypeVar("T")
SECOND = timedelta(seconds=1)
BRIN = "ix_search_value_message"


def at_once(*tasks: Callable[[], T]) -> list[T]:
    """Run the tasks in threads that start together; what they returned, in their order."""
    begin = threading.Barrier(len(tasks))

    def run(task: Callable[[], T]) -> T:
        begin.wait()
        return task()

    with ThreadPoolExecutor(len(tasks)) as pool:
        return list(pool.map(run, tasks))


# --- threads ---------------------------------------------------------------------------------------------------------


def test_an_id_taken_by_many_at_once_is_new_to_one(store: SqlStore) -> None:
    messages = [a_message(id=str(number)) for number in range(40)]

    def take(seed: int) -> int:
        mixed = random.Random(seed).sample(messages, len(messages))
        with store.transaction() as transaction:
            return sum(taken.is_new for taken in transaction.take_ids(mixed))

    new = at_once(*(lambda seed=seed: take(seed) for seed in range(8)))

    assert sum(new) == len(messages)


def test_two_claimers_never_share_a_delivery(store: SqlStore) -> None:
    keep_steps(store, *(f"{number % 30}" for number in range(240)))

    def work(name: str) -> list[int]:
        mine: list[int] = []
        while len(mine) < 240 and State.READY in states(store):
            claimed = claim(store, worker=name, limit=7)
            mine += [c.id for c in claimed]
            end(store, claimed, succeed())
        return mine

    by_worker = at_once(*(lambda name=f"worker:{number}": work(name) for number in range(6)))

    claimed = [number for numbers in by_worker for number in numbers]
    assert sorted(claimed) == [row.id for row in rows(store, t.delivery)]
    assert set(states(store)) == {State.DELIVERED}


def test_claimers_at_once_leave_each_lane_in_its_order(store: SqlStore) -> None:
    keep_steps(store, *(f"{number % 3}" for number in range(60)))
    seen: dict[str, list[int]] = {}

    def work(name: str) -> None:
        while State.READY in states(store):
            for c in (claimed := claim(store, worker=name, limit=4)):
                seen.setdefault(c.kept.message.subject, []).append(c.place)
            end(store, claimed, succeed())

    at_once(*(lambda name=f"worker:{number}": work(name) for number in range(4)))

    assert list(seen.values()) == [list(range(1, 21))] * 3


def test_one_of_many_trips_an_endpoint_and_one_opens_it(store: SqlStore) -> None:
    def trip() -> bool:
        return store.trip("target", cause="endpoint.dns", detail="", check_in=-SECOND, actor=TEST)

    tripped = at_once(*[trip] * 8)
    checked = at_once(*[lambda: store.put_off_check("target", check_in=SECOND * 60)] * 8)
    opened = at_once(*[lambda: store.reopen("target", actor=TEST)] * 8)

    assert (sum(tripped), sum(checked), sum(opened)) == (1, 1, 1)
    assert len(rows(store, t.journal)) == 2


def test_a_lease_wanted_by_many_is_taken_by_one(store: SqlStore) -> None:
    free = at_once(*(lambda n=n: store.take_lease("relay", f"relay:{n}", instead_of=None) for n in range(8)))
    seen = store.leases()["relay"]
    stolen = at_once(*(lambda n=n: store.take_lease("relay", f"thief:{n}", instead_of=seen) for n in range(8)))

    assert (sum(free), sum(stolen)) == (1, 1)


def test_a_doubt_is_settled_by_one_though_its_late_outcome_comes_meanwhile(store: SqlStore) -> None:
    for number in range(12):
        keep_steps(store, f"{number}", f"{number}")
    doubted = claim(store)
    end(store, doubted, doubt())
    heads = [c for c in doubted if c.place == 1]

    def late() -> None:
        for c in heads:
            end(store, [c], succeed())

    def probe() -> None:
        for c in heads:
            attempt = an_attempt(c, succeed())
            _until_stored(partial(store.settle_doubt, c.id, Event.FOUND, actor=TEST, attempt=attempt))

    at_once(late, probe)

    assert list(discrepancies(store)) == []
    assert [state for state in states(store) if state is State.DELIVERED] == [State.DELIVERED] * 12


def test_a_delivery_repeated_by_two_at_once_gets_a_number_and_a_key_for_each(store: SqlStore) -> None:
    bus = a_bus(store, PLAIN)
    bus.receive(a_step("a", 1))
    bus.run_until_idle()
    (first,) = rows(store, t.delivery)

    at_once(*[partial(replay, [first.id], store=store, catalogue=bus.catalogue, actor=TEST)] * 4)
    found = rows(store, t.delivery)
    bus.run_until_idle()

    assert sorted(row.replay for row in found) == [0, 1, 2, 3, 4]
    assert len({row.key for row in found}) == 5
    assert states(store) == [State.DELIVERED] * 5
    assert list(discrepancies(store)) == []


def test_totals_are_folded_while_others_count(store: SqlStore) -> None:
    done = threading.Event()

    def count(name: str) -> None:
        for number in range(15):
            keep_steps(store, f"{name}-{number}")

    def fold() -> None:
        while not done.is_set():
            store.fold_totals()

    with ThreadPoolExecutor(2) as folders:
        folding = [folders.submit(fold) for _ in range(2)]
        at_once(*(lambda name=str(number): count(name) for number in range(4)))
        done.set()
        for one in folding:
            one.result()

    assert totals(store) == recount(store)
    assert totals(store)["planned", "steps-as-they-are"] == 60


def test_planning_claiming_and_settling_at_once_leaves_no_lane_stuck(store: SqlStore) -> None:
    target = ScriptedEndpoint()
    keys = [str(number) for number in range(25)]
    sent = threading.Event()

    def publish(number: int) -> None:
        bus = a_bus(store, TO_BUS, TO_TARGET)
        for turn in range(6):
            mixed = keys if (turn + number) % 2 else keys[::-1]
            step = 1000 * number + turn
            make = a_native_step if number % 2 else a_step
            bus.receive(*(make(key, step) for key in mixed))

    def work(number: int) -> None:
        bus = a_bus(store, TO_BUS, TO_TARGET, adapters={"target": target}, worker=f"worker:{number}")
        while not sent.is_set() or _is_busy(store):
            for queue in bus.catalogue.queues:
                bus.work(queue)

    with ThreadPoolExecutor(4) as pool:
        working = [pool.submit(work, number) for number in range(4)]
        at_once(*(lambda number=number: publish(number) for number in range(4)))
        sent.set()
        for one in working:
            one.result()

    assert list(discrepancies(store)) == []
    assert set(states(store)) == {State.DELIVERED}
    for key in keys:
        booked = steps(target.received, key)
        assert sorted(booked) == sorted(1000 * number + turn for number in range(4) for turn in range(6))
        for number in range(4):
            mine = [step for step in booked if step // 1000 == number]
            assert mine == sorted(mine)


def _is_busy(store: SqlStore) -> bool:
    return any(state in (State.READY, State.WAITING, State.CLAIMED, State.SENDING) for state in states(store))


def _until_stored(step: Callable[[], object]) -> None:
    while True:
        try:
            step()
        except StoreConflict:
            continue
        return


# --- processes -------------------------------------------------------------------------------------------------------


@contextmanager
def processes(*arguments: Sequence[str]) -> Iterator[list[subprocess.Popen[str]]]:
    """Start the processes, and let them begin together once all are ready."""
    command = [sys.executable, "-m", "tests.conformance.writers"]
    started = [
        subprocess.Popen([*command, *rest], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for rest in arguments
    ]
    try:
        for process in started:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in started:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        yield started
    finally:
        for process in started:
            process.communicate(timeout=60)


def test_no_writer_waits_for_many_turns_of_others_where_one_writes_at_a_time(tmp_path: Path) -> None:
    """SQLite: PostgreSQL's writers wait for nobody, only for a processor."""
    address = f"sqlite:///{tmp_path}/bus.db"
    store = SqlStore(Database(address))
    upgrade(store.database)
    writers, turns = 4, 60

    with processes(*(["write", address, name, str(writers), str(turns)] for name in ("a", "b"))) as started:
        pass

    assert [process.returncode for process in started] == [0, 0]
    order = [row.measure for row in rows(store, t.total)]
    store.close()
    assert len(order) == 2 * writers * turns
    # Fair is about 2 * writers; SQLite's own busy handler lets one wait for more than 300 of these 480 turns.
    assert longest_wait(order) <= 6 * 2 * 2 * writers


def longest_wait(order: Sequence[str]) -> int:
    """The most turns others had while one writer waited; all writers of a process begin together."""
    begun: dict[str, int] = {}
    waits = []
    for one in set(order):
        process = one.partition(".")[0]
        first = begun.setdefault(process, next(place for place, name in enumerate(order) if name.startswith(process)))
        places = [first - 1] + [place for place, name in enumerate(order) if name == one]
        waits += [after - before - 1 for before, after in itertools.pairwise(places)]
    return max(waits)


def test_waiting_is_counted_in_turns_of_others_from_the_beginning() -> None:
    assert longest_wait(["a.0", "a.1", "a.0", "a.1"]) == 1
    assert longest_wait(["a.0", "a.0", "a.0", "a.1"]) == 3
    assert longest_wait(["a.0", "a.0", "b.0", "a.0"]) == 1


def test_two_processes_upgrade_an_empty_store_at_once(store_url: str) -> None:
    with processes(["upgrade", store_url], ["upgrade", store_url]) as started:
        pass

    database = Database(store_url)
    require_current(database)
    database.close()
    assert [process.returncode for process in started] == [0, 0]


def test_upgrading_twice_changes_nothing(store: SqlStore) -> None:
    keep_steps(store, "a")

    upgrade(store.database)

    current, needed = revisions(store.database)
    assert current == needed
    assert states(store) == [State.READY]


def test_the_migrations_make_exactly_the_tables_that_are_declared(store: SqlStore) -> None:
    with store.database.engine.connect() as connection:
        context = MigrationContext.configure(
            connection,
            # SQLite has no IDENTITY: compared there, each numbered table would seem to lack its default.
            opts={
                "compare_type": True,
                "compare_server_default": not store.database.is_sqlite,
                # SQLite has no BRIN, and needs none: there is no turn of the month.
                "include_object": lambda _, name, *__: name != BRIN or not store.database.is_sqlite,
            },
        )
        differences = compare_metadata(context, SCHEMA)

    assert differences == []


def test_whoever_is_not_of_the_background_waits_for_one_of_its_transactions_at_most(tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path}/bus.db"
    first, second = (Database(address, background=True) for _ in range(2))
    urgent = Database(address)
    order: list[str] = []

    def write(name: str, database: Database) -> None:
        with database.write():
            order.append(name)

    threads = [threading.Thread(target=write, args=named) for named in (("second", second), ("urgent", urgent))]
    with first.write():
        order.append("first")
        threads[0].start()
        _until_somebody_waits_for(tmp_path / "bus.db-background")
        threads[1].start()
        _until_somebody_waits_for(tmp_path / "bus.db-writer")
    for thread in threads:
        thread.join()

    assert order == ["first", "urgent", "second"]


def _until_somebody_waits_for(lock: Path) -> None:
    """The kernel lists who waits for a lock, and tells nobody when somebody begins to."""
    give_up_at = time.monotonic() + 30
    number = f":{lock.stat().st_ino} "
    while not any("->" in line and number in line for line in Path("/proc/locks").read_text().splitlines()):
        assert time.monotonic() < give_up_at, lock
        time.sleep(0.01)


def test_a_checkpoint_moves_what_was_committed_into_the_file(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/bus.db")
    upgrade(database)
    with database.write() as connection:
        connection.execute(t.total.insert().values(measure="moved", route="", amount=1))

    database.checkpoint()

    alone = tmp_path / "alone.db"
    alone.write_bytes((tmp_path / "bus.db").read_bytes())  # without the log beside it
    with Database(f"sqlite:///{alone}").read() as connection:
        assert [row.measure for row in connection.execute(t.total.select())] == ["moved"]
