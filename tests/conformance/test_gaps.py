"""Numbers that are missing in what a system said: told by stream, until somebody says them again."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from bus.model.message import Message
from bus.store.gaps import GapLine, list_gaps
from bus.store.sqlstore import SqlStore
from bus.store.views import Page
from bus.testing import envelope_of
from tests.conformance.stages import a_bus
from tests.small_project import CONTRACTS, a_native_step, a_step


def say(store: SqlStore, order: str, *numbers: int, **more: object) -> None:
    """Receive these of one order, each by itself; a message's id is made of order and number."""
    bus = a_bus(store)
    for number in numbers:
        bus.receive(a_step(order, number, sequence=number, **more))


def page_of(
    store: SqlStore, *, limit: int = 50, since: datetime | None = None, system: str = "", subject: str = ""
) -> Page[GapLine]:
    return list_gaps(store.database, contracts=CONTRACTS, limit=limit, since=since, system=system, subject=subject)


def missing(
    store: SqlStore, *, since: datetime | None = None, system: str = "", subject: str = ""
) -> list[tuple[str, int, int]]:
    """(subject, from, to) of every gap."""
    page = page_of(store, since=since, system=system, subject=subject)
    return [(gap.subject, gap.first, gap.last) for gap in page.items]


def test_what_is_missing_between_two_numbers_and_at_the_beginning_is_told(store: SqlStore) -> None:
    say(store, "1", 1, 2, 3)
    say(store, "2", 1, 2, 6, 7, 9)
    say(store, "3", 4)

    assert missing(store) == [("order:2", 3, 5), ("order:2", 8, 8), ("order:3", 1, 3)]


def test_a_gap_names_the_messages_around_it(store: SqlStore) -> None:
    say(store, "1", 1, 5)
    say(store, "2", 3)

    between, beginning = page_of(store).items

    assert (between.system, between.site, between.missing) == ("mes-1", "P1", 3)
    assert (between.before, between.after) == (1, 2)
    assert between.before_at is not None
    assert between.before_at <= between.after_at
    assert (beginning.before, beginning.before_at, beginning.after) == (None, None, 3)


def test_a_gap_closes_when_its_numbers_are_said_again(store: SqlStore) -> None:
    say(store, "1", 1, 2, 6)
    say(store, "1", 4)
    assert missing(store) == [("order:1", 3, 3), ("order:1", 5, 5)]

    say(store, "1", 3, 5)

    assert missing(store) == []


def test_saying_again_what_is_known_changes_no_gap(store: SqlStore) -> None:
    say(store, "1", 1, 2, 6)

    say(store, "1", 1, 2, 6)

    assert missing(store) == [("order:1", 3, 5)]


def test_systems_that_number_nothing_miss_nothing(store: SqlStore) -> None:
    a_bus(store).receive(a_step("1", 1), a_step("1", 5))

    assert missing(store) == []


def test_a_counter_may_begin_at_0(store: SqlStore) -> None:
    say(store, "1", 0, 1, 2)
    say(store, "2", 0, 2)

    assert missing(store) == [("order:2", 1, 1)]


def test_each_site_of_a_system_counts_by_itself(store: SqlStore) -> None:
    bus = a_bus(store)
    other = replace(bus.catalogue.systems["mes-1"], sites=("P1", "P2"))
    elsewhere = replace(bus.catalogue.sites["P1"], name="P2")
    bus.catalogue = replace(
        bus.catalogue,
        systems={**bus.catalogue.systems, "mes-1": other},
        sites={**bus.catalogue.sites, "P2": elsewhere},
    )

    bus.receive(a_step("1", 1, sequence=1), a_step("1", 2, sequence=2, site="P2"))

    assert [(gap.site, gap.first, gap.last) for gap in page_of(store).items] == [("P2", 1, 1)]


def test_one_counter_counts_every_type_and_nothing_that_the_bus_made_itself(store: SqlStore) -> None:
    bus = a_bus(store)
    bus.receive(a_step("1", 1, sequence=1), a_native_step("1", 2, sequence=2, document={"parts": 3}))
    bus.receive(a_step("1", 9, sequence=4))
    bus.run_until_idle()

    assert missing(store) == [("order:1", 3, 3)]


def refused(message: Message) -> Message:
    return replace(message, type="native.step.v9")


def invalid(message: Message) -> Message:
    return replace(message, body=b"{")


def in_conflict(message: Message) -> Message:
    return replace(message, id="1-1")


def said_again_under_another_number(message: Message) -> Message:
    first = a_step("1", 1)
    return replace(first, sequence=message.sequence)


@pytest.mark.parametrize("kind", [refused, invalid, in_conflict, said_again_under_another_number])
@pytest.mark.parametrize("subject", ["order:1", "order:0001"])
def test_a_number_that_became_a_receipt_is_not_missing(store: SqlStore, kind: object, subject: str) -> None:
    assert callable(kind)
    say(store, "1", 1)
    a_bus(store).receive(kind(a_step("1", 3, sequence=3, subject=subject)))
    say(store, "1", 5)

    known = {gap[1:] for gap in missing(store)}

    # A type nobody knows says nothing about how its subjects are written.
    assert known == ({(2, 4)} if kind is refused and subject == "order:0001" else {(2, 2), (4, 4)})


def test_a_receipt_counts_however_its_sender_stated_the_number(store: SqlStore) -> None:
    say(store, "1", 1)
    plain = envelope_of(replace(a_step("1", 2), body=b"{"))
    attributes = {"specversion": "1.0", "id": "1-2", "source": "/plant/P1/mes-1", "type": "test.step.v1"}
    event = {f"cloudEvents:{name}": value for name, value in attributes.items()}
    event |= {"cloudEvents:subject": "order:1", "cloudEvents:sequence": "2"}
    mistimed = envelope_of(a_step("1", 3, sequence=3, subject=""))
    bus = a_bus(store)

    bus.receive(
        replace(plain, headers=event), replace(mistimed, headers={"sequence": "3", "time": "yesterday", "site": "P1"})
    )
    say(store, "1", 4)

    assert missing(store) == []


def test_gaps_are_narrowed_by_system_subject_and_when_they_came_to_light(store: SqlStore) -> None:
    say(store, "1", 2)
    say(store, "2", 1, 3)
    now = max(gap.after_at for gap in page_of(store).items) + timedelta(microseconds=1)
    assert missing(store, since=now) == []
    say(store, "2", 6)

    assert missing(store, since=now) == [("order:2", 4, 5)]
    assert missing(store, subject="order:2") == [("order:2", 2, 2), ("order:2", 4, 5)]
    assert missing(store, system="mes-1", subject="order:1") == [("order:1", 1, 1)]
    assert missing(store, system="nobody") == []
    assert missing(store, since=datetime(1970, 1, 1, tzinfo=UTC)) == missing(store)


def test_a_page_says_how_many_gaps_it_left_out(store: SqlStore) -> None:
    say(store, "1", 1, 3, 5, 7, 9)

    page = page_of(store, limit=2)

    assert [(gap.first, gap.last) for gap in page.items] == [(2, 2), (4, 4)]
    assert (page.more, page.more_is_exact) == (2, True)


def test_the_largest_number_a_message_may_bear_is_reckoned_with(store: SqlStore) -> None:
    say(store, "1", 1, 10**18 - 1)

    (gap,) = page_of(store).items

    assert (gap.first, gap.last, gap.missing) == (2, 10**18 - 2, 10**18 - 3)
