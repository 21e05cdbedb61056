"""What execution made: the output of an order, which the ERP books as a goods receipt."""

# ruff: noqa: N815  # the names are those of the document
from __future__ import annotations

from marshmallow import fields

from bus import Contract
from transformers.canonical.fields import Identifier, Moment, Part, Word
from transformers.canonical.parts import ORDER_KEY, Lot, Material, Order
from transformers.canonical.quantities import Quantity

USES = ("Produced", "Co-product", "By-product")
STOCK_STATUSES = ("Unrestricted", "QualityInspection", "Blocked")


class ReportOutput(Part):
    declaration = Identifier(required=True)
    order = fields.Nested(Order, required=True)
    operation = Identifier()
    site = Identifier(required=True)
    material = fields.Nested(Material, required=True)
    lot = fields.Nested(Lot)
    quantity = fields.Nested(Quantity, required=True)
    materialUse = Word(*USES, required=True)
    stockStatus = Word(*STOCK_STATUSES)
    storageLocation = Identifier()
    sscc = fields.List(Identifier(longest=18))
    manufactureDate = fields.Date()
    expiryDate = fields.Date()
    final = fields.Boolean(load_default=False)
    at = Moment(required=True)
    businessDate = fields.Date()


REPORT_OUTPUT = Contract(
    type="production.report-output.v1",
    owner="MES",
    support="mes-integration@plant.example",
    description="MES counted what an order made; the ERP books and values it. `declaration` is the MES's id of it.",
    schema=ReportOutput,
    canonical=True,
    identity=("declaration",),
    key=ORDER_KEY,
    searchable=("order.id", "material.id", "lot.id", "declaration", "sscc.*"),
    examples=(
        b"""{
  "declaration": "6f3f6c0e-8a52-4d0e-9a55-0a1f5b8f2c11", "order": {"id": "000001000123"}, "site": "P100",
  "material": {"id": "FG-PUMP-40"}, "lot": {"id": "L260302"}, "quantity": {"value": "118", "uom": "PCE"},
  "materialUse": "Produced", "stockStatus": "Unrestricted", "storageLocation": "FG01",
  "sscc": ["340123450000000018"], "manufactureDate": "2026-03-02", "expiryDate": "2028-03-01",
  "at": "2026-03-02T16:20:00+01:00", "businessDate": "2026-03-02"
}""",
    ),
)

CONTRACTS = (REPORT_OUTPUT,)
