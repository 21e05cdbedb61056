"""The plant's systems as processes: what their HTTP sides promise to the bus and to the day."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.plant.launch import Plant, running_plant, wait_until

CONFIRMATIONS = "/sap/opu/odata/sap/API_PROD_ORDER_CONFIRMATION_2_SRV"
MOVEMENTS = "/sap/opu/odata/sap/API_MATERIAL_DOCUMENT_SRV"
SCHEDULE = """<?xml version="1.0" encoding="UTF-8"?>
<ProcessOperationsSchedule xmlns="http://www.mesa.org/xml/B2MML" releaseID="V0701">
  <ApplicationArea><CreationDateTime>2026-03-02T07:00:00Z</CreationDateTime></ApplicationArea>
  <DataArea><Process/><OperationsSchedule><ID>S1</ID><OperationsRequest><ID>{order}</ID>
    <SegmentRequirement><ID>0010</ID><ProcessSegmentID>MIX</ProcessSegmentID>
      <OperationsDefinitionID>R1</OperationsDefinitionID><OperationsSegmentID>0010</OperationsSegmentID>
      <MaterialRequirement><ID>1</ID><MaterialDefinitionID>{material}</MaterialDefinitionID>
        <MaterialUse>Produced</MaterialUse>
        <Quantity><QuantityString>40</QuantityString><DataType>decimal</DataType>
          <UnitOfMeasure>KGM</UnitOfMeasure></Quantity></MaterialRequirement>
      <MaterialRequirement><ID>0010</ID><MaterialDefinitionID>RM-1</MaterialDefinitionID>
        <MaterialUse>Consumed</MaterialUse>
        <Quantity><QuantityString>41.5</QuantityString><DataType>decimal</DataType>
          <UnitOfMeasure>KGM</UnitOfMeasure></Quantity></MaterialRequirement>
    </SegmentRequirement></OperationsRequest></OperationsSchedule></DataArea>
