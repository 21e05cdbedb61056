"""`bus status --verify`: says nothing about a sound store, and finds every lie told to it, on both stores."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from sqlalchemy import Connection, text

from bus.errors import OutcomeUnknown, PermanentFailure
from bus.store import verify
from bus.store.sqlstore import SqlStore
from bus.store.verify import Discrepancy
from bus.testing import DirectBus, ScriptedEndpoint
from tests.conformance.stages import a_bus, claim
from tests.small_project import a_native_step, a_step


@pytest.fixture
def bus(store: SqlStore) -> DirectBus:
    """After a day with everything in it: splits, re-entry, dead, doubt, receipts, waiting lanes.

    Message 1 is native and made messages 2 and 3; order 8 has a dead delivery with two behind it.
    """
    target = ScriptedEndpoint(
        remembers_keys=False,
        script={
            "order:8": [PermanentFailure("target.422", "no")],
            "order:9": [OutcomeUnknown("outcome.timeout", "no answer")],
        },
    )
    bus = a_bus(store, adapters={"target": target})
    bus.receive(a_native_step("1", 1, document={"parts": 2}))
    bus.run_until_idle()
    bus.receive(a_step("8", 1), a_step("8", 2), a_step("8", 3), a_step("9", 1), a_step("5", 1, document={"parts": 3}))
    bus.receive(a_step("8", 1), a_step("6", 404), a_native_step("broken", 1))
    bus.run_until_idle()
    return bus


def lies(store: SqlStore) -> list[Discrepancy]:
    return list(verify.verify(store.database))


def checks(found: Sequence[Discrepancy]) -> set[str]:
    return {discrepancy.check for discrepancy in found}


def tell(store: SqlStore, *statements: str) -> None:
    """Change the store behind its back, as a lost write or a hand in the database would."""
    with store.database.engine.connect() as connection:
        if store.database.is_sqlite:
            connection.exec_driver_sql("PRAGMA foreign_keys=OFF")
        else:
            connection.execute(text("SET session_replication_role = replica"))
        for statement in statements:
            connection.execute(text(statement))
        _commit(connection)


def _commit(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.commit()
    connection.invalidate()  # the pooled connection must not keep its foreign keys off


def delivery(store: SqlStore, subject: str, state: str) -> int:
    query = "SELECT d.id FROM delivery d JOIN message m ON m.id = d.message WHERE m.subject = :s AND d.state = :state"
    with store.database.read() as connection:
        rows = connection.execute(text(query + " ORDER BY d.id"), {"s": subject, "state": state}).scalars()
        return int(next(iter(rows)))


def test_a_sound_store_has_no_discrepancy(store: SqlStore, bus: DirectBus) -> None:
    assert lies(store) == []


def test_a_store_in_the_middle_of_its_work_has_no_discrepancy(store: SqlStore, bus: DirectBus) -> None:
    bus.receive(*(a_step(str(order), 7) for order in range(20, 60)))
    for queue in bus.catalogue.queues:
        claim(store, queue=queue, limit=5)

    assert lies(store) == []


def test_an_empty_store_has_no_discrepancy(store: SqlStore) -> None:
    assert lies(store) == []


def test_every_row_is_looked_at_however_many_pages_there_are(
    store: SqlStore, bus: DirectBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "PAGE", 2)
    sound = lies(store)
    tell(store, "UPDATE message SET planned = planned + 1")

    found = [discrepancy.message for discrepancy in lies(store) if discrepancy.check == "planned"]

    assert sound == []
    with store.database.read() as connection:
        assert found == list(connection.execute(text("SELECT id FROM message ORDER BY id")).scalars())


def test_a_delivery_that_was_deleted_is_missed_at_its_message(store: SqlStore, bus: DirectBus) -> None:
    number = delivery(store, "order:9", "IN_DOUBT")
    tell(store, f"DELETE FROM attempt WHERE delivery = {number}", f"DELETE FROM output WHERE delivery = {number}")
    tell(store, f"DELETE FROM delivery WHERE id = {number}")

    found = lies(store)

    assert {"planned", "totals"} <= checks(found)
    assert any("planned 1 deliveries, 0 are there" in discrepancy.text for discrepancy in found)


def test_a_message_that_was_deleted_is_missed(store: SqlStore, bus: DirectBus) -> None:
    tell(store, "DELETE FROM search_value WHERE message = 3", "DELETE FROM message WHERE id = 3")

    found = lies(store)

    assert {"produced", "parent", "totals"} <= checks(found)
    assert any("delivery 1 made 2 messages, 1 are there" in discrepancy.text for discrepancy in found)


@pytest.mark.parametrize(
    ("lie", "check", "says"),
    [
        ("UPDATE message SET planned = 5 WHERE id = 1", "planned", "message 1 planned 5 deliveries, 1 are there"),
        ("UPDATE message SET planned = 0 WHERE id = 1", "totals", "messages-planned"),
        ("UPDATE message SET entering = 1 WHERE id = 1", "entering", "message 1 counts 1 deliveries still entering"),
        ("UPDATE delivery SET produced = 3 WHERE id = 1", "produced", "delivery 1 made 3 messages, 2 are there"),
        ("UPDATE message SET parent = 4711 WHERE id = 2", "parent", "made by delivery 4711, which is not there"),
        ("UPDATE total SET amount = amount + 1 WHERE measure = 'accepted'", "totals", "accepted"),
        ("DELETE FROM total WHERE measure = 'delivered'", "totals", "delivered"),
        ("INSERT INTO total (measure, route, amount) VALUES ('dead', 'no-such-route', 1)", "totals", "no-such-route"),
        ("DELETE FROM receipt", "totals", "duplicate"),
        ("DELETE FROM message_key WHERE message_id = '9-1'", "key", "the key of mes-1 9-1 is missing"),
        ("UPDATE message_key SET digest = '\\x00' WHERE message_id = '9-1'", "key", "stands for another content"),
    ],
)
def test_a_lie_about_a_number_is_found(store: SqlStore, bus: DirectBus, lie: str, check: str, says: str) -> None:
    tell(store, lie)

    found = lies(store)

    assert any(discrepancy.check == check and says in discrepancy.text for discrepancy in found), found


def test_a_dead_one_that_no_longer_stands_is_found(store: SqlStore, bus: DirectBus) -> None:
    dead = delivery(store, "order:8", "DEAD")
    tell(store, f"UPDATE delivery SET stands = false WHERE id = {dead}")

    found = lies(store)

    assert (found[0].check, found[0].delivery) == ("stands", dead)


def test_a_finished_one_that_still_stands_is_found(store: SqlStore, bus: DirectBus) -> None:
    tell(store, "UPDATE delivery SET stands = true WHERE id = 1")

    assert any(lie.check == "stands" and lie.delivery == 1 for lie in lies(store))


def test_one_that_overtakes_a_dead_one_is_found(store: SqlStore, bus: DirectBus) -> None:
    waiting, dead = delivery(store, "order:8", "WAITING"), delivery(store, "order:8", "DEAD")
    tell(store, f"UPDATE delivery SET state = 'READY' WHERE id = {waiting}")

    (lie,) = lies(store)

    assert (lie.check, lie.delivery, lie.lane) == ("order", waiting, "target/order:8")
    assert f"though {dead} stands before it" in lie.text


def test_a_lane_that_would_never_move_again_is_found(store: SqlStore, bus: DirectBus) -> None:
    bus.receive(a_step("77", 7))
    ready = delivery(store, "order:77", "READY")
    tell(store, f"UPDATE delivery SET state = 'WAITING', stage = 'send' WHERE id = {ready}")

    found = lies(store)

    assert any(lie.check == "order" and "nothing stands before it" in lie.text for lie in found)


def test_two_that_share_a_place_are_found(store: SqlStore, bus: DirectBus) -> None:
    waiting = delivery(store, "order:8", "WAITING")
    tell(store, f"UPDATE delivery SET place = 1 WHERE id = {waiting}")

    assert "places" in checks(lies(store))


def test_one_that_is_claimed_by_nobody_is_found(store: SqlStore, bus: DirectBus) -> None:
    bus.receive(a_step("77", 7))
    (claimed,) = claim(store, queue="send.archive", limit=1)
    sound = lies(store)
    tell(store, f"UPDATE delivery SET worker = '' WHERE id = {claimed.id}")

    (lie,) = lies(store)

    assert sound == []
    assert (lie.check, lie.delivery) == ("claims", claimed.id)


def test_one_that_waits_in_no_lane_is_found(store: SqlStore, bus: DirectBus) -> None:
    bus.receive(a_step("77", 1, subject=""))
    tell(store, "UPDATE delivery SET state = 'WAITING', stands = false, lane = NULL WHERE state = 'READY'")

    assert any("in no lane" in lie.text for lie in lies(store))
