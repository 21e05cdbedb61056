"""B2MML's operations performance: the contract and its tolerant reader."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from xml.etree.ElementTree import Element

from marshmallow import ValidationError, fields, validates_schema
from marshmallow.validate import Length

from bus import Contract, OrderingKey, without_leading_zeros
from transformers.b2mml.elements import child, children, extension, quantity, read_document, stated, text
from transformers.b2mml.schedule import CONSUMED, PRODUCED, Quantity
from transformers.canonical.fields import Identifier, LocalMoment, Part, Word

BESIDES = {"Co-product Produced": "Co-product", "By-product Produced": "By-product"}
"""What else than the product comes out of an order, and the canonical word for it."""


class MaterialActual(Part):
    ID = Identifier()
    MaterialUse = Word(*CONSUMED, *PRODUCED, *BESIDES, required=True)
    MaterialDefinitionID = Identifier(required=True)
    MaterialLotID = Identifier()
    MaterialSubLotID = Identifier()
    Quantity = fields.Nested(Quantity, required=True)
    StorageLocation = Identifier()
    StockType = Identifier()
    ManufactureDate = fields.Date()
    ExpirationDate = fields.Date()


class SegmentData(Part):
    ID = Identifier(required=True)
    ValueString = fields.String(required=True)
    UnitOfMeasure = Identifier()


class SegmentResponse(Part):
    ID = Identifier(required=True)
    SegmentRequirementID = Identifier(required=True)
    ActualStartTime = LocalMoment()
    ActualEndTime = LocalMoment(required=True)
    SegmentState = fields.String()
    PersonID = Identifier()
    EquipmentID = Identifier()
    SegmentData = fields.List(fields.Nested(SegmentData))
    MaterialActual = fields.List(fields.Nested(MaterialActual))


class OperationsResponse(Part):
    OperationsRequestID = Identifier(longest=20, required=True)
    SegmentResponse = fields.List(fields.Nested(SegmentResponse), required=True, validate=Length(min=1))


class OperationsPerformance(Part):
    ID = Identifier()
    OperationsResponse = fields.List(fields.Nested(OperationsResponse), required=True, validate=Length(min=1))

    @validates_schema(skip_on_field_errors=True)
    def _says_something(self, performance: Mapping[str, Any], **_: object) -> None:
        segments = (
            segment for response in performance["OperationsResponse"] for segment in response["SegmentResponse"]
        )
        if not any(segment["SegmentData"] or segment["MaterialActual"] for segment in segments):
            raise ValidationError("Neither SegmentData nor MaterialActual says what was done.", "OperationsResponse")


def read_performance(body: bytes) -> dict[str, Any]:
    """OperationsPerformance, or the ProductionPerformance of older versions, as V0701 names its parts.

    Segments are in one list, nested ones after the one that holds them. A segment without an end of its own ended
    when the response did or the document was published.
    """
    root, performances = read_document(body, "OperationsPerformance", "ProductionPerformance")
    created = text(root, "ApplicationArea", "CreationDateTime")
    return stated(
        ID=text(performances[0], "ID") or text(root, "ApplicationArea", "BODID"),
        OperationsResponse=[
            _response(response, published=text(performance, "PublishedDate") or created)
            for performance in performances
            for response in children(performance, "OperationsResponse", "ProductionResponse")
        ],
    )


def _response(response: Element, *, published: str | None) -> dict[str, Any]:
    order = text(response, "OperationsRequestID") or text(response, "ProductionRequestID")
    ended = text(response, "EndTime") or published
    segments = list(_segments(response))
    order = order or next((found for each in segments if (found := text(each, "OperationsRequestID"))), None)
    return stated(OperationsRequestID=order, SegmentResponse=[_segment(each, ended=ended) for each in segments])


def _segments(parent: Element) -> Iterator[Element]:
    for segment in children(parent, "SegmentResponse", "SegmentResponseChild"):
        yield segment
        yield from _segments(segment)


def _segment(segment: Element, *, ended: str | None) -> dict[str, Any]:
    identity = text(segment, "ID")
    operation = text(segment, "SegmentRequirementID") or text(segment, "ProcessSegmentID") or identity
    return stated(
        ID=identity or operation,
        SegmentRequirementID=operation,
        ActualStartTime=text(segment, "ActualStartTime"),
        ActualEndTime=text(segment, "ActualEndTime") or ended,
        SegmentState=text(segment, "SegmentState"),
        PersonID=text(segment, "PersonnelActual", "PersonID"),
        EquipmentID=text(segment, "EquipmentActual", "EquipmentID"),
        SegmentData=[_data(each) for each in children(segment, "SegmentData", "ProductionData")],
        MaterialActual=[
            *(_material(each) for each in children(segment, "MaterialActual")),
            *(_material(each, "Consumed") for each in children(segment, "MaterialConsumedActual")),
            *(_material(each, "Produced") for each in children(segment, "MaterialProducedActual")),
        ],
    )


def _data(entry: Element) -> dict[str, Any]:
    return stated(
        ID=text(entry, "ID"),
        ValueString=text(entry, "Value", "ValueString"),
        UnitOfMeasure=text(entry, "Value", "UnitOfMeasure"),
    )


def _material(material: Element, use: str | None = None) -> dict[str, Any]:
    place = child(material, "StorageLocation", "Location")
    return stated(
        ID=text(material, "ID"),
        MaterialUse=use or text(material, "MaterialUse"),
        MaterialDefinitionID=text(material, "MaterialDefinitionID"),
        MaterialLotID=text(material, "MaterialLotID"),
        MaterialSubLotID=text(material, "MaterialSubLotID"),
        Quantity=quantity(material),
        StorageLocation=text(place, "Location") if text(place, "Location") else extension(place, "StorageLocation"),
        StockType=extension(material, "StockType"),
        ManufactureDate=_day(extension(material, "ProductionDate")),
        ExpirationDate=_day(extension(material, "ExpirationDate")),
    )


def _day(moment: str | None) -> str | None:
    return moment.partition("T")[0] if moment else None


PERFORMANCE = Contract(
    type="b2mml.performance.v1",
    owner="MES",
    support="mes-integration@plant.example",
    description="OperationsPerformance (V0701) or ProductionPerformance (V0401 and later), bare, Process… or Sync….",
    schema=OperationsPerformance,
    reader=read_performance,
    content_types=("application/xml", "text/xml"),
    identity=("ID",),
    key=OrderingKey("order", "OperationsResponse.*.OperationsRequestID", without_leading_zeros),
    searchable=(
        "OperationsResponse.*.OperationsRequestID",
        "OperationsResponse.*.SegmentResponse.*.MaterialActual.*.MaterialLotID",
    ),
    examples=(
        b"""<?xml version="1.0" encoding="UTF-8"?>
