"""Promise 6 of the bus: a dead endpoint costs the others nothing and is called by checks only."""

from __future__ import annotations

from datetime import timedelta

import pytest

from bus.errors import EndpointDown, OutcomeUnknown, PermanentFailure
from bus.model.delivery import State
from bus.ports import Answer, Finding, Parcel
from bus.store import tables as t
from bus.store.sqlstore import SqlStore
from bus.testing import DirectBus, ScriptedEndpoint
from tests.conformance.books import discrepancies, rows, states, steps
from tests.conformance.stages import PLAIN, a_bus, failing, now_due
from tests.small_project import AS_IT_IS, a_step

SECOND = timedelta(seconds=1)
DOWN = failing(EndpointDown, "endpoint.refused-connection")


class Uncheckable:
    """An adapter that can only be tried: it cannot ask whether its endpoint is up."""

    remembers_keys = True

    def __init__(self, target: ScriptedEndpoint) -> None:
        self.target = target

    def send(self, parcel: Parcel) -> Answer:
        return self.target.send(parcel)

    def close(self) -> None:
        self.target.close()


def _let_check(store: SqlStore) -> None:
    """The next check is due now."""
    store.put_off_check("target", check_in=-SECOND, cause="endpoint.refused-connection")


def _down(store: SqlStore, backlog: int, *, checkable: bool = True) -> tuple[ScriptedEndpoint, DirectBus]:
    target = ScriptedEndpoint(is_up=False)
    bus = a_bus(store, PLAIN, adapters={"target": target if checkable else Uncheckable(target)})
    bus.receive(*(a_step(f"{number % 7}", number) for number in range(backlog)))
    bus.run_until_idle()
    return target, bus


def test_promise_6_a_dead_endpoint_trips_and_its_deliveries_are_held(store: SqlStore) -> None:
    target, _ = _down(store, 20)

    row = store.endpoint("target")

    assert (row.state, row.cause) == ("tripped", "endpoint.refused-connection")
    assert set(states(store)) == {State.READY}
    assert len(target.calls) == 1
    assert list(discrepancies(store)) == []


def test_promise_6_no_attempt_is_spent_while_it_is_down(store: SqlStore) -> None:
    _, bus = _down(store, 3)

    for _ in range(20):
        _let_check(store)
        bus.run_until_idle()

    assert [(row.attempts, row.trips, row.deaths) for row in rows(store, t.delivery)] == [(0, 0, 0)] * 3


def test_promise_6_others_flow_while_one_is_down(store: SqlStore) -> None:
    archive = ScriptedEndpoint()
    target = ScriptedEndpoint(is_up=False)
    bus = a_bus(store, PLAIN, AS_IT_IS, adapters={"target": target, "archive": archive})

    bus.receive(*(a_step(str(number), 7) for number in range(5)))
    bus.run_until_idle()

    assert len(archive.received) == 5
    assert target.received == []


@pytest.mark.parametrize("checkable", [True, False])
@pytest.mark.parametrize("backlog", [1, 10, 200])
def test_promise_6_calls_while_down_do_not_grow_with_the_backlog(
    store: SqlStore, backlog: int, checkable: bool
) -> None:
    target, bus = _down(store, backlog, checkable=checkable)

    for _ in range(5):
        _let_check(store)
        bus.run_until_idle()
        bus.receive(a_step("more"))

    assert len(target.calls) + target.checks == 6
    assert store.endpoint("target").state == "tripped"


@pytest.mark.real_pauses
def test_promise_6_checks_back_off_to_a_limit(store: SqlStore) -> None:
    _, bus = _down(store, 1)
    pauses = []

    for _ in range(10):
        _let_check(store)
        bus.run_until_idle()
        with store.database.read() as connection:
            now = store.database.now(connection)
        pauses.append((rows(store, t.endpoint)[0].check_at - now) / SECOND)

    assert 0 < pauses[0] < 4
    assert pauses[4] > 4 * pauses[0]
    assert all(20 < pause < 40 for pause in pauses[6:])


