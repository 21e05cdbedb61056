"""What people ask the store: on SQLite and on PostgreSQL the same answers, bounded however long the history."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from importlib import resources

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import update

from bus.errors import EndpointDown, NotFound, OutcomeUnknown, PermanentFailure
from bus.model.delivery import State
from bus.model.envelope import Envelope
from bus.ports import ReceiptKind
from bus.store import failures, follow, lane_views, overview, receipts, search
from bus.store import tables as t
from bus.store.failures import FailureQuery
from bus.store.schema import revisions
from bus.store.search import MessageQuery, list_messages
from bus.store.sqlstore import SqlStore
from bus.store.views import MessageLine, Page
from bus.testing import DirectBus, ScriptedEndpoint, envelope_of
from tests.conformance.stages import a_bus
from tests.small_project import a_native_step, a_step, steps_of


@pytest.fixture
def target() -> ScriptedEndpoint:
    return ScriptedEndpoint(remembers_keys=False)


@pytest.fixture
def bus(store: SqlStore, target: ScriptedEndpoint) -> DirectBus:
    return a_bus(store, adapters={"target": target})


def find(store: SqlStore, limit: int = 50, before: int | None = None, **query: object) -> Page[MessageLine]:
    return list_messages(store.database, MessageQuery(**query), limit=limit, before=before)  # type: ignore[arg-type]  # fields of the query


def ids(page: Page[MessageLine]) -> list[str]:
    return [line.id for line in page.items]


# --- finding messages ------------------------------------------------------------------------------------------------


def test_messages_are_found_by_each_thing_they_bear(store: SqlStore, bus: DirectBus) -> None:
    bus.receive(a_step("1", 1), a_native_step("2", 1, correlation_id="life-of-2"))

    assert ids(find(store, type="test.step.v1")) == ["1-1"]
    assert ids(find(store, system="mes-1")) == ["native-2-1", "1-1"]
    assert ids(find(store, subject="order:2")) == ["native-2-1"]
    assert ids(find(store, correlation="life-of-2")) == ["native-2-1"]
    assert ids(find(store, where=(("order", "1"),))) == ["1-1"]
    assert ids(find(store, subject="order:2", type="test.step.v1")) == []


def test_a_message_is_found_by_the_number_its_target_gave(store: SqlStore, bus: DirectBus) -> None:
    bus.receive(a_step("1", 1), a_step("2", 1))
    bus.run_until_idle()
    documents = {
        delivery.document: line.id
        for line in find(store).items
        for delivery in follow.message_detail(store.database, line.number).deliveries
    }

    found = {document: ids(find(store, document=document)) for document in documents}

    assert "" not in documents
    assert found == {document: [name] for document, name in documents.items()}
    assert ids(find(store, document=next(iter(documents)), subject="order:nobody's")) == []
    assert ids(find(store, document="no such number")) == []


@pytest.mark.parametrize("state", [State.DELIVERED, State.DEAD, State.IN_DOUBT, State.RETRYING, State.WAITING])
def test_messages_are_found_by_the_state_of_their_deliveries(
    store: SqlStore, bus: DirectBus, target: ScriptedEndpoint, state: State
) -> None:
    target.script = {
        "order:2": [PermanentFailure("target.422")],
        "order:3": [OutcomeUnknown("outcome.timeout")],
    }
    bus.receive(a_step("1", 1), a_step("2", 1), a_step("2", 2), a_step("3", 1))
    bus.run_until_idle()
    with store.transaction() as transaction:  # one that is to be tried again, as a failed lock makes it
        d = t.delivery.c
        transaction.execute(update(t.delivery).where(d.message == 1).values(state="RETRYING"))
    bus.receive(a_step("9", 1))
    bus.run_until_idle()

    found = find(store, state=state)

    expected = {"DELIVERED": ["9-1"], "DEAD": ["2-1"], "IN_DOUBT": ["3-1"], "RETRYING": ["1-1"], "WAITING": ["2-2"]}
    assert ids(found) == expected[state]
    assert state in found.items[0].deliveries


def test_messages_that_no_route_takes_are_found(store: SqlStore, bus: DirectBus) -> None:
    bus.receive(a_step("1", 404), a_step("2", 1))

    assert ids(find(store, unrouted=True)) == ["1-404"]


def test_messages_are_found_by_when_they_were_accepted(store: SqlStore, bus: DirectBus) -> None:
    bus.receive(a_step("1", 1), a_step("2", 1), a_step("3", 1))
    now = datetime.now(UTC)
    for message, age in ((1, timedelta(days=3)), (2, timedelta(hours=2))):
        with store.transaction() as transaction:
            transaction.execute(update(t.message).where(t.message.c.id == message).values(accepted_at=now - age))

    assert ids(find(store, since=now - timedelta(hours=3))) == ["3-1", "2-1"]
    assert ids(find(store, until=now - timedelta(hours=1))) == ["2-1", "1-1"]
    assert ids(find(store, since=now - timedelta(days=4), until=now - timedelta(days=1))) == ["1-1"]
    assert ids(find(store, since=now + timedelta(hours=1))) == []
    assert ids(find(store, until=now - timedelta(days=9))) == []


def test_a_page_says_how_many_more_there_are_and_where_they_begin(store: SqlStore, bus: DirectBus) -> None:
    bus.receive(*(a_step("1", step) for step in range(1, 8)))

    first = find(store, limit=3, type="test.step.v1")
    second = find(store, limit=3, type="test.step.v1", before=first.goes_on_at)
    last = find(store, limit=3, type="test.step.v1", before=second.goes_on_at)

    assert (first.more, first.more_is_exact) == (4, True)
    assert ids(first) + ids(second) + ids(last) == [f"1-{step}" for step in range(7, 0, -1)]
    assert last.goes_on_at is None


def test_a_rare_match_is_found_page_by_page_however_far_back_it_is(
    store: SqlStore, bus: DirectBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "LOOK_AT", 3)
    bus.receive(a_step("1", 404), *(a_step("2", step) for step in range(1, 8)))

    page = find(store, unrouted=True)
    looks = 1
    while not page.items and page.goes_on_at is not None:
        assert page.looked_at == 3
        page = find(store, unrouted=True, before=page.goes_on_at)
        looks += 1

    assert ids(page) == ["1-404"]
    assert looks == 3


def test_every_message_in_a_state_is_found_page_by_page_however_many_there_are(
    store: SqlStore, bus: DirectBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "LOOK_AT", 3)
    bus.receive(*(a_step(f"{order}", 1) for order in range(1, 9)))

    found: list[str] = []
    page = find(store, state=State.READY, limit=2)
    found += ids(page)
    while page.goes_on_at is not None:
        page = find(store, state=State.READY, limit=2, before=page.goes_on_at)
        found += ids(page)

    assert found == [f"{order}-1" for order in range(8, 0, -1)]


def test_documents_are_read_behind_the_first_window_too(
    store: SqlStore, bus: DirectBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "LOOK_AT", 3)
    bus.receive(a_step("1", 404), *(a_step("2", step) for step in range(1, 8)))

    page = list_messages(store.database, MessageQuery(unrouted=True), limit=5, matches=lambda _: True)
    while not page.items and page.goes_on_at is not None:
        page = list_messages(
            store.database, MessageQuery(unrouted=True), limit=5, before=page.goes_on_at, matches=lambda _: True
        )

    assert ids(page) == ["1-404"]


def test_a_page_that_is_full_to_the_last_says_that_nothing_follows(store: SqlStore, bus: DirectBus) -> None:
    bus.receive(*(a_step("1", step) for step in range(1, 7)))

    page = find(store, limit=3)
    last = find(store, limit=3, before=page.goes_on_at)

    assert (len(last.items), last.more, last.goes_on_at) == (3, 0, None)
    assert find(store, limit=6, type="test.step.v1").goes_on_at is None


def test_documents_are_read_where_no_index_helps(store: SqlStore, bus: DirectBus) -> None:
    bus.receive(*(a_step("1", step) for step in range(1, 251)))

    page = list_messages(
        store.database, MessageQuery(), limit=2, matches=lambda message: steps_of([message.body])[0][1] % 100 == 0
    )
    rest = list_messages(
        store.database,
        MessageQuery(),
        limit=2,
        before=page.goes_on_at,
        matches=lambda message: steps_of([message.body])[0][1] % 100 == 0,
    )

    assert ids(page) == ["1-200", "1-100"]
    assert ids(rest) == []


def test_receipts_are_listed_by_kind_with_the_raw_body(store: SqlStore, bus: DirectBus) -> None:
    bus.receive(Envelope(routing_key="P1.mes-1.test.step.v1", body=b"\xff{no json"), envelope_of(a_step("1", 1)))
    bus.receive(a_step("1", 1))

    (invalid,) = receipts.list_receipts(store.database, ReceiptKind.INVALID, limit=5).items
    (duplicate,) = receipts.list_receipts(store.database, ReceiptKind.DUPLICATE, limit=5, system="mes-1").items
    detail = receipts.receipt_detail(store.database, invalid.receipt)

    assert detail is not None
    assert detail.body == b"\xff{no json"
    assert duplicate.id == "1-1"
    assert receipts.list_receipts(store.database, ReceiptKind.CONFLICT, limit=5).items == []


# --- one message, and its trace --------------------------------------------------------------------------------------


def test_a_message_is_shown_with_deliveries_attempts_and_children(store: SqlStore, bus: DirectBus) -> None:
    bus.receive(a_native_step("1", 1, document={"parts": 2}))
    bus.run_until_idle()

    detail = follow.message_detail(store.database, 1)
    child = follow.message_detail(store.database, detail.children[0].number)

    assert [line.state for line in detail.deliveries] == ["DELIVERED"]
    assert len(detail.children) == 2
    assert child.parent_message == 1
    assert child.attempts[-1].document == "D1"
    assert child.attempts[-1].sent == b'{"order":"1","step":1}'


def test_what_is_not_there_is_told(store: SqlStore) -> None:
    with pytest.raises(NotFound, match="message list"):
        follow.message_detail(store.database, 1)
    with pytest.raises(NotFound, match="message list"):
        follow.trace(store.database, 1)
    with pytest.raises(NotFound, match="dead list"):
        failures.delivery_detail(store.database, 1)
    with pytest.raises(NotFound, match="lane list"):
        lane_views.lane_detail(store.database, "target/order:1", limit=5)


def test_a_trace_holds_all_causes_and_effects_whichever_is_asked_for(store: SqlStore, bus: DirectBus) -> None:
    bus.receive(a_native_step("1", 1, document={"parts": 2}))
    bus.run_until_idle()
    bus.receive(a_step("1", 5, id="confirmed", causation_id="native-1-1"))
    bus.receive(a_step("7", 5, id="elsewhere"))
    bus.run_until_idle()

    traces = [follow.trace(store.database, number) for number in (1, 2, 3, 4)]

    assert [trace.asked for trace in traces] == [1, 2, 3, 4]
    assert all(trace.roots == traces[0].roots for trace in traces)
    (root,) = traces[0].roots
    assert [made.line.id != "" for made in root.deliveries[0].made] == [True, True]
    assert [effect.line.id for effect in root.caused] == ["confirmed"]
    assert root.deliveries[0].made[1].deliveries[0].line.document == "D2"


def test_messages_of_one_subject_are_traced_together_unless_they_are_legion(
    store: SqlStore, bus: DirectBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    bus.receive(a_step("1", 1), a_step("1", 2), a_step("1", 3))

    together = follow.trace(store.database, 2)
    monkeypatch.setattr(follow, "KIN", 2)
    alone = follow.trace(store.database, 2)

    assert [root.line.number for root in together.roots] == [1, 2, 3]
    assert [root.line.number for root in alone.roots] == [2]
    assert alone.kin_left_out


def test_a_trace_is_cut_where_it_would_be_endless(
    store: SqlStore, bus: DirectBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "TRACED", 3)
    bus.receive(*(a_step("1", step, correlation_id="c") for step in range(1, 9)))

    trace = follow.trace(store.database, 8)

    assert trace.is_cut
    assert [root.line.number for root in trace.roots] == [1, 2, 8]


# --- failures, lanes, endpoints, totals ------------------------------------------------------------------------------


def test_the_dead_are_grouped_by_cause_and_route(store: SqlStore, bus: DirectBus, target: ScriptedEndpoint) -> None:
    target.script = {f"order:{order}": [PermanentFailure("target.422", "no")] for order in (1, 2, 3)}
    bus.receive(a_step("1", 1), a_step("2", 1), a_step("3", 666), a_step("4", 1))
    bus.run_until_idle()

    groups = failures.dead_groups(store.database, FailureQuery())
    page = failures.list_failures(store.database, State.DEAD, FailureQuery(cause="target.422"), limit=1)

    assert [(group.cause, group.count) for group in groups] == [("target.422", 2), ("transformer.raised", 1)]
    assert groups[0].oldest <= groups[0].newest
    assert (page.items[0].subject, page.more) == ("order:2", 1)
    assert failures.count_failures(store.database, State.DEAD, FailureQuery(endpoint="target")) == 3
    assert failures.numbers_of_failures(store.database, State.DEAD, FailureQuery(), limit=2, above=1) == [2, 3]


def test_a_dead_delivery_shows_what_waits_behind_it_in_order(
    store: SqlStore, bus: DirectBus, target: ScriptedEndpoint
) -> None:
    target.script = {"order:1": [PermanentFailure("target.422", "no")]}
    bus.receive(*(a_step("1", step) for step in range(1, 10)))
    bus.run_until_idle()

    dead = failures.delivery_detail(store.database, 1)
    behind = failures.delivery_detail(store.database, 3)

    assert (dead.behind.count, dead.before) == (8, None)
    assert [line.place for line in dead.behind.first] == [2, 3, 4, 5, 6]
    assert behind.before is not None
    assert behind.before.number == 1


def test_lanes_show_what_blocks_them_and_the_rest_by_length(
    store: SqlStore, bus: DirectBus, target: ScriptedEndpoint
) -> None:
    target.script = {"order:2": [PermanentFailure("target.422")], "order:3": [OutcomeUnknown("outcome.timeout")]}
    bus.receive(a_step("2", 1), a_step("2", 2), a_step("3", 1))
    bus.run_until_idle()
    target.is_up = False
    bus.receive(a_step("4", 1), a_step("5", 1), a_step("5", 2))
    bus.run_until_idle()

    page = lane_views.list_lanes(store.database, limit=10)
    blocked = lane_views.list_lanes(store.database, limit=1, only_blocked=True)
    detail = lane_views.lane_detail(store.database, "target/order:5", limit=1)

    assert [(line.lane, line.standing, line.blocked_by) for line in page.items] == [
        ("target/order:2", 2, "DEAD"),
        ("target/order:3", 1, "IN_DOUBT"),
        ("target/order:5", 2, ""),
        ("target/order:4", 1, ""),
    ]
    assert (len(blocked.items), blocked.more) == (1, 1)
    assert {line.endpoint_state for line in page.items} == {"tripped"}
    assert (detail.standing.items[0].place, detail.standing.more) == (1, 1)
    assert lane_views.list_lanes(store.database, limit=10, endpoint="archive").items == []


def test_endpoints_show_why_they_are_down_and_what_they_hold(
    store: SqlStore, bus: DirectBus, target: ScriptedEndpoint
) -> None:
    target.script = {"*": [EndpointDown("endpoint.dns", "no such host")]}
    bus.receive(a_step("1", 1), a_step("2", 1))
    bus.run_until_idle()

    archive, down = overview.endpoint_lines(store.database, ["target", "archive"])

    assert (archive.name, archive.state, archive.ready) == ("archive", "open", 0)
    assert (down.state, down.cause, down.ready) == ("tripped", "endpoint.dns", 2)
    assert down.oldest is not None


def test_the_overview_balances_and_measures_from_the_received_message(
    store: SqlStore, bus: DirectBus, target: ScriptedEndpoint
) -> None:
    target.script = {"order:2": [PermanentFailure("target.422")]}
    bus.receive(a_native_step("1", 1), a_step("2", 1))
    with store.transaction() as transaction:
        early = transaction.now - timedelta(hours=1)
        transaction.execute(update(t.message).where(t.message.c.id == 1).values(accepted_at=early))
    bus.run_until_idle()
    store.take_lease("worker:1", "worker:1", instead_of=None)

    seen = overview.overview(store.database)

    assert all(equation.balances for equation in seen.equations)
    assert seen.latency is not None
    assert seen.latency.p50 > timedelta(minutes=59)
    assert {route.route: (route.delivered, route.dead) for route in seen.routes}["steps-to-target"] == (1, 1)
    assert [lease.name for lease in seen.leases] == ["worker:1"]
    assert seen.leases[0].age < timedelta(minutes=1)


def test_the_revision_is_that_of_alembics_newest_migration(store: SqlStore) -> None:
    script = ScriptDirectory(str(resources.files("bus.store") / "migrations"))

    assert revisions(store.database) == (script.get_current_head(), script.get_current_head())
