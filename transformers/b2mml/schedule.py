"""B2MML's operations schedule: the contract, its tolerant reader, and the release that a request becomes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any
from xml.etree.ElementTree import Element

from marshmallow import ValidationError, fields, validates_schema
from marshmallow.validate import Length

from bus import (
    Contract,
    Opened,
    OrderingKey,
    Outgoing,
    TransformContext,
    ValueMap,
    transformer,
    without_leading_zeros,
    write_json,
)
from transformers.b2mml.elements import child, children, quantity, read_document, stated, text
from transformers.canonical.fields import Amount, Identifier, LocalMoment, Part, Word
from transformers.canonical.quantities import canonical_quantity
from transformers.times import placed, written, zone_of

PRODUCED = ("Produced", "Material Produced", "Yield Produced")
CONSUMED = ("Consumed", "Material Consumed", "Consumable")


class Quantity(Part):
    QuantityString = Amount(required=True)
    UnitOfMeasure = Identifier(required=True)


class MaterialRequirement(Part):
    ID = Identifier()
    MaterialDefinitionID = Identifier(required=True)
    MaterialLotID = Identifier()
    MaterialUse = Word(*PRODUCED, *CONSUMED, required=True)
    Quantity = fields.Nested(Quantity, required=True)
    StorageLocation = Identifier()


class SegmentRequirement(Part):
    ID = Identifier(required=True)
    Description = fields.String()
    EarliestStartTime = LocalMoment()
    LatestEndTime = LocalMoment()
    EquipmentID = Identifier()
    MaterialRequirement = fields.List(fields.Nested(MaterialRequirement))
    SegmentRequirementChild = fields.List(fields.Nested(lambda: SegmentRequirement()))


class OperationsRequest(Part):
    ID = Identifier(longest=20, required=True)
    Version = Identifier()
    StartTime = LocalMoment(required=True)
    EndTime = LocalMoment(required=True)
    Priority = fields.Integer()
    RequestState = Word("Released", "Ready")
    OperationsDefinitionID = Identifier()
    SegmentRequirement = fields.List(fields.Nested(SegmentRequirement), required=True, validate=Length(min=1))

    @validates_schema(skip_on_field_errors=True)
    def _one_product(self, request: Mapping[str, Any], **_: object) -> None:
        found = sum(material["MaterialUse"] in PRODUCED for _, material in materials_of(request))
        if found != 1:
            raise ValidationError(f"One MaterialRequirement is Produced, not {found}.", "SegmentRequirement")


class OperationsSchedule(Part):
    ID = Identifier()
    OperationsRequest = fields.List(fields.Nested(OperationsRequest), required=True, validate=Length(min=1))


def materials_of(request: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """(segment of the first level, material requirement) of a request, those of nested segments included."""
    for segment in request["SegmentRequirement"]:
        open_segments = [segment]
        while open_segments:
            current = open_segments.pop(0)
            for material in current.get("MaterialRequirement", ()):
                yield segment, material
            open_segments.extend(current.get("SegmentRequirementChild", ()))


def read_schedule(body: bytes) -> dict[str, Any]:
    """OperationsSchedule, or the ProductionSchedule of older versions, as V0701 names its parts."""
    root, schedules = read_document(body, "OperationsSchedule", "ProductionSchedule")
    return stated(
        ID=text(schedules[0], "ID") or text(root, "ApplicationArea", "BODID"),
        PublishedDate=text(schedules[0], "PublishedDate"),
        OperationsRequest=[
            _request(request, schedule)
            for schedule in schedules
            for request in children(schedule, "OperationsRequest", "ProductionRequest")
        ],
    )


def _request(request: Element, schedule: Element) -> dict[str, Any]:
    return stated(
        ID=text(request, "ID"),
        Version=text(request, "Version"),
        StartTime=text(request, "StartTime") or text(schedule, "StartTime"),
        EndTime=text(request, "EndTime") or text(schedule, "EndTime"),
        Priority=text(request, "Priority"),
        RequestState=text(request, "RequestState"),
        OperationsDefinitionID=text(request, "OperationsDefinitionID") or text(request, "ProductProductionRuleID"),
        SegmentRequirement=[_segment(each) for each in children(request, "SegmentRequirement")],
    )


def _segment(segment: Element) -> dict[str, Any]:
    return stated(
        ID=text(segment, "ID") or text(segment, "ProcessSegmentID"),
        Description=text(segment, "Description"),
        EarliestStartTime=text(segment, "EarliestStartTime"),
        LatestEndTime=text(segment, "LatestEndTime"),
        EquipmentID=text(segment, "EquipmentRequirement", "EquipmentID"),
        MaterialRequirement=[
            *(_material(each) for each in children(segment, "MaterialRequirement")),
            *(_material(each, "Produced") for each in children(segment, "MaterialProducedRequirement")),
            *(_material(each, "Consumed") for each in children(segment, "MaterialConsumedRequirement")),
        ],
        SegmentRequirementChild=[
            _segment(each) for each in children(segment, "SegmentRequirementChild", "SegmentRequirement")
        ],
    )


def _material(material: Element, use: str | None = None) -> dict[str, Any]:
    return stated(
        ID=text(material, "ID"),
        MaterialDefinitionID=text(material, "MaterialDefinitionID"),
        MaterialLotID=text(material, "MaterialLotID"),
        MaterialUse=use or text(material, "MaterialUse"),
        Quantity=quantity(material),
        StorageLocation=text(child(material, "StorageLocation", "Location"), "Location")
        or text(material, "Location", "EquipmentID"),
    )


@transformer(takes="b2mml.operations-schedule.v1", makes="order.release.v1")
def order_releases(opened: Opened, context: TransformContext) -> list[Outgoing]:
    """A release for each request; a material without an ID is named by its position."""
    return [
        Outgoing(type="order.release.v1", body=write_json(_release(request, opened, context)))
        for request in opened.document["OperationsRequest"]
    ]


def _release(request: Mapping[str, Any], opened: Opened, context: TransformContext) -> dict[str, Any]:
    site, units = opened.message.site, context.maps["units"]
    zone = zone_of(site, context)

    def moment(found: datetime | None) -> str | None:
        return written(placed(found, zone)) if found else None

    components = []
    product: Mapping[str, Any] = {}
    for position, (segment, material) in enumerate(materials_of(request), start=1):
        if material["MaterialUse"] in PRODUCED:
            product = material
        else:
            components.append(_component(material, segment["ID"], position, units))
    return stated(
        order={"id": request["ID"], "system": opened.message.system},
        revision=request.get("Version"),
        site=site,
        requestState="Released",
        material={"id": product["MaterialDefinitionID"]},
        quantity=_quantity(product, units),
        earliestStart=moment(request["StartTime"]),
        dueDate=moment(request["EndTime"]),
        priority=request.get("Priority"),
        routing=_named(request.get("OperationsDefinitionID")),
        lotToProduce=_named(product.get("MaterialLotID")),
        storageLocation=product.get("StorageLocation"),
        operations=[
            stated(
                id=segment["ID"],
                description=segment.get("Description"),
                workCenter=segment.get("EquipmentID"),
                plannedStart=moment(segment.get("EarliestStartTime")),
                plannedEnd=moment(segment.get("LatestEndTime")),
            )
            for segment in request["SegmentRequirement"]
        ],
        components=components,
    )


def _component(material: Mapping[str, Any], operation: str, position: int, units: ValueMap) -> dict[str, Any]:
    return stated(
        line=material.get("ID", str(position)),
        material={"id": material["MaterialDefinitionID"]},
        quantity=_quantity(material, units),
        operation=operation,
        lot=_named(material.get("MaterialLotID")),
        storageLocation=material.get("StorageLocation"),
    )


def _quantity(material: Mapping[str, Any], units: ValueMap) -> dict[str, object]:
    stated_quantity = material["Quantity"]
    return canonical_quantity(stated_quantity["QuantityString"], stated_quantity["UnitOfMeasure"], units)


def _named(identity: str | None) -> dict[str, str] | None:
    return {"id": identity} if identity else None


OPERATIONS_SCHEDULE = Contract(
    type="b2mml.operations-schedule.v1",
    owner="ERP",
    support="mes-integration@plant.example",
    description="OperationsSchedule (V0701) or ProductionSchedule (V0401 and later), bare or as Process… or Sync….",
    schema=OperationsSchedule,
    reader=read_schedule,
    content_types=("application/xml", "text/xml"),
    identity=("ID",),
    key=OrderingKey("order", "OperationsRequest.*.ID", without_leading_zeros),
    searchable=("OperationsRequest.*.ID",),
    examples=(
        b"""<?xml version="1.0" encoding="UTF-8"?>
