"""The B2MML V0701 that MES P100 reads and writes: operations schedule in, operations performance out."""

import xml.etree.ElementTree as ET
from codecs import BOM_UTF8
from datetime import datetime
from decimal import Decimal, InvalidOperation

from tests.plant.shopfloor import Component, Operation, Result, WorkOrder

NAMESPACE = "http://www.mesa.org/xml/B2MML"

ET.register_namespace("", NAMESPACE)


class Unreadable(Exception):
    """Not an operations schedule this MES can use; the text says where."""


def read_schedule(document: bytes, *, site: str) -> WorkOrder:
    """The one OperationsRequest of a ProcessOperationsSchedule.

    Raises:
        Unreadable: not well-formed, another document, or something an order needs is missing.
    """
    root = _parse(document)
    if root.tag != f"{{{NAMESPACE}}}ProcessOperationsSchedule":
        raise Unreadable(f"the document is {root.tag}, expected ProcessOperationsSchedule in {NAMESPACE}")
    requests = root.findall(f".//{_n('OperationsRequest')}")
    if len(requests) != 1:
        raise Unreadable(f"{len(requests)} OperationsRequest, expected one")
    request = requests[0]
    segments = request.findall(_n("SegmentRequirement"))
    if not segments:
        raise Unreadable("OperationsRequest has no SegmentRequirement")
    material, quantity, unit = _what_is_produced(request)
    return WorkOrder(
        order=_text(request, "ID"),
        material=material,
        quantity=quantity,
        unit=unit,
        site=site,
        operations=tuple(_operation(each) for each in segments),
        components=tuple(_components(segments)),
    )


def write_performance(work: WorkOrder, result: Result, *, sender: str, bom: bool = False) -> bytes:
    """ProcessOperationsPerformance of one operation: confirmation, consumptions and, at the last one, the output."""
    root = ET.Element(_n("ProcessOperationsPerformance"), {"releaseID": "V0701"})
    area = _child(root, "ApplicationArea")
    _child(_child(area, "Sender"), "LogicalID", sender)
    _child(area, "CreationDateTime", _moment(result.finish))
    _child(area, "BODID", str(result.id))
    content = _child(root, "DataArea")
    _child(content, "Process")
    performance = _child(content, "OperationsPerformance")
    _child(performance, "ID", str(result.id))
    _child(performance, "PublishedDate", _moment(result.finish))
    scope = _child(performance, "HierarchyScope")
    _child(scope, "EquipmentID", work.site)
    _child(scope, "EquipmentLevel", "Site")
    _child(performance, "OperationsType", "Production")
    response = _child(performance, "OperationsResponse")
    _child(response, "ID", f"{work.order}-{result.operation.id}")
    _child(response, "OperationsRequestID", work.order)
    _child(response, "ResponseState", "Completed" if result.is_final else "Running")
    _write_segment(_child(response, "SegmentResponse"), work, result)
    document: bytes = ET.tostring(root, encoding="UTF-8", xml_declaration=True)
    return BOM_UTF8 + document if bom else document


def write_acknowledgement(order: str, job_id: str, *, sender: str, now: datetime) -> bytes:
    """AcknowledgeOperationsSchedule: the schedule's ID is the job, the request's ID the order it belongs to."""
    root = ET.Element(_n("AcknowledgeOperationsSchedule"), {"releaseID": "V0701"})
    area = _child(root, "ApplicationArea")
    _child(_child(area, "Sender"), "LogicalID", sender)
    _child(area, "CreationDateTime", _moment(now))
    content = _child(root, "DataArea")
    criteria = _child(_child(content, "Acknowledge"), "ResponseCriteria")
    _child(criteria, "ResponseExpression").set("actionCode", "Accepted")
    schedule = _child(content, "OperationsSchedule")
    _child(schedule, "ID", job_id)
    request = _child(schedule, "OperationsRequest")
    _child(request, "ID", order)
    _child(request, "RequestState", "Ready")
    segment = _child(request, "SegmentRequirement")
    for name in ("ID", "ProcessSegmentID", "OperationsDefinitionID", "OperationsSegmentID"):
        _child(segment, name, order)
    document: bytes = ET.tostring(root, encoding="UTF-8", xml_declaration=True)
    return document


