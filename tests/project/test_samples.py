"""Real documents of real systems, read from the folder in PLANTBUS_SAMPLES: taken, or refused with a clear reason."""

import gzip
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest
from lxml import etree

from bus import MessageInvalid, Violation
from tests.project.project import contracts, example, only, opened, outputs
from tests.project.test_routes import receivers
from transformers.b2mml.performance_reports import performance_reports
from transformers.b2mml.schedule_writer import operations_schedule
from transformers.sap.confirmation import confirmation_posting
from transformers.sap.material_document import goods_issue, goods_receipt
from transformers.sap.production_order import order_release

pytestmark = pytest.mark.samples

FOLDER = Path(os.environ.get("PLANTBUS_SAMPLES", "/nowhere"))
FILES = sorted(path for path in FOLDER.rglob("*") if path.is_file() and path.parent.name != "schemas")


def entities(name: str) -> list[dict[str, Any]]:
    """The entities of a recorded answer: they stand in the log's `message`."""
    log = json.loads((FOLDER / "sap-odata" / f"{name}.json").read_bytes())
    found: list[dict[str, Any]] = log["message"]
    return found


def order_1000000(**changes: Any) -> bytes:
    (order,) = entities("production-order-01-general-sample")
    return json.dumps(order | changes).encode()


def published(name: str, schema: str) -> dict[str, Any]:
    """The properties of an entity in SAP's published description of a service."""
    description = json.loads(gzip.decompress((FOLDER / "schemas" / f"{name}.json.gz").read_bytes()))
    found: dict[str, Any] = description["components"]["schemas"][schema]["properties"]
    return found


def operations_schedule_schema(folder: Path) -> etree.XMLSchema:
    """The published schema, unpacked into the folder."""
    with tarfile.open(FOLDER / "schemas" / "b2mml-batchml-V0701-xsd.tar.gz") as archive:
        if hasattr(tarfile, "data_filter"):  # Python 3.11.4 and later
            archive.extraction_filter = tarfile.data_filter
        archive.extractall(folder)
    return etree.XMLSchema(etree.parse(next(folder.rglob("B2MML-OperationsSchedule.xsd"))))


@pytest.fixture(scope="module")
def operations_schedule_xsd(tmp_path_factory: pytest.TempPathFactory) -> etree.XMLSchema:
    return operations_schedule_schema(tmp_path_factory.mktemp("xsd"))


def test_the_real_order_is_technically_completed_and_goes_nowhere() -> None:
    assert receivers("sap.production-order.v2", order_1000000()) == []


def test_the_real_order_with_the_release_flag_edited_is_released() -> None:
    body = order_1000000(
        OrderIsReleased="X",
        OrderIsTechnicallyCompleted="",
        to_ProductionOrderComponent=entities("production-order-02-component-sample"),
        to_ProductionOrderOperation={"results": entities("production-order-04-operation-sample")},
    )

    assert receivers("sap.production-order.v2", body) == ["sap-orders-become-releases"]
    release = only(outputs(order_release, opened("sap.production-order.v2", body), "erp"))
    assert release["order"]["id"] == "1000000"
    assert release["quantity"] == {"value": "500", "uom": "PCE"}
    assert release["earliestStart"] == "2017-06-06T07:00:00+02:00"
    assert release["dueDate"] == "2017-06-07T10:22:30+02:00"
    assert [operation["id"] for operation in release["operations"]] == ["0010", "0020"]
    assert release["components"][0]["line"] == "1/8"


def test_the_real_order_that_was_not_expanded_is_released_without_operations_being_stated() -> None:
    body = order_1000000(OrderIsReleased="X", OrderIsTechnicallyCompleted="")

    release = only(outputs(order_release, opened("sap.production-order.v2", body), "erp"))

    assert "operations" not in release
    assert "components" not in release


@pytest.mark.parametrize("index", [0, 1])
def test_what_we_send_to_an_mes_is_valid_against_the_published_xsd(
    index: int, operations_schedule_xsd: etree.XMLSchema
) -> None:
    body = example("order.release.v1", index).replace(b"P200", b"P100")

    (schedule,) = outputs(operations_schedule, opened("order.release.v1", body), "mes-p100")

    operations_schedule_xsd.assertValid(etree.fromstring(schedule.body))


