"""SAP's production order (entity A_ProductionOrder_2) and the release that it becomes."""

# ruff: noqa: N815  # the names are those of the document
from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime, time
from typing import Any
from zoneinfo import ZoneInfo

from marshmallow import fields

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
from transformers.canonical.fields import Amount, Part
from transformers.canonical.quantities import canonical_quantity
from transformers.sap.odata import EdmDate, EdmTime, Flag, Text, read_entity
from transformers.times import written, zone_of


class Component(Part):
    """A_ProductionOrderComponent: a line of the order's reservation."""

    Reservation = Text(10, required=True, at_least=1)
    ReservationItem = Text(4, required=True, at_least=1)
    Material = Text(40, required=True, at_least=1)
    ManufacturingOrderOperation = Text(4, load_default="")
    RequiredQuantity = Amount(required=True)
    BaseUnit = Text(3, required=True, at_least=1)
    StorageLocation = Text(4, load_default="")
    Batch = Text(10, load_default="")
    MatlCompIsMarkedForBackflush = fields.Boolean(load_default=False)


class Operation(Part):
    """A_ProductionOrderOperation."""

    ManufacturingOrderOperation = Text(4, required=True, at_least=1)
    ManufacturingOrderSequence = Text(6, load_default="0")
    MfgOrderOperationText = Text(40, load_default="")
    WorkCenter = Text(8, load_default="")
    OperationIsDeleted = Flag(load_default="")
    OpPlannedTotalQuantity = Amount()
    OperationUnit = Text(3, load_default="")
    OpErlstSchedldExecStrtDte = EdmDate(load_default=None)
    OpErlstSchedldExecStrtTme = EdmTime(load_default=time())
    OpErlstSchedldExecEndDte = EdmDate(load_default=None)
    OpErlstSchedldExecEndTme = EdmTime(load_default=time())


class ProductionOrder(Part):
    ManufacturingOrder = Text(12, required=True, at_least=1)
    LastChangeDateTime = fields.String(load_default="")
    OrderIsReleased = Flag(load_default="")
    OrderIsTechnicallyCompleted = Flag(load_default="")
    OrderIsDeleted = Flag(load_default="")
    Material = Text(40, required=True, at_least=1)
    ProductionPlant = Text(4, required=True, at_least=1)
    ProductionVersion = Text(4, load_default="")
    StorageLocation = Text(4, load_default="")
    TotalQuantity = Amount(required=True)
    ProductionUnit = Text(3, required=True, at_least=1)
    MfgOrderScheduledStartDate = EdmDate(required=True)
    MfgOrderScheduledStartTime = EdmTime(load_default=time())
    MfgOrderScheduledEndDate = EdmDate(required=True)
    MfgOrderScheduledEndTime = EdmTime(load_default=time())
    to_ProductionOrderOperation = fields.List(fields.Nested(Operation))
    to_ProductionOrderComponent = fields.List(fields.Nested(Component))


@transformer(takes="sap.production-order.v2", makes="order.release.v1")
def order_release(opened: Opened, context: TransformContext) -> Outgoing:
    """The release of an order that SAP says is released; which orders come here is the route's decision.

    The site is the header's, which the sender's rights vouch for.
    """
    order, site = opened.document, opened.message.site
    zone, units = zone_of(site, context), context.maps["units"]
    release = {
        "order": {"id": order["ManufacturingOrder"], "system": opened.message.system},
        "revision": order["LastChangeDateTime"],
        "site": site,
        "requestState": "Released",
        "material": {"id": order["Material"]},
        "quantity": canonical_quantity(order["TotalQuantity"], order["ProductionUnit"], units),
        "earliestStart": _moment(order["MfgOrderScheduledStartDate"], order["MfgOrderScheduledStartTime"], zone),
        "dueDate": _moment(order["MfgOrderScheduledEndDate"], order["MfgOrderScheduledEndTime"], zone),
        "bomVersion": order["ProductionVersion"],
        "storageLocation": order["StorageLocation"],
    }
    if "to_ProductionOrderOperation" in order:
        operations = (each for each in order["to_ProductionOrderOperation"] if each["OperationIsDeleted"] != "X")
        release["operations"] = [_operation(each, zone, units) for each in operations]
    if "to_ProductionOrderComponent" in order:
        release["components"] = [_component(each, units) for each in order["to_ProductionOrderComponent"]]
    return Outgoing(type="order.release.v1", body=write_json(_stated(release)))


