"""The checker is checked first: nothing in a healthy run offends it, and it catches each seeded fault."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from bus.store.engine import Database
from tests.faults.checker import Book, Finding, books_of, check
from tests.faults.stage import Stage
from tests.faults.workload import POISON, Publishing, Truth, workload
from tests.system.booking_target import Entry


@dataclass(frozen=True)
class HealthyRun:
    """What a run without any fault left: its truth, its store, its targets' books."""

    truth: Truth
    store: Path
    books: Mapping[str, Book]

    def changed(self, folder: Path, *statements: str) -> Database:
        """A copy of the store in which somebody changed something."""
        path = folder / "changed.db"
        with contextlib.closing(sqlite3.connect(self.store)) as source, contextlib.closing(sqlite3.connect(path)) as to:
            source.backup(to)
            for (name,) in to.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
                to.execute(f"DROP TRIGGER {name}")  # they keep the journal append-only
            for statement in statements:
                assert to.execute(statement).rowcount > 0, statement
            to.commit()
        return Database(f"sqlite:///{path}")

    def entry(self, target: str, which: Callable[[Entry], bool] = lambda _: True) -> Entry:
        return next(each for each in self.books[target].entries if which(each))


@pytest.fixture(scope="module")
def run(sqlite_stage: Stage, tmp_path_factory: pytest.TempPathFactory) -> HealthyRun:
    sqlite_stage.complete()
    bus = sqlite_stage.bus
    load = workload(bus, seed=4, name=sqlite_stage.new_name(), orders=12)
    Publishing(load, bus.broker_url).finish(within=60)
    sqlite_stage.comes_to_rest(load.truth)
    path = tmp_path_factory.mktemp("healthy") / "bus.db"
    with (
        contextlib.closing(sqlite3.connect(bus.database.path)) as source,
        contextlib.closing(sqlite3.connect(path)) as to,
    ):
        source.backup(to)
    books = books_of(keeper=bus.keeper, ledger=bus.ledger, archive=bus.archive)
    return HealthyRun(load.truth, path, {name: only(load.truth, book) for name, book in books.items()})


def only(truth: Truth, book: Book) -> Book:
    """What it says of the orders of this truth: others were before."""
    mine = f"{truth.name}-"
    entries = [each for each in book.entries if each.order.startswith(mine)]
    return replace(book, entries=entries, posts=[each for each in book.posts if each.order.startswith(mine)])


@pytest.fixture
def found(run: HealthyRun, tmp_path: Path) -> Iterator[Callable[..., list[Finding]]]:
    """What the checker finds after these changes."""
    with contextlib.ExitStack() as opened:

        def find(*statements: str, exact: bool = True, **books: Book) -> list[Finding]:
            database = run.changed(tmp_path, *statements)
            opened.callback(database.close)
            return check(run.truth, database, {**run.books, **books}, exact=exact)

        yield find


Found = Callable[..., list[Finding]]


def kinds(findings: list[Finding]) -> set[str]:
    return {each.invariant for each in findings}


def test_the_workload_has_a_share_of_everything(run: HealthyRun) -> None:
    expected = run.truth.expected.values()

    assert {each.is_native for each in expected} == {True, False}
    assert any(not each.is_valid for each in expected)
    assert any(POISON in each.steps for each in expected)
    assert any(len(each.steps) > 1 for each in expected)
    assert max(run.truth.confirmed.values()) > 1
    assert run.truth.conflicts
    assert {target for each in expected for target in each.targets} == {"keeper", "ledger", "archive"}
    assert min(len(run.books[name].entries) for name in run.books) > 0


def test_a_healthy_run_offends_nothing(found: Found) -> None:
    assert found() == []


