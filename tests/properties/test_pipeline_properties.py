"""Any messages, failures, deaths and deeds, in any order: promises 2 to 5 hold, and no lane sticks."""

from __future__ import annotations

import atexit
import itertools
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from pathlib import Path

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from bus.errors import DeliveryFailure, EndpointDown, OutcomeUnknown, PermanentFailure, TransientFailure
from bus.model.delivery import Event, State, succeed
from bus.model.message import Message
from bus.model.predicate import on
from bus.model.route import Route
from bus.pipeline.replay import replay
from bus.pipeline.send import parcel_of
from bus.ports import Claimed
from bus.store import tables as t
from bus.store.engine import Database
from bus.store.schema import upgrade
from bus.store.sqlstore import SqlStore
from bus.testing import DirectBus, ScriptedEndpoint
from tests.conformance.books import discrepancies, rows, steps, unbalanced
from tests.conformance.stages import TEST, a_bus, end, now_due
from tests.small_project import SOON, TO_BUS, TO_TARGET, a_native_step, a_step

SECOND = timedelta(seconds=1)
OPEN = {State.READY, State.CLAIMED, State.SENDING, State.RETRYING}
ORDERS = st.sampled_from(["1", "2", "3"])
ENDPOINTS = st.sampled_from(["target", "archive"])
TO_ARCHIVE = Route(name="steps-to-archive", when=on("test.step.v1"), to="archive", retry=SOON)
FAILURES: list[Callable[[], DeliveryFailure]] = [
    lambda: TransientFailure("target.busy"),
    lambda: PermanentFailure("target.refused"),
    lambda: EndpointDown("endpoint.refused-connection"),
    lambda: OutcomeUnknown("outcome.timeout"),
    lambda: OutcomeUnknown("book-then-lose"),
]


