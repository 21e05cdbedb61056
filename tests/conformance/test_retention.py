"""Months are retired: dropped for good, accounted for, and held by what is not ended."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import text, update

from bus.control.orders import discard_deliveries, replay_deliveries
from bus.errors import BusError, NotAllowed, NotFound, PermanentFailure, StoreConflict
from bus.store import retention
from bus.store import tables as t
from bus.store.engine import Database
from bus.store.failures import delivery_detail
from bus.store.follow import message_detail, trace
from bus.store.gaps import list_gaps
from bus.store.months import months
from bus.store.overview import overview
from bus.store.receipts import receipt_detail
from bus.store.retention import candidates, retire
from bus.store.revival import hold_month
from bus.store.sqlstore import SqlStore
from bus.store.verify import verify
from bus.testing import DirectBus, ScriptedEndpoint
from tests.conformance.books import totals
from tests.conformance.months import LATER, PERSON, fresh_store, in_the_open_month, turn
from tests.conformance.stages import a_bus
from tests.services import PostgreSQL
from tests.small_project import CONTRACTS, a_native_step, a_step

pytestmark = pytest.mark.postgresql


@pytest.fixture
def store(postgresql: PostgreSQL) -> Iterator[SqlStore]:
    with fresh_store(postgresql) as fresh:
        yield fresh


@pytest.fixture
def bus(store: SqlStore) -> DirectBus:
    """After two months: the first with a split, a re-entry, an unrouted message and a duplicate; some of the second."""
    bus = a_bus(store, adapters={"target": ScriptedEndpoint()})
    bus.receive(a_native_step("1", 1, document={"parts": 2}), a_step("6", 404), a_step("5", 1, document={"parts": 3}))
    bus.receive(a_step("6", 404))
    bus.run_until_idle()
    turn(store)
    bus.receive(a_step("1", 7))
    bus.run_until_idle()
    return bus


def test_a_retired_month_is_gone_and_the_totals_are_proved_without_it(store: SqlStore, bus: DirectBus) -> None:
    before = totals(store)

    retire(store.database, 1, actor=PERSON)

    assert list(verify(store.database)) == []
    assert totals(store) == before
    assert all(equation.balances for equation in overview(store.database).equations)
    with store.database.history() as connection:
        assert connection.execute(text("SELECT count(DISTINCT subject) FROM message")).scalar_one() == 1
        assert connection.execute(text("SELECT count(*) FROM pg_class WHERE relname ~ '_1$'")).scalar_one() == 0


def test_what_was_dropped_is_noted_with_who_when_and_why(store: SqlStore, bus: DirectBus) -> None:
    retire(store.database, 1, actor=PERSON)

    first, _ = months(store.database)
    (row,) = [row for row in in_the_open_month(store, t.journal) if row.act == "retire"]

    assert (first.state, first.actor, first.reason) == ("retired", "person:archivist", "kept for a year")
    assert first.retired_at is not None
    assert (first.messages, first.deliveries, first.bytes) == (8, 7, 0)
    assert (row.actor, row.reason, row.old) == ("person:archivist", "kept for a year", first.name)
    assert '"attempt": 5' in row.detail


def test_whoever_asks_for_something_dropped_is_told_who_retired_its_month(store: SqlStore, bus: DirectBus) -> None:
    retire(store.database, 1, actor=PERSON)

    for ask in (
        lambda: message_detail(store.database, 1),
        lambda: trace(store.database, 1),
        lambda: delivery_detail(store.database, 2),
        lambda: receipt_detail(store.database, 1),
        lambda: replay_deliveries([2], store=store, catalogue=bus.catalogue, actor=PERSON, repeat=True),
    ):
        with pytest.raises(NotFound, match=r"was retired by person:archivist on .* \(kept for a year\)"):
            ask()
    with pytest.raises(NotFound, match="no message has the number 4711"):
        message_detail(store.database, 4711)


def test_a_duplicate_of_a_dropped_message_is_known_as_one(store: SqlStore, bus: DirectBus) -> None:
    retire(store.database, 1, actor=PERSON)

    bus.receive(a_step("5", 1, document={"parts": 3}), a_step("6", 404, document={"other": 1}))

    assert sorted(row.kind for row in in_the_open_month(store, t.receipt)) == ["conflict", "duplicate"]
    assert list(verify(store.database)) == []


def test_a_month_is_held_by_what_was_accepted_in_it_and_is_not_ended(store: SqlStore) -> None:
    target = ScriptedEndpoint(script={"order:8": [PermanentFailure("target.422", "no")]})
    bus = a_bus(store, adapters={"target": target})
    bus.receive(a_step("8", 1), a_step("8", 2), a_step("9", 1))
    bus.run_until_idle()
    turn(store)

    (held,) = candidates(store.database, before=LATER)
    with pytest.raises(NotAllowed, match="is held by what is not ended: delivery 1, 2"):
        retire(store.database, 1, actor=PERSON)
    discard_deliveries([1], store=store, actor=PERSON)
    bus.run_until_idle()
    (free,) = candidates(store.database, before=LATER)
    retire(store.database, 1, actor=PERSON)

    assert (held.held_by, held.month.not_ended) == ([1, 2], 2)
    assert free.held_by == []
    assert message_detail(store.database, 1).line.deliveries == {"DISCARDED": 1}
    assert list(verify(store.database)) == []


def test_a_month_in_whose_own_tables_something_is_not_ended_is_kept(store: SqlStore, bus: DirectBus) -> None:
    with store.database.write() as connection:
        connection.execute(text("UPDATE history.delivery_1 SET state = 'DEAD' WHERE id = 2"))

    with pytest.raises(NotAllowed, match="holds what is not ended"):
        retire(store.database, 1, actor=PERSON)

    assert [month.state for month in months(store.database)] == ["closed", "open"]


def test_only_a_closed_month_is_retired_and_only_once(store: SqlStore, bus: DirectBus) -> None:
    with pytest.raises(NotAllowed, match="is open"):
        retire(store.database, 2, actor=PERSON)
    with pytest.raises(NotFound, match="no period 9"):
        retire(store.database, 9, actor=PERSON)

    retire(store.database, 1, actor=PERSON)

    with pytest.raises(NotAllowed, match=r"was retired on .* by person:archivist: kept for a year"):
        retire(store.database, 1, actor=PERSON)
    assert candidates(store.database, before=LATER) == []


def test_a_month_is_a_candidate_when_all_of_it_lies_before(store: SqlStore, bus: DirectBus) -> None:
    p = t.period.c
    with store.database.write() as connection:
        on_time = {
            "began_at": datetime(2026, 1, 1, 0, 0, 40, tzinfo=UTC),
            "closed_at": datetime(2026, 2, 1, 0, 1, tzinfo=UTC),
        }
        connection.execute(update(t.period).where(p.number == 1).values(on_time))

    found = {before: candidates(store.database, before=before) for before in ("2026-01", "2026-02", "2026-03")}

    assert {before: [one.month.name for one in of_it] for before, of_it in found.items()} == {
        "2026-01": [],
        "2026-02": ["2026-01"],
        "2026-03": ["2026-01"],
    }


def test_whoever_reads_history_sees_all_of_a_month_or_nothing_of_it(
    store: SqlStore, bus: DirectBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "TRIES", 2)
    with store.database.history() as connection:
        before = connection.execute(text("SELECT count(*) FROM message")).scalar_one()
        with pytest.raises(StoreConflict, match="is being read all the time"):
            retire(store.database, 1, actor=PERSON)
        assert connection.execute(text("SELECT count(*) FROM message")).scalar_one() == before

    retire(store.database, 1, actor=PERSON)

    assert [month.state for month in months(store.database)] == ["retired", "open"]


def test_a_month_is_dropped_while_the_bus_works_and_nobody_s_work_fails(store: SqlStore, bus: DirectBus) -> None:
    dropped = threading.Event()
    failures: list[str] = []
    received: list[int] = []

    def work() -> None:
        try:
            while not dropped.is_set() or len(received) < 10:
                bus.receive(a_native_step("3", 10 + len(received)))
                bus.run_until_idle()
                received.append(1)
        except BusError as error:
            failures.append(repr(error))

    working = threading.Thread(target=work)
    working.start()
    retire(store.database, 1, actor=PERSON)
    dropped.set()
    working.join()

    assert failures == []
    assert list(verify(store.database)) == []


def test_nothing_is_brought_back_from_a_month_that_is_being_dropped(store: SqlStore, bus: DirectBus) -> None:
    with store.database.write() as connection:
        connection.execute(hold_month(1))

        with pytest.raises(StoreConflict), store.transaction() as transaction:
            transaction.next_replay(2)


def test_what_was_brought_back_outlives_its_month(store: SqlStore, bus: DirectBus) -> None:
    with store.database.read() as connection:
        of_order_1 = "SELECT max(d.id) FROM history.delivery_1 d JOIN history.message_1 m ON m.id = d.message"
        sent = connection.execute(text(f"{of_order_1} WHERE m.subject = 'order:1'")).scalar_one()
    replay_deliveries([sent], store=store, catalogue=bus.catalogue, actor=PERSON, repeat=True)
    bus.run_until_idle()

    retire(store.database, 1, actor=PERSON)

    assert delivery_detail(store.database, sent).line.state == "DELIVERED"
    assert list(verify(store.database)) == []


def test_sqlite_retires_nothing_and_says_why(tmp_path: Path, sqlite_with_tables: Path) -> None:
    shutil.copy(sqlite_with_tables, tmp_path / "bus.db")
    database = Database(f"sqlite:///{tmp_path}/bus.db")

    with pytest.raises(NotAllowed, match="Take PostgreSQL"):
        candidates(database, before=LATER)
    with pytest.raises(NotAllowed, match="Take PostgreSQL"):
        retire(database, 1, actor=PERSON)
    database.close()


def test_numbers_of_a_closed_month_are_not_missing_and_none_is_told_that_may_have_been_retired(store: SqlStore) -> None:
    bus = a_bus(store, adapters={"target": ScriptedEndpoint()})

    def missing() -> list[tuple[str, int, int]]:
        page = list_gaps(store.database, contracts=CONTRACTS, limit=50)
        return [(gap.subject, gap.first, gap.last) for gap in page.items]

    bus.receive(*(a_step("1", number, sequence=number) for number in (1, 2, 4)))
    bus.run_until_idle()
    turn(store)
    bus.receive(*(a_step("1", number, sequence=number) for number in (5, 8)), a_step("2", 3, sequence=3))
    bus.run_until_idle()
    assert missing() == [("order:1", 3, 3), ("order:1", 6, 7), ("order:2", 1, 2)]

    retire(store.database, 1, actor=PERSON)

    assert missing() == [("order:1", 6, 7)]
