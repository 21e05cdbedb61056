"""The posting of goods movements: entity A_MaterialDocumentHeader of API_MATERIAL_DOCUMENT_SRV."""

# ruff: noqa: N815  # the names are those of the document
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from marshmallow import fields
from marshmallow.validate import Length

from bus import (
    Contract,
    Opened,
    OrderingKey,
    Outgoing,
    TransformContext,
    short_key,
    transformer,
    without_leading_zeros,
    write_json,
)
from transformers.canonical.fields import Amount, Part
from transformers.sap.odata import EdmDate, Text, edm_date, read_entity
from transformers.times import zone_of

GOODS_RECEIPT = {"code": "02", "movement": "101", "reference": "F"}
"""Goods receipt for a production order: GM_CODE 02, movement type 101, reference document type F (order)."""

GOODS_ISSUE = {"code": "03", "movement": "261"}
"""Goods issue to a production order: GM_CODE 03, movement type 261."""


class Item(Part):
    Material = Text(40, required=True, at_least=1)
    Plant = Text(4, required=True, at_least=1)
    StorageLocation = Text(4)
    Batch = Text(10)
    GoodsMovementType = Text(3, required=True, at_least=3)
    GoodsMovementRefDocType = Text(1)
    InventoryUsabilityCode = Text(1)
    ManufacturingOrder = Text(12, required=True, at_least=1)
    ManufacturingOrderItem = Text(4)
    QuantityInEntryUnit = Amount(scale=3, required=True)
    EntryUnit = Text(3, required=True, at_least=1)
    Reservation = Text(10)
    ReservationItem = Text(4)
    ReservationIsFinallyIssued = fields.Boolean()
    IsCompletelyDelivered = fields.Boolean()
    ManufactureDate = EdmDate()
    ShelfLifeExpirationDate = EdmDate()
    MaterialDocumentItemText = Text(50)


class MaterialDocument(Part):
    GoodsMovementCode = Text(2, required=True, at_least=2)
    ReferenceDocument = Text(16, required=True, at_least=16)
    PostingDate = EdmDate(required=True)
    DocumentDate = EdmDate(required=True)
    to_MaterialDocumentItem = fields.List(fields.Nested(Item), required=True, validate=Length(min=1))


@transformer(takes="production.report-output.v1", makes="sap.material-document.v1")
def goods_receipt(opened: Opened, context: TransformContext) -> Outgoing:
    """The ERP's form of an output; our short key stands in ReferenceDocument, by which the ERP can be asked."""
    output = opened.document
    item = _item(output, context) | {
        "GoodsMovementType": GOODS_RECEIPT["movement"],
        "GoodsMovementRefDocType": GOODS_RECEIPT["reference"],
        "IsCompletelyDelivered": output["final"],
    }
    if "item" in output["order"]:
        item["ManufacturingOrderItem"] = output["order"]["item"]
    if "stockStatus" in output:
        item["InventoryUsabilityCode"] = context.maps["stock-statuses"].to_partner(output["stockStatus"])
    if "manufactureDate" in output:
        item["ManufactureDate"] = edm_date(output["manufactureDate"])
    if "expiryDate" in output:
        item["ShelfLifeExpirationDate"] = edm_date(output["expiryDate"])
    return _posting(output, item, GOODS_RECEIPT["code"], context)


@transformer(takes="material.post-consumption.v1", makes="sap.material-document.v1")
def goods_issue(opened: Opened, context: TransformContext) -> Outgoing:
    """The ERP's form of a consumption, posted to the reservation line that the release named."""
    consumption = opened.document
    item = _item(consumption, context) | {"GoodsMovementType": GOODS_ISSUE["movement"]}
    reservation, slash, line = consumption.get("componentLine", "").partition("/")
    if slash:
        item["Reservation"] = reservation
        item["ReservationItem"] = line
        item["ReservationIsFinallyIssued"] = consumption["finalIssue"]
    return _posting(consumption, item, GOODS_ISSUE["code"], context)


def _item(movement: Mapping[str, Any], context: TransformContext) -> dict[str, object]:
    quantity = movement["quantity"]
    item = {
        "Material": movement["material"]["id"],
        "Plant": context.maps["plants"].to_partner(movement["site"]),
        "ManufacturingOrder": movement["order"]["id"],
        "QuantityInEntryUnit": quantity["value"],
        "EntryUnit": context.maps["units"].to_partner(quantity["uom"]),
    }
    if "lot" in movement:
        item["Batch"] = movement["lot"]["id"]
    if "storageLocation" in movement:
        item["StorageLocation"] = movement["storageLocation"]
    return item


def _posting(movement: Mapping[str, Any], item: Mapping[str, object], code: str, context: TransformContext) -> Outgoing:
    happened_on = movement["at"].astimezone(zone_of(movement["site"], context)).date()
    posting = {
        "GoodsMovementCode": code,
        "ReferenceDocument": short_key(context.key),
        "DocumentDate": edm_date(happened_on),
        "PostingDate": edm_date(movement.get("businessDate") or happened_on),
        "to_MaterialDocumentItem": {"results": [item]},
    }
    return Outgoing(type="sap.material-document.v1", body=write_json(posting))


MATERIAL_DOCUMENT = Contract(
    type="sap.material-document.v1",
    owner="ERP",
    support="erp-integration@plant.example",
    description="What is posted to A_MaterialDocumentHeader: one goods movement.",
    schema=MaterialDocument,
    reader=read_entity,
    identity=("ReferenceDocument",),
    key=OrderingKey("order", "to_MaterialDocumentItem.*.ManufacturingOrder", without_leading_zeros),
    searchable=(
        "to_MaterialDocumentItem.*.ManufacturingOrder",
        "to_MaterialDocumentItem.*.Material",
        "to_MaterialDocumentItem.*.Batch",
        "ReferenceDocument",
    ),
    examples=(
        b"""{
  "GoodsMovementCode": "02", "ReferenceDocument": "5NRHCGNQ4TR480B2",
  "DocumentDate": "/Date(1772409600000)/", "PostingDate": "/Date(1772409600000)/",
  "to_MaterialDocumentItem": {"results": [
    {"Material": "FG-PUMP-40", "Plant": "P100", "StorageLocation": "FG01", "Batch": "L260302",
     "GoodsMovementType": "101", "GoodsMovementRefDocType": "F", "ManufacturingOrder": "000001000123",
     "QuantityInEntryUnit": "118", "EntryUnit": "PC", "IsCompletelyDelivered": false}]}
}""",
    ),
)

CONTRACTS = (MATERIAL_DOCUMENT,)
