"""The life of a production order: its release by the ERP and the states that execution reports."""

# ruff: noqa: N815  # the names are those of the document
from __future__ import annotations

from typing import ClassVar

from marshmallow import fields
from marshmallow.validate import Range

from bus import Contract
from transformers.canonical.fields import Identifier, Moment, Part, Word
from transformers.canonical.parts import ORDER_KEY, Lot, Material, Order
from transformers.canonical.quantities import Quantity

STATES = (
    "Forecast",
    "Released",
    "Waiting",
    "Ready",
    "Running",
    "Held",
    "Suspended",
    "Completed",
    "Closed",
    "Cancelled",
    "Aborted",
)
"""B2MML V0701 RequestState."""


class Routing(Part):
    id = Identifier(required=True)
    version = Identifier()


class Operation(Part):
    """An operation of the routing, such as `0010`; `sequence` tells parallel ones apart."""

    id = Identifier(required=True)
    sequence = Identifier(load_default="0")
    description = fields.String()
    workCenter = Identifier()
    plannedQty = fields.Nested(Quantity)
    plannedStart = Moment()
    plannedEnd = Moment()


class Component(Part):
    """What an order consumes; `line` is the ERP's own name of it, which a consumption gives back unchanged."""

    line = Identifier(required=True)
    material = fields.Nested(Material, required=True)
    quantity = fields.Nested(Quantity, required=True)
    operation = Identifier()
    lot = fields.Nested(Lot)
    storageLocation = Identifier()
    backflush = fields.Boolean(load_default=False)


class OrderRelease(Part):
    order = fields.Nested(Order, required=True)
    revision = Identifier()
    site = Identifier(required=True)
    requestState = Word("Released", required=True)
    material = fields.Nested(Material, required=True)
    quantity = fields.Nested(Quantity, required=True)
    earliestStart = Moment(required=True)
    dueDate = Moment(required=True)
    priority = fields.Integer(strict=True, validate=Range(min=0, max=999))
    routing = fields.Nested(Routing)
    bomVersion = Identifier()
    lotToProduce = fields.Nested(Lot)
    storageLocation = Identifier()
    operations = fields.List(fields.Nested(Operation))
    components = fields.List(fields.Nested(Component))


class OrderStateChanged(Part):
    order = fields.Nested(Order, required=True)
    site = Identifier(required=True)
    to = Word(*STATES, required=True)
    at = Moment(required=True)
    reason = fields.String()

    class Meta(Part.Meta):
        include: ClassVar = {"from": Word(*STATES)}  # a word of Python, so not an attribute


ORDER_RELEASE = Contract(
    type="order.release.v1",
    owner="ERP",
    support="erp-integration@plant.example",
    description=(
        "An order may be executed. Missing `operations` or `components` were not stated by the sender (the MES plans "
        "by its own master data); an empty list says that there are none."
    ),
    schema=OrderRelease,
    canonical=True,
    identity=("order.id", "revision"),
    key=ORDER_KEY,
    searchable=("order.id", "material.id", "lotToProduce.id"),
    examples=(
        b"""{
  "order": {"id": "000001000123", "system": "erp"}, "revision": "20260301060000", "site": "P100",
  "requestState": "Released", "material": {"id": "FG-PUMP-40"}, "quantity": {"value": "120", "uom": "PCE"},
  "earliestStart": "2026-03-02T07:00:00+01:00", "dueDate": "2026-03-03T10:22:30+01:00", "priority": 5,
  "routing": {"id": "50000012", "version": "1"}, "bomVersion": "0001", "lotToProduce": {"id": "L260302"},
  "operations": [
    {"id": "0010", "sequence": "0", "description": "Mill seats", "workCenter": "P1-MILL",
     "plannedQty": {"value": "120", "uom": "PCE"},
     "plannedStart": "2026-03-02T07:00:00+01:00", "plannedEnd": "2026-03-02T09:45:00+01:00"}],
  "components": [
    {"line": "1000123/1", "material": {"id": "RM-STEEL-08"}, "quantity": {"value": "396", "uom": "KGM"},
     "operation": "0010", "storageLocation": "RM01", "backflush": false}]
}""",
        b"""{
  "order": {"id": "4711"}, "site": "P200", "requestState": "Released", "material": {"id": "FG-RESIN-K2"},
  "quantity": {"value": "812.5", "uom": "KGM"},
  "earliestStart": "2026-03-02T06:00:00Z", "dueDate": "2026-03-02T18:00:00Z"
}""",
    ),
)

ORDER_STATE_CHANGED = Contract(
    type="order.state-changed.v1",
    owner="MES",
    support="mes-integration@plant.example",
    description="Execution reports a new state of an order (B2MML RequestState).",
    schema=OrderStateChanged,
    canonical=True,
    identity=("order.id", "to", "at"),
    key=ORDER_KEY,
    searchable=("order.id", "to"),
    examples=(
        b'{"order": {"id": "4711"}, "site": "P200", "from": "Released", "to": "Running",'
        b' "at": "2026-03-02T07:04:11.250+01:00"}',
    ),
)

CONTRACTS = (ORDER_RELEASE, ORDER_STATE_CHANGED)
