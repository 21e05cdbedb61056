"""What transformers do where golden files do not reach: noise, zones, words that no map knows."""

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from bus import MessageInvalid, PermanentFailure, short_key
from tests.project.project import KEY, context, contracts, example, only, opened, outputs
from transformers.b2mml.performance_reports import performance_reports
from transformers.b2mml.schedule import order_releases
from transformers.b2mml.schedule_writer import operations_schedule
from transformers.canonical.quantities import rounded
from transformers.mes_p200.to_canonical import operation_confirm, order_state_changed
from transformers.sap.confirmation import confirmation_posting
from transformers.sap.material_document import goods_issue, goods_receipt
from transformers.sap.production_order import order_release


def changed(type_name: str, **changes: Any) -> bytes:
    return json.dumps(json.loads(example(type_name)) | changes).encode()


def sap_order(**changes: Any) -> bytes:
    return json.dumps(json.loads(example("sap.production-order.v2"))["d"] | changes).encode()


@pytest.mark.parametrize(
    ("written", "unit", "meant"),
    [
        ("3.2999999999999998", "KGM", "3.3"),
        ("0.33400000000000002", "KGM", "0.334"),
        ("396.00000000000006", "KGM", "396"),
        ("5616.000", "EA", "5616"),
        ("0.0004", "KGM", "0"),
        ("1000", "PCE", "1000"),
        ("999999999999999", "TNE", "999999999999999"),
    ],
)
def test_a_quantity_loses_the_noise_of_a_binary_float_and_nothing_else(written: str, unit: str, meant: str) -> None:
    assert f"{rounded(Decimal(written), unit)}" == meant


@pytest.mark.parametrize(
    "form",
    [
        lambda entity: entity,
        lambda entity: {"d": entity},
        lambda entity: entity | {"to_ProductionOrderComponent": entity["to_ProductionOrderComponent"]["results"]},
    ],
    ids=["bare", "in d", "V4"],
)
def test_an_sap_order_is_read_in_every_envelope_alike(form: Any) -> None:
    entity = json.loads(sap_order())

    release = only(outputs(order_release, opened("sap.production-order.v2", json.dumps(form(entity)).encode()), "erp"))

    assert release["components"][0]["quantity"] == {"value": "396", "uom": "KGM"}
    assert release["operations"][0]["id"] == "0010"


@pytest.mark.parametrize(
    "written",
    ["/Date(1782864000000)/", "/Date(1782864000000+0060)/", "2026-07-01T09:00:00+09:00", "2026-07-01", "20260701"],
)
def test_a_day_of_sap_is_the_same_in_every_form(written: str) -> None:
    body = sap_order(MfgOrderScheduledStartDate=written, MfgOrderScheduledEndDate="2026-07-05")

    release = only(outputs(order_release, opened("sap.production-order.v2", body), "erp"))

    assert release["earliestStart"] == "2026-07-01T07:00:00+02:00"


@pytest.mark.parametrize(
    "written", ["", None, "soon", "/Date(99999999999999999)/", "/Date(999999999999999)/", 20260701.5]
)
def test_a_day_that_is_none_is_refused_when_the_order_comes(written: Any) -> None:
    with pytest.raises(MessageInvalid, match="MfgOrderScheduledEndDate"):
        opened("sap.production-order.v2", sap_order(MfgOrderScheduledEndDate=written))


def test_the_release_is_of_the_site_in_whose_name_the_order_came() -> None:
    message = opened("sap.production-order.v2", sap_order(ProductionPlant="1710"), site="P200")

    assert only(outputs(order_release, message, "erp"))["site"] == "P200"


@pytest.mark.parametrize("unit", ["XYZ", "pc"])
def test_a_unit_that_no_map_knows_is_a_missing_value_and_names_map_and_word(unit: str) -> None:
    message = opened("sap.production-order.v2", sap_order(ProductionUnit=unit))

    with pytest.raises(PermanentFailure, match=rf"erp\.units \(version 1\).*'{unit}'") as caught:
        order_release(message, context("erp"))
    assert caught.value.cause == "value-map.missing"


def test_a_site_without_a_zone_is_a_missing_value() -> None:
    with pytest.raises(PermanentFailure, match=r"erp\.timezones"):
        order_release(opened("sap.production-order.v2", sap_order(), site="P300"), context("erp"))


