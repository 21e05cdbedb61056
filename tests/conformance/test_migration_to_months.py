"""Stores of the release before are brought to months with everything in them, on both databases."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bus.errors import OutcomeUnknown, PermanentFailure
from bus.store import tables as t
from bus.store.months import months
from bus.store.schema import upgrade
from bus.store.sqlstore import SqlStore
from bus.testing import ScriptedEndpoint
from tests.conformance.books import discrepancies, rows, states, steps, totals
from tests.conformance.months import closed_in, turn
from tests.conformance.older import as_of
from tests.conformance.stages import a_bus
from tests.small_project import a_native_step, a_step


@pytest.fixture
def target() -> ScriptedEndpoint:
    return ScriptedEndpoint(
        remembers_keys=False,
        script={
            "order:8": [PermanentFailure("target.422", "no")],
            "order:9": [OutcomeUnknown("outcome.timeout", "no answer")],
        },
    )


@pytest.fixture
def old(store: SqlStore, target: ScriptedEndpoint, other_address: str) -> Iterator[SqlStore]:
    """A store of revision 0002 after a day with everything in it, and some of it still to be done."""
    bus = a_bus(store, adapters={"target": target})
    bus.receive(a_native_step("1", 1, document={"parts": 2}), a_step("6", 404), a_step("9", 1))
    bus.receive(a_step("8", 1), a_step("8", 2), a_step("6", 404), a_native_step("broken", 1))
    bus.run_until_idle()
    bus.receive(a_step("8", 3), a_native_step("2", 1))
    old = as_of("0002", store, other_address)
    yield old
    old.close()


def test_a_store_with_everything_in_it_is_upgraded_and_goes_on(
    old: SqlStore, store: SqlStore, target: ScriptedEndpoint
) -> None:
    upgrade(old.database)

    kept = [(states(one), totals(one)) for one in (old, store)]
    sound = list(discrepancies(old))
    (month,) = months(old.database)
    bus = a_bus(old, adapters={"target": target})
    bus.receive(a_step("5", 1), a_step("6", 404))
    bus.run_until_idle()

    assert sound == []
    assert kept[0] == kept[1]
    assert (month.state, month.began_at) == ("open", min(row.accepted_at for row in rows(old, t.message)))
    assert [row.id for row in rows(old, t.message)] == list(range(1, 13))
    assert {row.period for row in rows(old, t.message)} == {1}
    assert steps(target.received, "5") == [1]
    assert list(discrepancies(old)) == []


@pytest.mark.parametrize("store", [pytest.param("postgresql", marks=pytest.mark.postgresql)], indirect=True)
def test_the_first_turn_after_the_upgrade_closes_all_that_was_there(old: SqlStore, target: ScriptedEndpoint) -> None:
    upgrade(old.database)
    bus = a_bus(old, adapters={"target": target})

    turned = turn(old)
    bus.run_until_idle()

    assert turned.moved_along == 6
    assert closed_in(old, "message") == {"message_1": 4, "open": 7}
    assert list(discrepancies(old)) == []
