"""The relay on a real store, on a clock that the test turns: one works, the dead are buried, the living are not."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import timedelta

import pytest
from sqlalchemy import update

from bus.model.delivery import State
from bus.pipeline.resume import RELAY, UNATTENDED, Heart, Observer, Relay
from bus.store import tables as t
from bus.store.sqlstore import SqlStore
from bus.testing import RecordedTelemetry
from tests.conformance.books import states
from tests.conformance.stages import SEND, claim, end, keep_steps, retry

SECOND = timedelta(seconds=1)
LEASE = SECOND * 15


@dataclass
class Clock:
    now: timedelta = timedelta(0)

    def __call__(self) -> timedelta:
        return self.now


@dataclass
class Watch:
    """Some relays on one clock, and the hints they sent."""

    store: SqlStore
    clock: Clock = field(default_factory=Clock)
    hinted: list[str] = field(default_factory=list)
    at_the_broker: set[str] = field(default_factory=set)
    telemetry: RecordedTelemetry = field(default_factory=RecordedTelemetry)

    def relay(self, name: str) -> Relay:
        return Relay(
            store=self.store,
            wake=self.hinted.extend,
            without_hints=self.without_hints,
            queues=[SEND],
            telemetry=self.telemetry,
            name=name,
            clock=self.clock,
            observer=Observer(lease=LEASE),
        )

    def without_hints(self, queues: Collection[str]) -> set[str]:
        return set(queues) - self.at_the_broker

    def let_pass(self, span: timedelta, *relays: Relay, hearts: Collection[Heart] = ()) -> None:
        """Turn the clock second by second, with a round of each relay and a beat of each heart."""
        for _ in range(int(span / SECOND)):
            self.clock.now += SECOND
            for heart in hearts:
                self.store.beat(heart.name, heart.name)
            for relay in relays:
                relay.round()


@pytest.fixture
def watch(store: SqlStore) -> Watch:
    return Watch(store)


def _heart(watch: Watch, name: str) -> Heart:
    heart = Heart(store=watch.store, name=name, clock=watch.clock, lease=LEASE)
    heart.start()
    return heart


def _holder(store: SqlStore) -> str:
    return store.leases()[RELAY][0]


def test_of_two_relays_one_works(watch: Watch) -> None:
    first, second = watch.relay("relay:1"), watch.relay("relay:2")
    keep_steps(watch.store, "a")
    end(watch.store, claim(watch.store), retry())

    second_alone: list[str] = []
    first.round()
    hinted = list(watch.hinted)
    watch.hinted.clear()
    end(watch.store, claim(watch.store), retry())
    second.round()
    second_alone += watch.hinted

    assert _holder(watch.store) == "relay:1"
    assert (hinted, second_alone) == ([SEND], [])


def test_a_relay_that_falls_silent_is_followed_by_the_other(watch: Watch) -> None:
    first, second = watch.relay("relay:1"), watch.relay("relay:2")
    watch.let_pass(SECOND * 30, first, second)
    before = _holder(watch.store)

    watch.let_pass(LEASE - SECOND * 3, second)
    meanwhile = _holder(watch.store)
    watch.let_pass(SECOND * 9, second)

    assert (before, meanwhile, _holder(watch.store)) == ("relay:1", "relay:1", "relay:2")


def test_a_relay_that_was_followed_works_no_more(watch: Watch) -> None:
    first, second = watch.relay("relay:1"), watch.relay("relay:2")
    watch.let_pass(SECOND, first)
    watch.let_pass(LEASE + SECOND * 9, second)
    keep_steps(watch.store, "a")
    end(watch.store, claim(watch.store), retry())

    watch.let_pass(SECOND, first)

    assert watch.hinted == []
    assert _holder(watch.store) == "relay:2"


def test_a_worker_whose_heart_stopped_is_buried_and_one_that_beats_is_not(watch: Watch) -> None:
    relay = watch.relay("relay:1")
    alive, dead = _heart(watch, "worker:alive"), _heart(watch, "worker:dead")
    keep_steps(watch.store, "a", "b")
    claim(watch.store, worker=alive.name, limit=1)
    claim(watch.store, worker=dead.name, limit=1)

    watch.let_pass(LEASE - SECOND * 3, relay, hearts=[alive])
    early = states(watch.store)
    watch.let_pass(SECOND * 9, relay, hearts=[alive])

    assert early == [State.CLAIMED, State.CLAIMED]
    assert states(watch.store) == [State.CLAIMED, State.READY]
    assert [event["worker"] for event in watch.telemetry.named("worker buried")] == ["worker:dead"]
    assert set(watch.store.leases()) == {RELAY, "worker:alive"}


def test_a_relay_that_was_stopped_for_an_hour_buries_nobody_when_it_goes_on(watch: Watch) -> None:
    relay, heart = watch.relay("relay:1"), _heart(watch, "worker:alive")
    keep_steps(watch.store, "a")
    claim(watch.store, worker=heart.name)
    watch.let_pass(SECOND * 4, relay, hearts=[heart])

    watch.clock.now += SECOND * 3600
    watch.let_pass(SECOND * 4, relay)

    assert states(watch.store) == [State.CLAIMED]


def test_a_worker_that_left_without_its_lease_is_buried_at_the_next_beat(watch: Watch) -> None:
    relay, heart = watch.relay("relay:1"), _heart(watch, "worker:gone")
    keep_steps(watch.store, "a")
    claim(watch.store, worker=heart.name)

    heart.stop()
    watch.let_pass(SECOND * 4, relay)

    assert states(watch.store) == [State.READY]
    assert SEND in watch.hinted


def test_a_heart_knows_before_anybody_else_that_it_may_be_held_dead(watch: Watch) -> None:
    heart = _heart(watch, "worker:1")

    beating = []
    for _ in range(16):
        beating.append(heart.is_beating())
        watch.clock.now += SECOND

    assert beating == [True] * 8 + [False] * 8


def test_what_nobody_attends_is_hinted_unless_a_hint_waits_at_the_broker(watch: Watch) -> None:
    relay = watch.relay("relay:1")
    keep_steps(watch.store, "a")
    _age(watch.store)

    watch.at_the_broker = {SEND}
    watch.let_pass(SECOND * 2, relay)
    waiting = list(watch.hinted)
    watch.at_the_broker = set()
    watch.let_pass(SECOND * 2, relay)

    assert waiting == []
    assert set(watch.hinted) == {SEND}


def _age(store: SqlStore) -> None:
    """Whatever changed, changed long enough ago to be unattended."""
    with store.transaction() as transaction:
        transaction.execute(update(t.delivery).values(changed_at=transaction.now - UNATTENDED))