def test_the_erp_can_find_a_confirmation_by_our_key() -> None:
    posting = only(
        outputs(confirmation_posting, opened("operation.confirm.v1", example("operation.confirm.v1")), "erp")
    )

    assert posting["ExternalSystemConfirmation"] == KEY


@pytest.mark.parametrize(
    ("transformer", "type_name"),
    [(goods_receipt, "production.report-output.v1"), (goods_issue, "material.post-consumption.v1")],
)
def test_the_erp_can_find_a_goods_movement_by_our_short_key(transformer: Any, type_name: str) -> None:
    posting = only(outputs(transformer, opened(type_name, example(type_name)), "erp"))

    assert posting["ReferenceDocument"] == short_key(KEY)
    assert len(posting["ReferenceDocument"]) == 16


def test_the_posting_date_is_the_plants_day_and_a_stated_one_goes_first() -> None:
    def posting_date(**changes: Any) -> str:
        body = changed("material.post-consumption.v1", at="2026-03-02T23:30:00Z", **changes)
        return str(only(outputs(goods_issue, opened("material.post-consumption.v1", body), "erp"))["PostingDate"])

    assert posting_date() == f"/Date({int(datetime(2026, 3, 3, tzinfo=UTC).timestamp())}000)/"
    assert posting_date(businessDate="2026-03-02") == f"/Date({int(datetime(2026, 3, 2, tzinfo=UTC).timestamp())}000)/"


def test_a_lot_too_long_for_the_erp_is_refused_by_the_contract_of_the_posting() -> None:
    message = opened("production.report-output.v1", changed("production.report-output.v1", lot={"id": "L" * 11}))

    with pytest.raises(MessageInvalid, match=r"to_MaterialDocumentItem\[0\]\.Batch"):
        outputs(goods_receipt, message, "erp")


@pytest.mark.parametrize("status", ["Unrestricted", "QualityInspection", "Blocked"])
def test_output_that_must_not_be_used_is_not_posted_as_unrestricted(status: str) -> None:
    message = opened("production.report-output.v1", changed("production.report-output.v1", stockStatus=status))

    (item,) = only(outputs(goods_receipt, message, "erp"))["to_MaterialDocumentItem"]["results"]

    assert (item["InventoryUsabilityCode"] == "") is (status == "Unrestricted")


def test_what_was_written_for_one_mes_can_be_read_as_a_release_again() -> None:
    release = opened("order.release.v1", example("order.release.v1"))
    (schedule,) = outputs(operations_schedule, release, "mes-p100")

    again = only(outputs(order_releases, opened(schedule.type, schedule.body), "mes-p100"))

    first = json.loads(release.message.body)
    for name in ("order", "revision", "quantity", "earliestStart", "dueDate", "priority", "lotToProduce"):
        assert again[name] == first[name]
    assert again["components"][0]["line"] == "1000123/1"


def test_each_component_goes_with_its_operation_and_one_without_with_the_first() -> None:
    line = json.loads(example("order.release.v1"))["components"][0]
    body = changed(
        "order.release.v1",
        operations=[{"id": "0010"}, {"id": "0020"}, {"id": "0020", "sequence": "1"}],
        components=[line | {"line": "b", "operation": "0020"}, line | {"line": "a", "operation": "9999"}],
    )

    (schedule,) = outputs(operations_schedule, opened("order.release.v1", body), "mes-p100")

    (request,) = opened(schedule.type, schedule.body).document["OperationsRequest"]
    segments = [[each["ID"] for each in segment["MaterialRequirement"]] for segment in request["SegmentRequirement"]]
    assert segments == [["a"], ["b"], ["000001000123"]]


def performance(*replacements: tuple[bytes, bytes]) -> Any:
    body = example("b2mml.performance.v1")
    for old, new in replacements:
        assert old in body
        body = body.replace(old, new, 1)
    return opened("b2mml.performance.v1", body, system="mes-p100")