def _write_segment(segment: ET.Element, work: WorkOrder, result: Result) -> None:
    _child(segment, "ID", str(result.id))
    _child(segment, "ActualStartTime", _moment(result.begin))
    _child(segment, "ActualEndTime", _moment(result.finish))
    _child(segment, "ProcessSegmentID", result.operation.segment)
    _child(segment, "SegmentRequirementID", result.operation.requirement)
    _child(segment, "OperationsSegmentID", result.operation.id)
    _child(segment, "SegmentState", "Completed")
    for name, quantity in (("Yield", result.good), ("Scrap", result.scrap), ("Rework", result.rework)):
        _segment_data(segment, name, f"{quantity:f}", "decimal", work.unit)
    _segment_data(segment, "Final", "true", "boolean")
    if result.scrap:
        _segment_data(segment, "ScrapReason", "MAT", "Code")
    person = _child(segment, "PersonnelActual")
    _child(person, "ID", "1")
    _child(person, "PersonID", result.worker)
    if result.operation.work_centre:
        machine = _child(segment, "EquipmentActual")
        _child(machine, "ID", "1")
        _child(machine, "EquipmentID", result.operation.work_centre)
    for used in result.consumed:
        component = used.component
        _material(segment, str(used.id), component.material, used.lot, "Consumed", used.quantity, component.unit)
    if result.output is not None:
        made = result.output
        _material(segment, str(made.id), work.material, made.lot, "Produced", made.quantity, work.unit)


def _segment_data(segment: ET.Element, name: str, value: str, kind: str, unit: str = "") -> None:
    entry = _child(segment, "SegmentData")
    _child(entry, "ID", name)
    content = _child(entry, "Value")
    _child(content, "ValueString", value)
    _child(content, "DataType", kind)
    if unit:
        _child(content, "UnitOfMeasure", unit)


def _material(
    segment: ET.Element, identity: str, material: str, lot: str, use: str, quantity: Decimal, unit: str
) -> None:
    actual = _child(segment, "MaterialActual")
    _child(actual, "ID", identity)
    _child(actual, "MaterialDefinitionID", material)
    _child(actual, "MaterialLotID", lot)
    _child(actual, "MaterialUse", use)
    place = _child(actual, "StorageLocation")
    _child(place, "Location", "FG01" if use == "Produced" else "RM01")
    _child(place, "LocationType", "Operational Location")
    amount = _child(actual, "Quantity")
    _child(amount, "QuantityString", f"{quantity:f}")
    _child(amount, "DataType", "decimal")
    _child(amount, "UnitOfMeasure", unit)


def _parse(document: bytes) -> ET.Element:
    if b"<!DOCTYPE" in document:
        raise Unreadable("a DOCTYPE is not accepted")
    try:
        return ET.fromstring(document)
    except ET.ParseError as error:
        raise Unreadable(f"not well-formed: {error}") from error


def _what_is_produced(request: ET.Element) -> tuple[str, Decimal, str]:
    for requirement in request.iter(_n("MaterialRequirement")):
        if requirement.findtext(_n("MaterialUse")) in ("Produced", "Material Produced", "Yield Produced"):
            return (_text(requirement, "MaterialDefinitionID"), *_quantity(requirement))
    raise Unreadable("no MaterialRequirement with MaterialUse Produced")


def _operation(segment: ET.Element) -> Operation:
    machine = segment.find(f"{_n('EquipmentRequirement')}/{_n('EquipmentID')}")
    return Operation(
        id=_operation_id(segment),
        requirement=_text(segment, "ID"),
        segment=_text(segment, "ProcessSegmentID"),
        work_centre=(machine.text or "").strip() if machine is not None else "",
    )


def _operation_id(segment: ET.Element) -> str:
    """The one of OperationsSegmentID and ID that is a four-digit operation; else the ID."""
    written = (_text(segment, "OperationsSegmentID"), _text(segment, "ID"))
    return next((each for each in written if len(each) == 4 and each.isdigit()), written[1])


def _components(segments: list[ET.Element]) -> list[Component]:
    components = []
    for segment in segments:
        for requirement in segment.iter(_n("MaterialRequirement")):
            if requirement.findtext(_n("MaterialUse")) in ("Consumed", "Material Consumed"):
                quantity, unit = _quantity(requirement)
                components.append(
                    Component(
                        line=_text(requirement, "ID"),
                        material=_text(requirement, "MaterialDefinitionID"),
                        quantity=quantity,
                        unit=unit,
                        operation=_operation_id(segment),
                    )
                )
    return components


def _quantity(requirement: ET.Element) -> tuple[Decimal, str]:
    quantity = requirement.find(_n("Quantity"))
    if quantity is None:
        raise Unreadable(f"MaterialRequirement {_text(requirement, 'ID')} has no Quantity")
    written = _text(quantity, "QuantityString")
    try:
        return Decimal(written), _text(quantity, "UnitOfMeasure")
    except InvalidOperation as error:
        raise Unreadable(f"QuantityString {written!r} is not a number") from error


def _text(parent: ET.Element, name: str) -> str:
    text = (parent.findtext(_n(name)) or "").strip()
    if not text:
        raise Unreadable(f"{parent.tag.partition('}')[2]} has no {name}")
    return text


def _child(parent: ET.Element, name: str, text: str | None = None) -> ET.Element:
    child = ET.SubElement(parent, _n(name))
    child.text = text
    return child


def _n(name: str) -> str:
    return f"{{{NAMESPACE}}}{name}"


def _moment(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds")