def test_a_dropped_message_is_lost(run: HealthyRun, found: Found) -> None:
    dropped = next(
        name
        for name, each in run.truth.expected.items()
        if each.targets == ("keeper",) and not each.is_native and run.truth.confirmed[name] == 1
    )
    row = f"(SELECT id FROM message WHERE message_id = '{dropped}')"
    delivery = f"(SELECT id FROM delivery WHERE message = {row})"

    findings = found(
        f"DELETE FROM output WHERE delivery IN {delivery}",
        f"DELETE FROM attempt WHERE delivery IN {delivery}",
        f"DELETE FROM journal WHERE delivery IN {delivery}",
        f"DELETE FROM delivery WHERE id IN {delivery}",
        f"DELETE FROM message_key WHERE message_id = '{dropped}'",
        f"DELETE FROM message WHERE message_id = '{dropped}'",
        exact=False,
    )

    assert any(each.verdict == "lost" and dropped in each.text for each in findings)


def test_a_delivery_that_never_reached_its_target_is_lost(run: HealthyRun, found: Found) -> None:
    book = run.books["ledger"]

    findings = found(ledger=replace(book, entries=book.entries[1:]))

    assert [each.verdict for each in findings] == ["lost"]


def test_a_receipt_too_few_is_lost_and_one_too_many_is_found_where_nothing_could_come_twice(
    run: HealthyRun, found: Found
) -> None:
    invalid = next(row for row in run.truth.expected if row.startswith("invalid"))

    assert kinds(found(f"DELETE FROM receipt WHERE message_id = '{invalid}'", exact=False)) == {"I1"}
    assert any(
        invalid in each.text
        for each in found(
            "INSERT INTO receipt (at, kind, cause, detail, routing_key, properties, body, message_id, system, type) "
            f"SELECT at, kind, cause, detail, routing_key, properties, body, message_id, system, type FROM receipt "
            f"WHERE message_id = '{invalid}' LIMIT 1"
        )
    )


def test_a_swapped_pair_is_out_of_order(run: HealthyRun, found: Found) -> None:
    book = run.books["keeper"]
    second = run.entry("keeper", lambda each: each.step == 1)
    first = run.entry("keeper", lambda each: each.order == second.order and each.step == 0)
    swapped = [{first: second, second: first}.get(each, each) for each in book.entries]

    findings = found(keeper=replace(book, entries=swapped))

    assert [each.verdict for each in findings] == ["out of order"]


@pytest.mark.parametrize("target", ["keeper", "ledger", "archive"])
def test_a_double_effect_is_found_under_the_same_key_and_under_another(
    run: HealthyRun, found: Found, target: str
) -> None:
    book = run.books[target]
    last = book.entries[-1]
    for again in (replace(last, number="D9999"), replace(last, key="another", number="D9999")):
        assert "I2" in kinds(found(**{target: replace(book, entries=[*book.entries, again])}))


def test_a_silent_repeat_at_a_target_that_forgets_keys_is_found(run: HealthyRun, found: Found) -> None:
    ledger, keeper = run.books["ledger"], run.books["keeper"]

    assert kinds(found(ledger=replace(ledger, posts=[*ledger.posts, *ledger.posts[-1:]]))) == {"I2"}
    assert found(keeper=replace(keeper, posts=[*keeper.posts, *keeper.posts[-1:]])) == []  # it absorbs that


@pytest.mark.parametrize("state", ["READY", "CLAIMED", "SENDING", "RETRYING", "WAITING", "IN_DOUBT"])
def test_a_delivery_that_still_moves_is_found(run: HealthyRun, found: Found, state: str) -> None:
    key = run.entry("keeper").key

    assert "I1" in kinds(found(f"UPDATE delivery SET state = '{state}' WHERE key = '{key}'"))


@pytest.mark.parametrize("table", ["journal", "attempt"])
def test_a_lost_row_leaves_a_state_unexplained(run: HealthyRun, found: Found, table: str) -> None:
    row = f"(SELECT id FROM delivery WHERE key = '{run.entry('ledger').key}')"

    findings = found(f"DELETE FROM {table} WHERE delivery = {row}")

    assert [each.invariant for each in findings] == ["I5"]


def test_another_cause_of_death_than_the_journals_is_unexplained(found: Found) -> None:
    findings = found("UPDATE delivery SET cause = 'target.refused' WHERE state = 'DEAD'")

    assert kinds(findings) == {"I5"}
