"""The release of an order written as B2MML V0701 ProcessOperationsSchedule, in the order that its schema demands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree.ElementTree import Element, SubElement, tostring

from bus import Opened, Outgoing, TransformContext, ValueMap, transformer
from transformers.times import written

NAMESPACE = "http://www.mesa.org/xml/B2MML"
RELEASE = "0701"


@transformer(takes="order.release.v1", makes="b2mml.operations-schedule.v1")
def operations_schedule(opened: Opened, context: TransformContext) -> Outgoing:
    """One OperationsRequest; each operation is a SegmentRequirement, the last of which makes the product.

    An order without stated operations is one segment, named as the order: a request needs at least one.
    """
    release, units = opened.document, context.maps["units"]
    root = Element("ProcessOperationsSchedule", {"xmlns": NAMESPACE, "releaseID": RELEASE})
    created = written(opened.message.time or release["earliestStart"])
    area = _child(root, "ApplicationArea")
    _child(_child(area, "Sender"), "LogicalID", opened.message.system)
    _child(area, "CreationDateTime", created)
    _child(area, "BODID", context.key)
    content = _child(root, "DataArea")
    _child(content, "Process")
    schedule = _child(content, "OperationsSchedule")
    _child(schedule, "ID", opened.message.id)
    _child(schedule, "PublishedDate", created)
    scope = _child(schedule, "HierarchyScope")
    _child(scope, "EquipmentID", release["site"])
    _child(scope, "EquipmentLevel", "Site")
    _child(schedule, "OperationsType", "Production")
    _child(schedule, "ScheduleState", release["requestState"])
    _write_request(_child(schedule, "OperationsRequest"), release, units)
    return Outgoing(
        type="b2mml.operations-schedule.v1",
        content_type="application/xml",
        body=tostring(root, encoding="UTF-8", xml_declaration=True),
    )


def _write_request(request: Element, release: Mapping[str, Any], units: ValueMap) -> None:
    order, definition = release["order"]["id"], release.get("routing", release["material"])["id"]
    _child(request, "ID", order)
    _optional(request, "Version", release.get("revision"))
    _child(request, "StartTime", written(release["earliestStart"]))
    _child(request, "EndTime", written(release["dueDate"]))
    _child(request, "OperationsType", "Production")
    _optional(request, "Priority", release.get("priority"))
    _child(request, "RequestState", release["requestState"])
    _child(request, "OperationsDefinitionID", definition)
    operations: Sequence[Mapping[str, Any]] = release.get("operations") or [{"id": order}]
    first_of: dict[str, int] = {}
    for position, operation in enumerate(operations):
        first_of.setdefault(operation["id"], position)
    for position, operation in enumerate(operations):
        segment = _child(request, "SegmentRequirement")
        _write_operation(segment, operation, definition)
        for component in release.get("components", ()):
            if first_of.get(component.get("operation"), 0) == position:
                _write_component(segment, component, units)
    _write_product(segment, release, units)


def _write_operation(segment: Element, operation: Mapping[str, Any], definition: str) -> None:
    identity = operation["id"]
    _child(segment, "ID", identity)
    _optional(segment, "Description", operation.get("description"))
    _optional(segment, "EarliestStartTime", _moment(operation, "plannedStart"))
    _optional(segment, "LatestEndTime", _moment(operation, "plannedEnd"))
    _child(segment, "OperationsType", "Production")
    _child(segment, "ProcessSegmentID", identity)
    _child(segment, "OperationsDefinitionID", definition)
    _child(segment, "OperationsSegmentID", identity)
    if "workCenter" in operation:
        equipment = _child(segment, "EquipmentRequirement")
        _child(equipment, "ID", "1")
        _child(equipment, "EquipmentID", operation["workCenter"])
        _child(equipment, "EquipmentLevel", "WorkCenter")


def _write_component(segment: Element, component: Mapping[str, Any], units: ValueMap) -> None:
    _write_material(segment, component["line"], "Consumed", component, component.get("lot"), units)


def _write_product(segment: Element, release: Mapping[str, Any], units: ValueMap) -> None:
    _write_material(segment, release["order"]["id"], "Produced", release, release.get("lotToProduce"), units)


def _write_material(
    segment: Element, identity: str, use: str, what: Mapping[str, Any], lot: Mapping[str, Any] | None, units: ValueMap
) -> None:
    material = _child(segment, "MaterialRequirement")
    _child(material, "ID", identity)
    _child(material, "MaterialDefinitionID", what["material"]["id"])
    if lot is not None:
        _child(material, "MaterialLotID", lot["id"])
    _child(material, "MaterialUse", use)
    if "storageLocation" in what:
        storage = _child(material, "StorageLocation")
        _child(storage, "Location", what["storageLocation"])
        _child(storage, "LocationType", "Operational Location")
    quantity = _child(material, "Quantity")
    _child(quantity, "QuantityString", format(what["quantity"]["value"], "f"))
    _child(quantity, "DataType", "decimal")
    _child(quantity, "UnitOfMeasure", units.to_partner(what["quantity"]["uom"]))


def _moment(operation: Mapping[str, Any], name: str) -> str | None:
    return written(operation[name]) if name in operation else None


def _optional(parent: Element, name: str, content: object) -> None:
    if content is not None:
        _child(parent, name, str(content))


def _child(parent: Element, name: str, content: str | None = None) -> Element:
    child = SubElement(parent, name)
    child.text = content
    return child