@pytest.mark.parametrize(
    ("replacement", "why"),
    [
        ((b"<ValueString>118<", b"<ValueString>118,5<"), "SegmentData Yield: '118,5' is not an amount"),
        ((b"<ValueString>2<", b"<ValueString>NaN<"), "SegmentData Scrap: 'NaN' is not an amount"),
        ((b"<UnitOfMeasure>PC</UnitOfMeasure>", b""), "SegmentData Yield: the UnitOfMeasure is missing"),
        ((b"<UnitOfMeasure>PC<", b"<UnitOfMeasure>KG<"), "SegmentData Scrap: the unit is not KGM"),
    ],
)
def test_segment_data_that_cannot_be_booked_fail_and_say_why(replacement: tuple[bytes, bytes], why: str) -> None:
    with pytest.raises(PermanentFailure, match=why):
        performance_reports(performance(replacement), context("mes-p100"))


@pytest.mark.parametrize(
    ("replacement", "place"),
    [
        ((b"<MaterialUse>Consumed<", b"<MaterialUse>Inventoried<"), r"MaterialActual\[0\]\.MaterialUse"),
        ((b"ProcessOperationsPerformance", b"CancelOperationsPerformance"), "taken are"),
        ((b"<QuantityString>396<", b"<QuantityString>many<"), r"Quantity\.QuantityString: A decimal number"),
    ],
)
def test_a_performance_that_says_something_else_is_refused(replacement: tuple[bytes, bytes], place: str) -> None:
    body = example("b2mml.performance.v1").replace(*replacement)

    with pytest.raises(MessageInvalid, match=place):
        opened("b2mml.performance.v1", body)


def test_a_performance_that_reports_nothing_is_refused() -> None:
    body = (
        b"<OperationsPerformance><ID>1</ID><PublishedDate>2026-03-02T09:51:31</PublishedDate><OperationsResponse>"
        b"<OperationsRequestID>1</OperationsRequestID><SegmentResponse><ID>1</ID></SegmentResponse>"
        b"</OperationsResponse></OperationsPerformance>"
    )

    with pytest.raises(MessageInvalid, match="Neither SegmentData nor MaterialActual"):
        opened("b2mml.performance.v1", body)


def test_a_performance_of_two_orders_names_both() -> None:
    body = example("b2mml.performance.v1")
    start, end = body.index(b"<OperationsResponse>"), body.index(b"</OperationsPerformance>")
    second = body[start:end].replace(b"000001000123", b"4711")

    with pytest.raises(MessageInvalid, match=r"key\.several.*order:1000123, order:4711"):
        opened("b2mml.performance.v1", body[:end] + second + body[end:])


def test_a_native_time_is_that_of_the_plants_clock_in_winter_and_in_summer() -> None:
    def at(written: str) -> str:
        message = opened("mes-p200.order-state.v1", changed("mes-p200.order-state.v1", at=written), site="P200")
        return str(only(outputs(order_state_changed, message, "mes-p200"))["at"])

    assert at("2026-03-28 12:00:00") == "2026-03-28T12:00:00+01:00"
    assert at("2026-03-29 12:00:00") == "2026-03-29T12:00:00+02:00"
    assert at("2026-10-25 02:30:00") == "2026-10-25T02:30:00+02:00"  # comes twice: the first
    assert at("2026-03-02T07:04:00Z") == "2026-03-02T07:04:00+00:00"


def test_a_status_that_no_map_knows_is_a_missing_value() -> None:
    message = opened("mes-p200.order-state.v1", changed("mes-p200.order-state.v1", to="KAFFEEPAUSE"), site="P200")

    with pytest.raises(PermanentFailure, match=r"mes-p200\.order-states.*KAFFEEPAUSE"):
        order_state_changed(message, context("mes-p200"))


def test_a_confirmation_without_scrap_needs_no_reason() -> None:
    body = changed("mes-p200.operation-confirm.v1", scrap="0", scrapReason=None)

    confirm = only(outputs(operation_confirm, opened("mes-p200.operation-confirm.v1", body, site="P200"), "mes-p200"))

    assert "scrapReason" not in confirm
    assert confirm["scrap"] == "0"


def test_every_canonical_type_that_goes_to_the_erp_is_of_the_same_lane_as_its_posting() -> None:
    for type_name, transformer in (
        ("operation.confirm.v1", confirmation_posting),
        ("production.report-output.v1", goods_receipt),
        ("material.post-consumption.v1", goods_issue),
    ):
        message = opened(type_name, example(type_name))
        (posting,) = outputs(transformer, message, "erp")
        contract = contracts()[posting.type]
        assert contract.subject_of(contract.read(posting.body)) == message.message.subject