<SyncProductionSchedule xmlns="http://www.wbf.org/xml/B2MML-V0401" releaseID="">
  <ApplicationArea><Sender><LogicalID>planning</LogicalID></Sender></ApplicationArea>
  <DataArea><Sync/><ProductionSchedule><ID>S-88</ID><ProductionRequest>
    <ID>4711</ID><StartTime>2026-03-02T06:00:00</StartTime><EndTime>2026-03-02T18:00:00</EndTime>
    <SegmentRequirement><ID>0010</ID><Description>Mix</Description>
      <MaterialRequirement><MaterialDefinitionID>FG-PASTE-A1</MaterialDefinitionID><MaterialUse>Produced</MaterialUse>
        <Quantity><QuantityString>250.000</QuantityString><UnitOfMeasure>KG</UnitOfMeasure></Quantity>
      </MaterialRequirement>
      <MaterialRequirement><MaterialDefinitionID>RM-PIGMENT-7</MaterialDefinitionID><MaterialUse>Consumed</MaterialUse>
        <Quantity><QuantityString>262.49999999999994</QuantityString><UnitOfMeasure>KG</UnitOfMeasure></Quantity>
      </MaterialRequirement>
    </SegmentRequirement>
  </ProductionRequest></ProductionSchedule></DataArea>
</SyncProductionSchedule>""",
    ),
)

CONTRACTS = (OPERATIONS_SCHEDULE,)