<ProcessOperationsPerformance xmlns="http://www.mesa.org/xml/B2MML" releaseID="0701">
  <ApplicationArea><Sender><LogicalID>mes-p100</LogicalID></Sender>
    <CreationDateTime>2026-03-02T09:51:31+01:00</CreationDateTime></ApplicationArea>
  <DataArea><Process/><OperationsPerformance><ID>PF-1</ID><OperationsResponse><ID>R-1</ID>
    <OperationsRequestID>000001000123</OperationsRequestID>
    <SegmentResponse><ID>0b7e0e9c-5d0e-4a53-a5f1-3c8a4f5a1a01</ID>
      <ActualStartTime>2026-03-02T07:04:00+01:00</ActualStartTime>
      <ActualEndTime>2026-03-02T09:51:30+01:00</ActualEndTime>
      <ProcessSegmentID>0010</ProcessSegmentID><SegmentRequirementID>0010</SegmentRequirementID>
      <SegmentState>Completed</SegmentState>
      <SegmentData><ID>Yield</ID><Value><ValueString>118</ValueString><DataType>decimal</DataType>
        <UnitOfMeasure>PC</UnitOfMeasure></Value></SegmentData>
      <SegmentData><ID>Scrap</ID><Value><ValueString>2</ValueString><DataType>decimal</DataType>
        <UnitOfMeasure>PC</UnitOfMeasure></Value></SegmentData>
      <MaterialActual><ID>C-1</ID><MaterialDefinitionID>RM-STEEL-08</MaterialDefinitionID>
        <MaterialLotID>R4711008</MaterialLotID><MaterialUse>Consumed</MaterialUse>
        <Quantity><QuantityString>396</QuantityString><DataType>decimal</DataType>
          <UnitOfMeasure>KG</UnitOfMeasure></Quantity></MaterialActual>
      <MaterialActual><ID>O-1</ID><MaterialDefinitionID>FG-PUMP-40</MaterialDefinitionID>
        <MaterialLotID>L260302</MaterialLotID><MaterialUse>Produced</MaterialUse>
        <Quantity><QuantityString>118</QuantityString><DataType>decimal</DataType>
          <UnitOfMeasure>PC</UnitOfMeasure></Quantity></MaterialActual>
    </SegmentResponse></OperationsResponse></OperationsPerformance></DataArea>
</ProcessOperationsPerformance>""",
    ),
)

CONTRACTS = (PERFORMANCE,)