def _operation(operation: Mapping[str, Any], zone: ZoneInfo, units: ValueMap) -> dict[str, Any]:
    planned = operation.get("OpPlannedTotalQuantity")
    unit = operation["OperationUnit"]
    start_day, start_time = operation["OpErlstSchedldExecStrtDte"], operation["OpErlstSchedldExecStrtTme"]
    end_day, end_time = operation["OpErlstSchedldExecEndDte"], operation["OpErlstSchedldExecEndTme"]
    return _stated(
        {
            "id": operation["ManufacturingOrderOperation"],
            "sequence": operation["ManufacturingOrderSequence"],
            "description": operation["MfgOrderOperationText"],
            "workCenter": operation["WorkCenter"],
            "plannedQty": canonical_quantity(planned, unit, units) if planned is not None and unit else None,
            "plannedStart": _moment(start_day, start_time, zone),
            "plannedEnd": _moment(end_day, end_time, zone),
        }
    )


def _component(component: Mapping[str, Any], units: ValueMap) -> dict[str, Any]:
    batch = component["Batch"]
    return _stated(
        {
            "line": component_line(component["Reservation"], component["ReservationItem"]),
            "material": {"id": component["Material"]},
            "quantity": canonical_quantity(component["RequiredQuantity"], component["BaseUnit"], units),
            "operation": component["ManufacturingOrderOperation"],
            "lot": {"id": batch} if batch else None,
            "storageLocation": component["StorageLocation"],
            "backflush": component["MatlCompIsMarkedForBackflush"],
        }
    )


def component_line(reservation: str, item: str) -> str:
    """SAP's name of a component line: reservation and item. A consumption brings it back and is posted to the line."""
    return f"{reservation}/{item}"


def _moment(day: date | None, time_of_day: time, zone: ZoneInfo) -> str | None:
    return written(datetime.combine(day, time_of_day, tzinfo=zone)) if day else None


def _stated(values: dict[str, Any]) -> dict[str, Any]:
    """Without what SAP left empty."""
    return {name: value for name, value in values.items() if value not in (None, "")}


PRODUCTION_ORDER = Contract(
    type="sap.production-order.v2",
    owner="ERP",
    support="erp-integration@plant.example",
    description='A_ProductionOrder_2 with operations and components expanded; V2, V4 or `{"d": …}`.',
    schema=ProductionOrder,
    reader=read_entity,
    identity=("ManufacturingOrder", "LastChangeDateTime"),
    key=OrderingKey("order", "ManufacturingOrder", without_leading_zeros),
    searchable=("ManufacturingOrder", "Material"),
    examples=(
        b"""{"d": {
  "ManufacturingOrder": "000001000123", "ManufacturingOrderType": "PP01", "LastChangeDateTime": "20260301060000",
  "OrderIsReleased": "X", "OrderIsTechnicallyCompleted": "", "Material": "FG-PUMP-40", "ProductionPlant": "P100",
  "ProductionVersion": "0001", "StorageLocation": "FG01", "TotalQuantity": "120", "ProductionUnit": "PC",
  "MfgOrderScheduledStartDate": "/Date(1772409600000)/", "MfgOrderScheduledStartTime": "PT07H00M00S",
  "MfgOrderScheduledEndDate": "/Date(1772496000000)/", "MfgOrderScheduledEndTime": "PT10H22M30S",
  "to_ProductionOrderOperation": {"results": [
    {"ManufacturingOrderOperation": "0010", "ManufacturingOrderSequence": "0", "MfgOrderOperationText": "Mill seats",
     "WorkCenter": "P1-MILL", "OpPlannedTotalQuantity": "120", "OperationUnit": "PC",
     "OpErlstSchedldExecStrtDte": "/Date(1772409600000)/", "OpErlstSchedldExecStrtTme": "PT07H00M00S",
     "OpErlstSchedldExecEndDte": "/Date(1772409600000)/", "OpErlstSchedldExecEndTme": "PT09H45M00S"}]},
  "to_ProductionOrderComponent": {"results": [
    {"Reservation": "1000123", "ReservationItem": "1", "Material": "RM-STEEL-08", "BaseUnit": "KG",
     "RequiredQuantity": "396.00000000000006", "ManufacturingOrderOperation": "0010", "StorageLocation": "RM01",
     "MatlCompIsMarkedForBackflush": false}]}
}}""",
    ),
)

CONTRACTS = (PRODUCTION_ORDER,)
