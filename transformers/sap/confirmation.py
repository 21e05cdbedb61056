"""The posting of a confirmed operation: entity ProdnOrdConf2 of API_PROD_ORDER_CONFIRMATION_2_SRV."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from marshmallow import fields

from bus import (
    Contract,
    Opened,
    OrderingKey,
    Outgoing,
    TransformContext,
    transformer,
    without_leading_zeros,
    write_json,
)
from transformers.canonical.fields import Amount, Part
from transformers.sap.odata import EdmDate, EdmTime, Text, edm_date, edm_time, read_entity
from transformers.times import zone_of


class Confirmation(Part):
    OrderID = Text(12, required=True, at_least=1)
    OrderOperation = Text(4, required=True, at_least=1)
    Sequence = Text(6, required=True)
    Plant = Text(4, required=True, at_least=1)
    ConfirmationUnit = Text(3, required=True, at_least=1)
    ConfirmationYieldQuantity = Amount(scale=3, required=True)
    ConfirmationScrapQuantity = Amount(scale=3, required=True)
    ConfirmationReworkQuantity = Amount(scale=3, required=True)
    VarianceReasonCode = Text(4)
    IsFinalConfirmation = fields.Boolean(required=True)
    FinalConfirmationType = Text(1, required=True)
    APIConfHasNoGoodsMovements = fields.Boolean(required=True)
    PostingDate = EdmDate(required=True)
    ConfirmedExecutionStartDate = EdmDate()
    ConfirmedExecutionStartTime = EdmTime()
    ConfirmedExecutionEndDate = EdmDate(required=True)
    ConfirmedExecutionEndTime = EdmTime(required=True)
    OpConfirmedWorkQuantity1 = Amount(scale=3)
    OpWorkQuantityUnit1 = Text(3)
    OpConfirmedWorkQuantity2 = Amount(scale=3)
    OpWorkQuantityUnit2 = Text(3)
    OpConfirmedWorkQuantity3 = Amount(scale=3)
    OpWorkQuantityUnit3 = Text(3)
    EnteredByExternalUser = Text(12)
    ExternalSystemConfirmation = fields.UUID(required=True)


@transformer(takes="operation.confirm.v1", makes="sap.production-order-confirmation.v2")
def confirmation_posting(opened: Opened, context: TransformContext) -> Outgoing:
    """The ERP's form of a confirmation; our key stands in ExternalSystemConfirmation, by which the ERP can be asked.

    Goods movements are posted by messages of their own, so the ERP is told to make none with the confirmation.
    """
    confirm, units = opened.document, context.maps["units"]
    zone = zone_of(confirm["site"], context)
    end = confirm["end"].astimezone(zone)
    posting = {
        "ExternalSystemConfirmation": context.key,
        "OrderID": confirm["order"]["id"],
        "OrderOperation": confirm["operation"],
        "Sequence": confirm["sequence"],
        "Plant": context.maps["plants"].to_partner(confirm["site"]),
        "ConfirmationUnit": units.to_partner(confirm["uom"]),
        "ConfirmationYieldQuantity": confirm["yield"],
        "ConfirmationScrapQuantity": confirm["scrap"],
        "ConfirmationReworkQuantity": confirm["rework"],
        "IsFinalConfirmation": confirm["final"],
        "FinalConfirmationType": "X" if confirm["final"] else "",
        "APIConfHasNoGoodsMovements": True,
        "PostingDate": edm_date(confirm.get("businessDate") or end.date()),
        "ConfirmedExecutionEndDate": edm_date(end.date()),
        "ConfirmedExecutionEndTime": edm_time(end),
    }
    if "start" in confirm:
        start = confirm["start"].astimezone(zone)
        posting["ConfirmedExecutionStartDate"] = edm_date(start.date())
        posting["ConfirmedExecutionStartTime"] = edm_time(start)
    if "scrapReason" in confirm:
        posting["VarianceReasonCode"] = context.maps["scrap-reasons"].to_partner(confirm["scrapReason"])
    if "person" in confirm:
        posting["EnteredByExternalUser"] = confirm["person"]["id"]
    posting.update(_activities(confirm, context))
    return Outgoing(type="sap.production-order-confirmation.v2", body=write_json(posting))


def _activities(confirm: Mapping[str, Any], context: TransformContext) -> Iterator[tuple[str, object]]:
    """Work quantities by their number in the work centre's standard value key, by the value map `activities`."""
    for activity in confirm.get("activities", ()):
        number = context.maps["activities"].to_partner(activity["type"])
        quantity = activity["quantity"]
        yield f"OpConfirmedWorkQuantity{number}", quantity["value"]
        yield f"OpWorkQuantityUnit{number}", context.maps["units"].to_partner(quantity["uom"])


CONFIRMATION = Contract(
    type="sap.production-order-confirmation.v2",
    owner="ERP",
    support="erp-integration@plant.example",
    description="What is posted to ProdnOrdConf2; quantities have three decimals at most.",
    schema=Confirmation,
    reader=read_entity,
    identity=("ExternalSystemConfirmation",),
    key=OrderingKey("order", "OrderID", without_leading_zeros),
    searchable=("OrderID", "ExternalSystemConfirmation"),
    examples=(
        b"""{
  "ExternalSystemConfirmation": "0b7e0e9c-5d0e-4a53-a5f1-3c8a4f5a1a01", "OrderID": "000001000123",
  "OrderOperation": "0010", "Sequence": "0", "Plant": "P100", "ConfirmationUnit": "PC",
  "ConfirmationYieldQuantity": "118", "ConfirmationScrapQuantity": "2", "ConfirmationReworkQuantity": "0",
  "VarianceReasonCode": "0001", "IsFinalConfirmation": false, "FinalConfirmationType": "",
  "APIConfHasNoGoodsMovements": true, "PostingDate": "/Date(1772409600000)/",
  "ConfirmedExecutionStartDate": "/Date(1772409600000)/", "ConfirmedExecutionStartTime": "PT07H04M00S",
  "ConfirmedExecutionEndDate": "/Date(1772409600000)/", "ConfirmedExecutionEndTime": "PT09H51M30S",
  "OpConfirmedWorkQuantity2": "167.5", "OpWorkQuantityUnit2": "MIN"
}""",
    ),
)

CONTRACTS = (CONFIRMATION,)