@pytest.mark.parametrize("checkable", [True, False])
def test_promise_6_it_recovers_in_order(store: SqlStore, checkable: bool) -> None:
    target, bus = _down(store, 50, checkable=checkable)
    for _ in range(3):
        _let_check(store)
        bus.run_until_idle()

    target.is_up = True
    _let_check(store)
    bus.run_until_idle()

    assert store.endpoint("target").state == "open"
    assert set(states(store)) == {State.DELIVERED}
    for order in range(7):
        assert steps(target.received, str(order)) == list(range(order, 50, 7))


def test_promise_6_a_trial_that_is_refused_shows_that_the_endpoint_is_back(store: SqlStore) -> None:
    target, bus = _down(store, 3, checkable=False)
    target.is_up = True
    target.script["*"] = [failing(PermanentFailure)]

    _let_check(store)
    bus.run_until_idle()

    assert store.endpoint("target").state == "open"
    assert sorted(states(store)) == ["DEAD", "DELIVERED", "DELIVERED"]


class BrokenCheck(ScriptedEndpoint):
    """An adapter whose check has a bug."""

    def check(self) -> None:
        raise KeyError("token")


def test_promise_6_a_broken_check_keeps_it_closed_and_says_so(store: SqlStore) -> None:
    bus = a_bus(store, PLAIN, adapters={"target": BrokenCheck(is_up=False)})
    bus.receive(a_step("a", 1))
    bus.run_until_idle()

    _let_check(store)
    bus.run_until_idle()

    row = store.endpoint("target")
    assert (row.state, row.cause) == ("tripped", "adapter.raised")


@pytest.mark.parametrize("pace", [timedelta(0), SECOND * 10])
@pytest.mark.parametrize("place", [0, 3])
def test_promise_6_one_delivery_that_trips_what_others_pass_becomes_a_failure_of_its_own(
    store: SqlStore, place: int, pace: timedelta
) -> None:
    target = ScriptedEndpoint(script={"order:bad": [DOWN] * 100})
    bus = a_bus(store, PLAIN, adapters={"target": target})
    orders = [f"good-{number}" for number in range(6)]
    bus.receive(*(a_step(order, 1) for order in [*orders[:place], "bad", *orders[place:]]))

    for number in range(60):
        bus.receive(a_step(f"later-{number}", 1))
        bus.windows["target"].pace = pace
        bus.run_until_idle()
        _let_check(store)
        store.wake_due(limit=10)
        if State.DEAD in states(store):
            break
    bus.run_until_idle()

    (bad,) = (row for row in rows(store, t.delivery) if row.state == "DEAD")
    assert bad.cause == "endpoint.refused-connection"
    assert bad.trips == 3
    assert sorted({row.state for row in rows(store, t.delivery)}) == ["DEAD", "DELIVERED"]
    assert len(target.calls) < 150


def test_promise_6_while_nobody_passes_nobody_is_to_blame(store: SqlStore) -> None:
    target = ScriptedEndpoint(script={"*": [DOWN] * 30})
    bus = a_bus(store, PLAIN, adapters={"target": target})
    bus.receive(a_step("a", 1), a_step("b", 1))

    for _ in range(40):
        bus.run_until_idle()
        _let_check(store)

    assert set(states(store)) == {State.DELIVERED}
    assert {row.attempts for row in rows(store, t.delivery)} == {1}


class CountsProbes(ScriptedEndpoint):
    probes = 0

    def probe(self, parcel: Parcel) -> Finding:
        self.probes += 1
        return super().probe(parcel)


def test_promise_6_a_closed_endpoint_is_not_probed_either(store: SqlStore) -> None:
    target = CountsProbes(remembers_keys=False, script={"order:a": [failing(OutcomeUnknown)], "order:b": [DOWN]})
    bus = a_bus(store, PLAIN, adapters={"target": target})
    bus.receive(a_step("a", 1), a_step("b", 1))
    bus.run_until_idle()
    now_due(store)

    bus.run_until_idle()
    while_closed = target.probes
    _let_check(store)
    bus.run_until_idle()

    assert (while_closed, target.probes) == (0, 1)
