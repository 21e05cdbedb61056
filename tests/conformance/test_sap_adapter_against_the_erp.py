"""The SAP adapter against the plant's ERP, a process with a book of its own: what it says, and what the book says."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest

from adapters.sap import SapOData
from bus.errors import EndpointDown, OutcomeUnknown, PermanentFailure, TransientFailure
from bus.model.message import Message
from bus.model.secret import Secret
from bus.model.system import Endpoint
from bus.ports import Parcel, Verdict
from tests.conformance.adapters import a_message
from tests.plant.launch import Secrets, SystemProcess, new_secrets

ORDER = "1000123"


@pytest.fixture(scope="module")
def secrets() -> Secrets:
    return new_secrets()


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory, secrets: Secrets) -> Iterator[SystemProcess]:
    environment = secrets.as_environment() | {"PLANT_BROKER": ""}
    process = SystemProcess("erp", tmp_path_factory.mktemp("erp"), environment)
    process.start()
    process.command("know-orders", orders=[ORDER], site="P100", unit="PC")
    yield process
    process.stop()


@pytest.fixture
def erp(process: SystemProcess) -> Iterator[SystemProcess]:
    """The ERP, and afterwards without the trouble a test has made."""
    yield process
    process.command("clear-faults")
    process.command("unlock", order=ORDER)
    process.command("password", rotated=False)
    process.command("up")


@pytest.fixture
def adapter(erp: SystemProcess, secrets: Secrets) -> Iterator[SapOData]:
    endpoint = Endpoint(
        name="erp",
        system="erp",
        adapter="sap:SapOData",
        address=erp.url,
        options={"user": secrets.erp_user, "password": "env:PLANT_ERP_PASSWORD"},
        timeout=timedelta(seconds=5),
    )
    adapter = SapOData(endpoint, secret=lambda name: Secret(name, secrets.erp_password))
    yield adapter
    adapter.close()


def a_confirmation() -> Message:
    body = {
        "OrderID": ORDER,
        "OrderOperation": "0010",
        "ConfirmationUnit": "PC",
        "ConfirmationYieldQuantity": "1",
        "ExternalSystemConfirmation": str(uuid.uuid4()),
    }
    return a_message(type="sap.production-order-confirmation.v2", body=json.dumps(body).encode())


def a_goods_issue() -> Message:
    item = {
        "Material": "RM-1",
        "Plant": "P100",
        "GoodsMovementType": "261",
        "ManufacturingOrder": ORDER,
        "QuantityInEntryUnit": "2",
        "EntryUnit": "PC",
    }
    body = {"GoodsMovementCode": "03", "ReferenceDocument": uuid.uuid4().hex[:16], "to_MaterialDocumentItem": [item]}
    return a_message(type="sap.material-document.v1", body=json.dumps(body).encode())


def a_parcel(message: Message) -> Parcel:
    return Parcel(message=message, key=str(uuid.uuid4()))


def booked(erp: SystemProcess, message: Message) -> list[str]:
    """The numbers of the documents in the ERP's own book that bear the message's external id."""
    fields = json.loads(message.body)
    ours = fields.get("ExternalSystemConfirmation") or fields["ReferenceDocument"]
    return [f"{each['number']}/{each['year']}" for each in erp.book()["documents"] if each["external_id"] == ours]


@pytest.mark.parametrize("make", [a_confirmation, a_goods_issue])
def test_a_posting_is_booked_once_and_answered_with_its_number(
    erp: SystemProcess, adapter: SapOData, make: Callable[[], Message]
) -> None:
    message = make()

    answer = adapter.send(a_parcel(message))

    assert len(booked(erp, message)) == 1
    assert answer.document
    assert adapter.probe(a_parcel(message)).document == answer.document


def test_an_expired_token_costs_one_fetch_and_no_posting(erp: SystemProcess, adapter: SapOData) -> None:
    adapter.send(a_parcel(a_confirmation()))
    erp.command("expire-tokens")
    message = a_confirmation()

    adapter.send(a_parcel(message))

    assert len(booked(erp, message)) == 1


def test_a_locked_order_is_tried_again_later(erp: SystemProcess, adapter: SapOData) -> None:
    message = a_confirmation()
    erp.command("lock", order=ORDER)

    with pytest.raises(TransientFailure) as caught:
        adapter.send(a_parcel(message))
    erp.command("unlock", order=ORDER)
    adapter.send(a_parcel(message))

    assert "CO/469" in caught.value.detail
    assert len(booked(erp, message)) == 1


@pytest.mark.parametrize("make", [a_confirmation, a_goods_issue])
@pytest.mark.parametrize("trouble", ["book-then-drop", "book-then-fail", "garble"])
def test_a_posting_booked_while_its_answer_is_lost_is_in_doubt_and_found_by_the_probe(
    erp: SystemProcess, adapter: SapOData, make: Callable[[], Message], trouble: str
) -> None:
    message = make()
    erp.command("faults", effect=trouble)

    with pytest.raises(OutcomeUnknown):
        adapter.send(a_parcel(message))
    finding = adapter.probe(a_parcel(message))

    assert finding.verdict is Verdict.FOUND
    assert finding.document
    assert len(booked(erp, message)) == 1


def test_a_posting_cut_before_it_was_booked_is_in_doubt_and_absent(erp: SystemProcess, adapter: SapOData) -> None:
    message = a_confirmation()
    erp.command("faults", effect="drop")

    with pytest.raises(OutcomeUnknown):
        adapter.send(a_parcel(message))
    finding = adapter.probe(a_parcel(message))

    assert finding.verdict is Verdict.ABSENT
    assert booked(erp, message) == []


def test_a_refusal_is_final_with_sap_s_own_code_and_text(adapter: SapOData) -> None:
    message = a_message(
        type="sap.production-order-confirmation.v2",
        body=json.dumps(json.loads(a_confirmation().body) | {"OrderID": "999"}).encode(),
    )

    with pytest.raises(PermanentFailure) as caught:
        adapter.send(a_parcel(message))

    assert "CO/017" in caught.value.detail
    assert "Order 999 does not exist" in caught.value.detail


def test_a_rotated_password_holds_the_endpoint(erp: SystemProcess, adapter: SapOData) -> None:
    adapter.check()
    erp.command("password", rotated=True)

    with pytest.raises(EndpointDown) as refused:
        adapter.send(a_parcel(a_confirmation()))
    erp.command("password", rotated=False)
    adapter.check()

    assert refused.value.cause == "endpoint.credentials-refused"


def test_an_erp_that_is_down_holds_the_endpoint(erp: SystemProcess, adapter: SapOData) -> None:
    erp.command("down")

    with pytest.raises(EndpointDown) as down:
        adapter.send(a_parcel(a_confirmation()))
    erp.command("up")
    adapter.check()

    assert down.value.cause == "endpoint.refused-connection"
