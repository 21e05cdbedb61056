"""Receipts of what could not be taken: whom they name, how much of the detail is kept, and what came the wrong way."""

from __future__ import annotations

from bus.model.envelope import Envelope
from bus.model.message_class import MessageClass
from bus.pipeline.receive import MAX_DETAIL, receive
from bus.store import tables as t
from bus.store.sqlstore import SqlStore
from bus.testing import DirectBus, envelope_of
from tests.conformance.books import rows
from tests.conformance.stages import a_bus
from tests.small_project import a_step


def test_a_receipt_names_the_system_of_the_routing_key_whatever_the_properties_say(store: SqlStore) -> None:
    posing = Envelope(
        routing_key="P1.mes-1.test.step.v1", body=b"{", properties={"app_id": "erp", "type": "sap.order.v1"}
    )

    a_bus(store).receive(posing)

    (receipt,) = rows(store, t.receipt)
    assert (receipt.system, receipt.type) == ("mes-1", "test.step.v1")


def test_the_detail_of_a_receipt_is_bounded(store: SqlStore) -> None:
    envelope = envelope_of(a_step("a", 1))
    stuffed = Envelope(routing_key=envelope.routing_key, body=b"{", properties={"content_encoding": "x" * 10**6})

    a_bus(store).receive(stuffed)

    (receipt,) = rows(store, t.receipt)
    assert len(receipt.detail) < MAX_DETAIL + 100


def test_a_message_that_reached_the_queue_of_another_class_is_refused_there_and_kept_in_its_own(
    store: SqlStore,
) -> None:
    bus: DirectBus = a_bus(store)
    envelope = envelope_of(a_step("a", 1))

    for message_class in (MessageClass.EVENT, MessageClass.TRANSACTION):
        receive(
            [envelope],
            store=store,
            catalogue=bus.catalogue,
            telemetry=bus.telemetry,
            message_class=message_class,
        )

    (receipt,) = rows(store, t.receipt)
    assert (receipt.kind, receipt.cause) == ("refused", "class.wrong-queue")
    assert len(rows(store, t.message)) == 1