@cache
def _empty_store() -> Path:
    """A file with the tables in it, made once; each example works on a copy."""
    folder = Path(tempfile.mkdtemp(prefix="plantbus-properties-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = folder / "empty.db"
    database = Database(f"sqlite:///{path}")
    upgrade(database)
    with database.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()
    return path


@dataclass
class Held:
    """What a worker holds that will not come back: claimed, perhaps called."""

    worker: str
    claimed: list[Claimed]
    booked: list[Claimed] = field(default_factory=list)


class Pipeline(RuleBasedStateMachine):
    """One site, one native and one canonical type; a target that remembers keys and an archive that does not."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="plantbus-properties-"))
        shutil.copy(_empty_store(), self.folder / "bus.db")
        self.store = SqlStore(Database(f"sqlite:///{self.folder}/bus.db"))
        self.endpoints = {"target": ScriptedEndpoint(), "archive": ScriptedEndpoint(remembers_keys=False)}
        self.workers = [self._worker("worker:1"), self._worker("worker:2")]
        self.held: list[Held] = []
        self.buried: list[Held] = []
        self.published: list[Message] = []
        self.said_absent: Counter[str] = Counter()
        self.numbers = itertools.count(1)
        self.tokens = itertools.count(1)

    def _worker(self, name: str) -> DirectBus:
        return a_bus(self.store, TO_BUS, TO_TARGET, TO_ARCHIVE, adapters=self.endpoints, worker=name)

    # -- what systems publish

    @rule(batch=st.lists(st.tuples(ORDERS, st.booleans(), st.integers(1, 3)), min_size=1, max_size=4))
    def publish(self, batch: list[tuple[str, bool, int]]) -> None:
        messages = []
        for order, is_native, parts in batch:
            step = next(self.numbers) * 10  # room for parts: within an order, steps rise as they are accepted
            make = a_native_step if is_native else a_step
            messages.append(make(order, step, document={"parts": parts}))
        self.published += messages
        self.workers[0].receive(*messages)

    @rule(data=st.data(), is_another_fact=st.booleans())
    def publish_again(self, data: st.DataObject, is_another_fact: bool) -> None:
        if self.published:
            known = data.draw(st.sampled_from(self.published))
            again = a_step("1", 9, id=known.id, type=known.type) if is_another_fact else known
            self.workers[0].receive(again)

    # -- what workers do

    @rule(worker=st.integers(0, 1), queues=st.permutations(range(4)))
    def work(self, worker: int, queues: list[int]) -> None:
        bus = self.workers[worker]
        for queue in queues:
            bus.work(bus.catalogue.queues[queue])

    @rule(queue=st.integers(0, 3), limit=st.integers(1, 5), calls=st.integers(0, 2))
    def claim_and_fall_silent(self, queue: int, limit: int, calls: int) -> None:
        """A worker claims, perhaps begins calls and gets some through, and is not heard of again for now."""
        name, queues = f"worker:silent-{next(self.tokens)}", self.workers[0].catalogue.queues
        claimed = self.store.claim(queues[queue], worker=name, token=name, limit=limit).claimed
        held = Held(name, claimed)
        endpoint = self.endpoints.get(queues[queue].removeprefix("send."))
        for c in claimed[:calls] if endpoint else ():
            assert endpoint is not None
            if not endpoint.remembers_keys:
                assert self.store.mark_sending(c.id, c.token)
            endpoint._book(parcel_of(c))
            held.booked.append(c)
        if claimed:
            self.held.append(held)

    @rule()
    def bury(self) -> None:
        for held in self.held:
            self.store.bury_worker(held.worker, actor=TEST)
        self.buried += self.held
        self.held = []

    @rule()
    def hear_late_from_the_buried(self) -> None:
        for held in self.buried:
            end(self.store, held.booked, succeed("late"))
        self.buried = []

    @rule()
    def let_time_pass(self) -> None:
        now_due(self.store)
        self.store.wake_due(limit=3)
        for name in self.endpoints:
            self.store.put_off_check(name, check_in=-SECOND, cause="endpoint.dns")
        self.store.fold_totals()

    # -- what goes wrong

    @rule(endpoint=ENDPOINTS, order=ORDERS, kind=st.sampled_from(FAILURES), times=st.integers(1, 4))
    def fail_next(self, endpoint: str, order: str, kind: Callable[[], DeliveryFailure], times: int) -> None:
        script = self.endpoints[endpoint].script
        script.setdefault(f"order:{order}", []).extend(kind() for _ in range(times))

    @rule(endpoint=ENDPOINTS, is_up=st.booleans())
    def go_down_or_up(self, endpoint: str, is_up: bool) -> None:
        self.endpoints[endpoint].is_up = is_up

    # -- what people do

    @rule(data=st.data(), discards=st.booleans())
    def decide_about_a_dead_one(self, data: st.DataObject, discards: bool) -> None:
        if not (dead := self._in(State.DEAD)):
            return
        number = data.draw(st.sampled_from(dead))
        if discards:
            self.store.move([number], Event.DISCARD, expected=State.DEAD, actor=TEST)
        else:
            replay([number], store=self.store, catalogue=self.workers[0].catalogue, actor=TEST)

    @rule(data=st.data())
    def repeat_a_finished_one(self, data: st.DataObject) -> None:
        if finished := self._in(State.DELIVERED):
            number = data.draw(st.sampled_from(finished))
            replay([number], store=self.store, catalogue=self.workers[0].catalogue, actor=TEST)

    @rule(data=st.data(), event=st.sampled_from([Event.FOUND, Event.ABSENT]))
    def decide_about_a_doubt(self, data: st.DataObject, event: Event) -> None:
        if doubts := self._in(State.IN_DOUBT):
            number = data.draw(st.sampled_from(doubts))
            self.store.settle_doubt(number, event, actor=TEST)
            if event is Event.ABSENT:
                (key,) = (row.key for row in rows(self.store, t.delivery) if row.id == number)
                self.said_absent[key] += 1

    def _in(self, state: State) -> list[int]:
        return [row.id for row in rows(self.store, t.delivery) if row.state == state]

    # -- what must hold

    @invariant()
    def the_books_balance_and_no_lane_sticks(self) -> None:
        assert list(unbalanced(self.store)) == []

    def each_target_has_them_in_order(self) -> None:
        first = self._keys_of_first_plans()
        for name, endpoint in self.endpoints.items():
            by_key = {parcel.key: parcel for parcel in reversed(endpoint.booked)}  # the first booking of each key
            bodies = [p.message.body for p in endpoint.booked if p.key in first and by_key[p.key] is p]
            for order in ("1", "2", "3"):
                booked = steps(bodies, order)
                assert booked == sorted(set(booked)), f"{name} has {booked} of order {order}"

    def _keys_of_first_plans(self) -> set[str]:
        """Keys of deliveries that are no repeat, nor made by one: repeats go to the tail, out of the order."""
        deliveries = {row.id: row for row in rows(self.store, t.delivery)}
        parents = {row.id: row.parent for row in rows(self.store, t.message)}

        def is_first(delivery: int | None) -> bool:
            if delivery is None:
                return True
            row = deliveries[delivery]
            return row.replay == 0 and is_first(parents[row.message])

        return {row.key for row in deliveries.values() if is_first(row.id)}

    def nothing_is_repeated_silently(self) -> None:
        booked = Counter(parcel.key for parcel in self.endpoints["archive"].booked)
        silent = {key: times for key, times in booked.items() if times > 1 + self.said_absent[key]}
        assert silent == {}

    def teardown(self) -> None:
        try:
            self._drain()
            assert list(discrepancies(self.store)) == []
            self.each_target_has_them_in_order()
            self.nothing_is_repeated_silently()
            replay(self._in(State.DEAD), store=self.store, catalogue=self.workers[0].catalogue, actor=TEST)
            self._drain()
            left = {row.state for row in rows(self.store, t.delivery)}
            assert left <= {State.DELIVERED, State.DISCARDED}, f"left: {left}"
            self._expect_every_fact_once_and_nothing_else()
        finally:
            self.store.close()
            shutil.rmtree(self.folder, ignore_errors=True)

    def _drain(self) -> None:
        """Everything is up and answers; whatever is due falls due: what stays open is behind something dead."""
        for endpoint in self.endpoints.values():
            endpoint.is_up = True
            endpoint.script.clear()
        self.bury()
        for _ in range(60):
            self.workers[0].run_until_idle()
            self.let_time_pass()
            self.store.wake_due(limit=1000)
            if not OPEN & {State(row.state) for row in rows(self.store, t.delivery)} and not self._in(State.IN_DOUBT):
                break
        found = Counter(row.state for row in rows(self.store, t.delivery))
        assert not OPEN & {State(state) for state in found}, f"still open: {found}"
        assert found[State.DEAD] or not found[State.WAITING], f"waits for nothing: {found}"

    def _expect_every_fact_once_and_nothing_else(self) -> None:
        delivered = [row for row in rows(self.store, t.delivery) if row.state == State.DELIVERED and row.replay == 0]
        sent = {row.key for row in delivered if row.stage == "send"}
        said_found = {row.key for row in delivered if not row.document}
        for name, endpoint in self.endpoints.items():
            mine = {row.key for row in delivered if row.stage == "send" and row.destination == name}
            assert mine - {parcel.key for parcel in endpoint.booked} <= said_found & sent


Pipeline.TestCase.settings = settings(
    max_examples=30,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.reuse, Phase.generate],  # shrinking takes minutes: add Phase.shrink by hand when it found something
)
TestAnyFailuresDuplicatesAndInterleavings = Pipeline.TestCase
