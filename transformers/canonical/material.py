"""What execution used: the consumption of a material by an order, which the ERP books as a goods issue."""

# ruff: noqa: N815  # the names are those of the document
from __future__ import annotations

from marshmallow import fields

from bus import Contract
from transformers.canonical.fields import Identifier, Moment, Part
from transformers.canonical.parts import ORDER_KEY, Lot, Material, Order
from transformers.canonical.quantities import Quantity


class PostConsumption(Part):
    consumption = Identifier(required=True)
    order = fields.Nested(Order, required=True)
    operation = Identifier()
    site = Identifier(required=True)
    material = fields.Nested(Material, required=True)
    lot = fields.Nested(Lot)
    quantity = fields.Nested(Quantity, required=True)
    componentLine = Identifier()
    storageLocation = Identifier()
    finalIssue = fields.Boolean(load_default=False)
    at = Moment(required=True)
    businessDate = fields.Date()


POST_CONSUMPTION = Contract(
    type="material.post-consumption.v1",
    owner="MES",
    support="mes-integration@plant.example",
    description="MES states what an order used; the ERP books it. `consumption` is the MES's own id, such as a scan's.",
    schema=PostConsumption,
    canonical=True,
    identity=("consumption",),
    key=ORDER_KEY,
    searchable=("order.id", "material.id", "lot.id", "consumption"),
    examples=(
        b"""{
  "consumption": "f1d8a6de-2b0f-4c5e-8d93-7f6f6f1e9b21", "order": {"id": "000001000123"},
  "operation": "0010", "site": "P100", "material": {"id": "RM-STEEL-08"}, "lot": {"id": "R4711008"},
  "quantity": {"value": "396", "uom": "KGM"}, "componentLine": "1000123/1", "storageLocation": "RM01",
  "finalIssue": false, "at": "2026-03-02T08:10:00+01:00"
}""",
    ),
)

CONTRACTS = (POST_CONSUMPTION,)