</ProcessOperationsSchedule>"""


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plant]:
    with running_plant(tmp_path_factory.mktemp("plant")) as plant:
        yield plant


@pytest.fixture
def erp(plant: Plant) -> Iterator[httpx.Client]:
    """A caller of the ERP that has logged in and fetched its token."""
    login = (plant.secrets.erp_user, plant.secrets.erp_password)
    with httpx.Client(base_url=plant.erp.url, auth=login, timeout=5) as client:
        fetch_token(client)
        yield client
    plant.erp.command("clear-faults")


@pytest.fixture
def p100(plant: Plant) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {plant.secrets.mes_p100_token}", "Content-Type": "application/xml"}
    with httpx.Client(base_url=plant.mes_p100.url, headers=headers, timeout=5) as client:
        yield client


@pytest.fixture
def p200(plant: Plant) -> Iterator[httpx.Client]:
    login = (plant.secrets.mes_p200_user, plant.secrets.mes_p200_password)
    with httpx.Client(base_url=plant.mes_p200.url, auth=login, timeout=5) as client:
        yield client


@pytest.fixture
def new_order(plant: Plant) -> Callable[[], str]:
    """A number of an order that the ERP knows."""

    def publish() -> str:
        order: str = plant.erp.command("publish-orders", count=1, sites=["P100"])["orders"][0]
        return order

    return publish


def fetch_token(client: httpx.Client) -> None:
    answer = client.get(f"{CONFIRMATIONS}/", headers={"x-csrf-token": "Fetch"})
    client.headers["x-csrf-token"] = answer.headers["x-csrf-token"]


def a_confirmation(order: str, **overrides: Any) -> dict[str, Any]:
    return {
        "OrderID": order,
        "OrderOperation": "0010",
        "Sequence": "0",
        "ConfirmationYieldQuantity": "10",
        "ConfirmationUnitISOCode": "KGM",
        "ExternalSystemConfirmation": str(uuid4()),
        **overrides,
    }


def a_goods_issue(order: str, **overrides: Any) -> dict[str, Any]:
    item = {
        "Material": "RM-SEAL-12",
        "Plant": "P100",
        "GoodsMovementType": "261",
        "ManufacturingOrder": order,
        "QuantityInEntryUnit": "4",
        "EntryUnit": "PC",
    }
    return {
        "GoodsMovementCode": "03",
        "ReferenceDocument": uuid4().hex[:16],
        "to_MaterialDocumentItem": [item],
        **overrides,
    }


def a_release(order: str) -> dict[str, Any]:
    return {
        "order": {"id": order, "system": "erp"},
        "material": {"id": "FG-PASTE-A1"},
        "quantity": {"value": "125.5", "uom": "KGM"},
        "site": "P200",
        "operations": [{"id": "0010", "workCenter": "P2-MIX"}, {"id": "0020", "workCenter": "P2-FILL"}],
        "components": [{"line": "0010", "material": {"id": "RM-7"}, "quantity": "131.775", "uom": "KGM"}],
    }


def documents_of(plant: Plant, external_id: str) -> list[dict[str, Any]]:
    return [each for each in plant.erp.book()["documents"] if each["external_id"] == external_id]


def jobs_of(book: dict[str, Any], order: str) -> list[dict[str, Any]]:
    return [each for each in book["jobs"] if each["order_number"] == order]


def in_unit_of(plant: Plant, order: str) -> str:
    known = plant.erp.rows("SELECT unit FROM known_order WHERE number = ?", order)
    return {"PC": "PCE", "KG": "KGM"}[known[0]["unit"]]


def post_confirmation(erp: httpx.Client, plant: Plant, order: str, **overrides: Any) -> httpx.Response:
    unit = in_unit_of(plant, order)
    return erp.post(
        f"{CONFIRMATIONS}/ProdnOrdConf2", json=a_confirmation(order, ConfirmationUnitISOCode=unit, **overrides)
    )


def test_a_posting_without_a_token_is_refused_and_told_so(plant: Plant, new_order: Callable[[], str]) -> None:
    login = (plant.secrets.erp_user, plant.secrets.erp_password)

    answer = httpx.post(f"{plant.erp.url}{CONFIRMATIONS}/ProdnOrdConf2", auth=login, json=a_confirmation(new_order()))

    assert answer.status_code == 403
    assert answer.headers["x-csrf-token"] == "Required"


def test_an_expired_token_is_refused_until_a_fresh_one_is_fetched(
    plant: Plant, erp: httpx.Client, new_order: Callable[[], str]
) -> None:
    order = new_order()

    plant.erp.command("expire-tokens")
    refused = post_confirmation(erp, plant, order)
    fetch_token(erp)
    accepted = post_confirmation(erp, plant, order)

    assert (refused.status_code, accepted.status_code) == (403, 201)


def test_a_rotated_password_refuses_every_caller(plant: Plant, erp: httpx.Client) -> None:
    plant.erp.command("password", rotated=True)
    refused = erp.get(f"{CONFIRMATIONS}/$metadata")
    plant.erp.command("password", rotated=False)
    accepted = erp.get(f"{CONFIRMATIONS}/$metadata")

    assert (refused.status_code, accepted.status_code) == (401, 200)
    assert refused.json()["error"]["message"]["lang"] == "en"


def test_a_locked_order_takes_nothing_until_it_is_unlocked(
    plant: Plant, erp: httpx.Client, new_order: Callable[[], str]
) -> None:
    order = new_order()

    plant.erp.command("lock", order=order)
    locked = post_confirmation(erp, plant, order)
    plant.erp.command("unlock", order=order)
    unlocked = post_confirmation(erp, plant, order)

    assert (locked.status_code, unlocked.status_code) == (423, 201)
    assert "already being processed" in locked.json()["error"]["message"]["value"]


def test_a_confirmation_is_answered_with_document_numbers(
    plant: Plant, erp: httpx.Client, new_order: Callable[[], str]
) -> None:
    order = new_order()
    movement = {"Material": "FG", "Plant": "P100", "GoodsMovementType": "101", "GoodsMovementRefDocType": "F"}
    output = {**movement, "QuantityInEntryUnit": "10", "EntryUnit": "PC"}

    first = post_confirmation(erp, plant, order).json()["d"]
    second = post_confirmation(erp, plant, order, to_ProdnOrdConfMatlDocItm=[output]).json()["d"]

    assert first["ConfirmationGroup"] == second["ConfirmationGroup"]
    assert (first["ConfirmationCount"], second["ConfirmationCount"]) == ("1", "2")
    assert second["to_ProdnOrdConfMatlDocItm"]["results"][0]["MaterialDocument"].startswith("49")


@pytest.mark.parametrize("how", ["reset", "close"])
def test_a_posting_booked_before_the_line_was_cut_is_found_by_its_external_id(
    plant: Plant, erp: httpx.Client, new_order: Callable[[], str], how: str
) -> None:
    order, external_id = new_order(), str(uuid4())
    plant.erp.command("faults", effect="book-then-drop", order=order, how=how)

    with pytest.raises(httpx.TransportError):
        post_confirmation(erp, plant, order, ExternalSystemConfirmation=external_id)
    by_text = erp.get(
        f"{CONFIRMATIONS}/ProdnOrdConf2", params={"$filter": f"ExternalSystemConfirmation eq '{external_id}'"}
    )
    by_guid = erp.get(
        f"{CONFIRMATIONS}/ProdnOrdConf2", params={"$filter": f"ExternalSystemConfirmation eq guid'{external_id}'"}
    )

    assert len(documents_of(plant, external_id)) == 1
    assert by_text.json()["d"]["results"] == by_guid.json()["d"]["results"]
    assert by_guid.json()["d"]["results"][0]["ConfirmationCount"] == "1"


def test_a_posting_cut_before_it_was_booked_is_not_found(
    plant: Plant, erp: httpx.Client, new_order: Callable[[], str]
) -> None:
    order, reference = new_order(), uuid4().hex[:16]
    plant.erp.command("faults", effect="drop", entity="A_MaterialDocumentHeader", order=order)

    with pytest.raises(httpx.TransportError):
        erp.post(f"{MOVEMENTS}/A_MaterialDocumentHeader", json=a_goods_issue(order, ReferenceDocument=reference))
    found = erp.get(f"{MOVEMENTS}/A_MaterialDocumentHeader", params={"$filter": f"ReferenceDocument eq '{reference}'"})

    assert found.json() == {"d": {"results": []}}


def test_what_is_posted_twice_is_booked_twice(plant: Plant, erp: httpx.Client, new_order: Callable[[], str]) -> None:
    issue = a_goods_issue(new_order())

    numbers = [
        erp.post(f"{MOVEMENTS}/A_MaterialDocumentHeader", json=issue).json()["d"]["MaterialDocument"] for _ in range(2)
    ]

    booked = documents_of(plant, issue["ReferenceDocument"])
    assert [each["number"] for each in booked] == numbers
    assert len(set(numbers)) == 2
    assert {each["requests"] for each in booked} == {2}


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        ({"ReferenceDocument": "x" * 17}, "ReferenceDocument"),
        ({"GoodsMovementCode": "99"}, "GoodsMovementCode"),
        ({"to_MaterialDocumentItem": []}, "no items"),
        ({"Surprise": "1"}, "Surprise"),
    ],
)
def test_a_goods_movement_sap_would_not_take_is_refused(
    erp: httpx.Client, new_order: Callable[[], str], overrides: dict[str, Any], complaint: str
) -> None:
    answer = erp.post(f"{MOVEMENTS}/A_MaterialDocumentHeader", json=a_goods_issue(new_order(), **overrides))

    assert answer.status_code == 400
    assert complaint in answer.json()["error"]["message"]["value"]


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        ({"OrderID": "999999999"}, "does not exist"),
        ({"OrderOperation": "0099"}, "0099"),
        ({"ConfirmationUnitISOCode": "stk"}, "stk"),
        ({"ConfirmationYieldQuantity": "3.2999999999999998"}, "ConfirmationYieldQuantity"),
        ({"ExternalSystemConfirmation": "4711"}, "ExternalSystemConfirmation"),
    ],
)
def test_a_confirmation_sap_would_not_take_is_refused(
    erp: httpx.Client, new_order: Callable[[], str], overrides: dict[str, Any], complaint: str
) -> None:
    answer = erp.post(f"{CONFIRMATIONS}/ProdnOrdConf2", json=a_confirmation(new_order(), **overrides))

    assert answer.status_code == 400
    assert complaint in answer.json()["error"]["message"]["value"]


def test_commanded_failures_end_after_their_number(
    plant: Plant, erp: httpx.Client, new_order: Callable[[], str]
) -> None:
    order = new_order()
    plant.erp.command("faults", effect="fail", status=503, retry_after=2, times=1)
    plant.erp.command("faults", effect="book-then-fail", status=500, times=1)
    plant.erp.command("faults", effect="garble", times=1)

    answers = [post_confirmation(erp, plant, order) for _ in range(4)]

    assert [each.status_code for each in answers] == [503, 500, 201, 201]
    assert answers[0].headers["retry-after"] == "2"
    with pytest.raises(ValueError, match=r"Expecting|Unterminated"):
        json.loads(answers[2].content)
    assert len([each for each in plant.erp.book()["documents"] if each["order_number"] == order]) == 3


def test_an_order_sent_twice_with_one_key_is_booked_once(plant: Plant, p100: httpx.Client) -> None:
    key, document = str(uuid4()), SCHEDULE.format(order="000001000501", material="FG-1")

    answers = [
        p100.post("/b2mml/operations-schedule", content=document, headers={"Idempotency-Key": key}) for _ in range(2)
    ]

    jobs = jobs_of(plant.mes_p100.book(), "1000501")
    assert [each.status_code for each in answers] == [200, 200]
    assert len(jobs) == 1
    assert jobs[0]["requests"] == 2
    assert all(jobs[0]["job_id"] in each.text for each in answers)


def test_a_key_with_another_body_is_refused(p200: httpx.Client) -> None:
    headers = {"Idempotency-Key": str(uuid4())}

    first = p200.post("/orders", json=a_release("1000601"), headers=headers)
    second = p200.post("/orders", json=a_release("1000602"), headers=headers)

    assert (first.status_code, second.status_code) == (200, 422)


def test_an_unknown_material_is_refused_until_the_mes_is_corrected(plant: Plant, p100: httpx.Client) -> None:
    headers = {"Idempotency-Key": str(uuid4())}
    document = SCHEDULE.format(order="1000502", material="FG-NEW")

    plant.mes_p100.command("unknown", material="FG-NEW")
    refused = p100.post("/b2mml/operations-schedule", content=document, headers=headers)
    plant.mes_p100.command("correct", material="FG-NEW")
    accepted = p100.post("/b2mml/operations-schedule", content=document, headers=headers)

    assert (refused.status_code, accepted.status_code) == (422, 200)
    assert "FG-NEW" in refused.text
    assert len(jobs_of(plant.mes_p100.book(), "1000502")) == 1


@pytest.mark.parametrize("document", ["<not", "<Other/>", "<!DOCTYPE a><a/>"])
def test_p100_refuses_what_is_no_schedule(p100: httpx.Client, document: str) -> None:
    assert p100.post("/b2mml/operations-schedule", content=document).status_code == 400


def test_p200_refuses_connections_while_down_and_comes_back_on_its_port(plant: Plant, p200: httpx.Client) -> None:
    assert p200.get("/health").status_code == 200

    plant.mes_p200.command("down")
    with pytest.raises(httpx.TransportError):
        p200.get("/health")
    with pytest.raises(httpx.ConnectError):
        p200.get("/health")
    plant.mes_p200.command("up")

    assert p200.get("/health").status_code == 200


def test_an_order_taken_is_carried_out_and_written_to_the_outbox(plant: Plant, p200: httpx.Client) -> None:
    p200.post("/orders", json=a_release("000001000603"))

    def published() -> list[str]:
        return [each["type"] for each in plant.mes_p200.book()["published"] if each["order_number"] == "1000603"]

    wait_until(lambda: len(published()) == 6, within=5, what="the order is finished")
    assert published() == [
        "mes-p200.order-state.v1",
        "mes-p200.consumption.v1",
        "mes-p200.operation-confirm.v1",
        "mes-p200.operation-confirm.v1",
        "mes-p200.output.v1",
        "mes-p200.order-state.v1",
    ]


def test_a_killed_system_finds_its_book_again(plant: Plant, p200: httpx.Client) -> None:
    headers = {"Idempotency-Key": str(uuid4())}
    before = p200.post("/orders", json=a_release("1000604"), headers=headers).json()

    plant.mes_p200.kill()
    plant.mes_p200.start()
    after = p200.post("/orders", json=a_release("1000604"), headers=headers).json()

    assert before == after
    assert len(jobs_of(plant.mes_p200.book(), "1000604")) == 1


def test_equal_seeds_give_equal_orders(plant: Plant) -> None:
    command = {"count": 3, "start": 1000701, "seed": 7, "created": "2026-03-02T06:00:00+00:00"}

    plant.erp.command("publish-orders", **command)
    plant.erp.command("publish-orders", **command)

    sent = [each["message_id"] for each in plant.erp.book()["published"] if "10007" in (each["order_number"] or "")]
    assert sent[:3] == sent[3:]
    assert len(plant.erp.rows("SELECT DISTINCT body FROM publication WHERE order_number LIKE '10007%'")) == 3


def test_a_system_ends_cleanly_within_a_second_of_being_told(tmp_path: Path) -> None:
    with running_plant(tmp_path) as plant:
        told_at = time.monotonic()
        code = plant.mes_p100.stop()

    assert code == 0
    assert time.monotonic() - told_at < 3  # three systems, one second each
