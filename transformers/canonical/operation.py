"""What execution confirms of an operation: yield, scrap, rework, times and activities."""

# ruff: noqa: N815  # the names are those of the document
from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from marshmallow import ValidationError, fields

from bus import Contract
from transformers.canonical.fields import Amount, Identifier, Moment, Part, Word
from transformers.canonical.parts import ORDER_KEY, Order, Person
from transformers.canonical.quantities import Quantity, Unit

ACTIVITIES = ("setup", "machine", "labor")


class Activity(Part):
    type = Word(*ACTIVITIES, required=True)
    quantity = fields.Nested(Quantity, required=True)


def _each_once(activities: list[Mapping[str, Any]]) -> None:
    kinds = [activity["type"] for activity in activities]
    if len(set(kinds)) < len(kinds):
        raise ValidationError("Each type of activity is confirmed once, with its sum.")


class OperationConfirm(Part):
    confirmation = Identifier(required=True)
    order = fields.Nested(Order, required=True)
    operation = Identifier(required=True)
    sequence = Identifier(load_default="0")
    site = Identifier(required=True)
    scrap = Amount(load_default=0)
    rework = Amount(load_default=0)
    uom = Unit(required=True)
    final = fields.Boolean(required=True)
    start = Moment()
    end = Moment(required=True)
    activities = fields.List(fields.Nested(Activity), validate=_each_once)
    scrapReason = Identifier()
    person = fields.Nested(Person)
    workCenter = Identifier()
    businessDate = fields.Date()

    class Meta(Part.Meta):
        include: ClassVar = {"yield": Amount(required=True)}  # a word of Python, so not an attribute


OPERATION_CONFIRM = Contract(
    type="operation.confirm.v1",
    owner="MES",
    support="mes-integration@plant.example",
    description="MES measured what an operation made; the ERP books it. `confirmation` is the MES's own id of it.",
    schema=OperationConfirm,
    canonical=True,
    identity=("confirmation",),
    key=ORDER_KEY,
    searchable=("order.id", "confirmation", "operation"),
    examples=(
        b"""{
  "confirmation": "0b7e0e9c-5d0e-4a53-a5f1-3c8a4f5a1a01", "order": {"id": "000001000123", "system": "erp"},
  "operation": "0010", "sequence": "0", "site": "P100",
  "yield": "118", "scrap": "2", "rework": "0", "uom": "PCE", "final": false,
  "start": "2026-03-02T07:04:00+01:00", "end": "2026-03-02T09:51:30+01:00",
  "activities": [{"type": "machine", "quantity": {"value": "167.5", "uom": "MIN"}}],
  "scrapReason": "Material", "person": {"id": "W117"}, "businessDate": "2026-03-02"
}""",
    ),
)

CONTRACTS = (OPERATION_CONFIRM,)