def check_against(properties: dict[str, Any], posting: dict[str, Any]) -> None:
    for name, value in posting.items():
        assert name in properties, f"{name} is no property of the entity"
        longest = properties[name].get("maxLength")
        if longest is not None:
            assert isinstance(value, str)
            assert len(value) <= longest, name


def test_the_fields_of_our_confirmation_are_those_that_sap_publishes_and_answers() -> None:
    service = "API_PROD_ORDER_CONFIRMATION_2_SRV"
    message = opened("operation.confirm.v1", example("operation.confirm.v1"))

    posting = only(outputs(confirmation_posting, message, "erp"))

    check_against(published("OP_API_PROD_ORDER_CONFIRMATIO_2_SRV_0001", f"{service}.ProdnOrdConf2Type-create"), posting)
    (answered, *_) = entities("production-order-confirmation-conf-by-orderid-01-confirmation-sample")
    assert set(posting) <= set(answered)
    for name, value in posting.items():
        assert type(value) is type(answered[name]), name


@pytest.mark.parametrize(
    ("transformer", "type_name"),
    [(goods_receipt, "production.report-output.v1"), (goods_issue, "material.post-consumption.v1")],
)
def test_the_fields_of_our_goods_movements_are_those_that_sap_publishes_and_answers(
    transformer: Any, type_name: str
) -> None:
    name, service = "OP_API_MATERIAL_DOCUMENT_SRV", "API_MATERIAL_DOCUMENT_SRV"

    posting = only(outputs(transformer, opened(type_name, example(type_name)), "erp"))

    (item,) = posting["to_MaterialDocumentItem"]["results"]
    check_against(published(name, f"{service}.A_MaterialDocumentHeaderType-create"), posting)
    check_against(published(name, f"{service}.A_MaterialDocumentItemType-create"), item)
    (answered_header,) = entities("material-document-header-01-sample")
    (answered_item,) = entities("material-document-header-02-item-sample")
    assert set(posting) <= set(answered_header)
    assert set(item) - {"InventoryUsabilityCode"} <= set(answered_item)


def test_a_real_schedule_that_lacks_what_a_release_needs_is_refused_with_a_list_of_it() -> None:
    (schedule,) = (FOLDER / "b2mml-mesa").glob("PRO-*.xml")

    with pytest.raises(MessageInvalid) as caught:
        opened("b2mml.operations-schedule.v1", schedule.read_bytes())

    container = "OperationsRequest[0].SegmentRequirement[0].SegmentRequirementChild[0].SegmentRequirementChild[0]"
    assert [violation.place for violation in caught.value.violations] == [
        "OperationsRequest[0].StartTime",
        "OperationsRequest[0].EndTime",
        f"{container}.MaterialRequirement[0].MaterialUse",
        f"{container}.MaterialRequirement[1].MaterialUse",
    ]


def test_a_real_performance_of_an_older_version_becomes_an_output() -> None:
    body = (FOLDER / "commander4j" / "S95_ProductionPerformance.xml").read_bytes()

    output = only(outputs(performance_reports, opened("b2mml.performance.v1", body, system="mes-p100"), "mes-p100"))

    assert output["order"]["id"] == "20725187"
    assert output["quantity"] == {"value": "5616", "uom": "EA"}
    assert output["lot"] == {"id": "6214093310", "sublot": "00350001615021853044"}
    assert output["expiryDate"] == "2018-08-31"
    assert output["at"] == "2016-09-07T23:28:03+02:00"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(FOLDER)))
def test_every_real_document_is_taken_or_refused_with_a_reason_whatever_type_it_claims(path: Path) -> None:
    body = path.read_bytes()
    taken = []
    reasons: list[Violation] = []
    for contract in contracts().values():
        try:
            contract.subject_of(contract.read(body))
        except MessageInvalid as error:
            reasons += error.violations
        else:
            taken.append(contract.type)

    assert all(reason.rule for reason in reasons)
    assert taken == (["b2mml.performance.v1"] if path.name == "S95_ProductionPerformance.xml" else [])
