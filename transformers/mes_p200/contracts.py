"""The four types that MES P200 publishes, as it writes them."""

# ruff: noqa: N815  # the names are those of the document
from __future__ import annotations

from typing import ClassVar

from marshmallow import Schema, fields

from bus import Contract, OrderingKey, without_leading_zeros
from transformers.canonical.fields import Amount, Identifier, LocalMoment, OptionalIdentifier, Part

SUPPORT = "mes-p200-support@plant.example"
KEY = OrderingKey("order", "order", without_leading_zeros)


class Confirmation(Part):
    confirmationId = Identifier(required=True)
    order = Identifier(longest=20, required=True)
    operation = Identifier(required=True)
    good = Amount(required=True)
    scrap = Amount(load_default=0)
    rework = Amount(load_default=0)
    unit = Identifier(required=True)
    scrapReason = OptionalIdentifier(load_default=None)
    begin = LocalMoment(required=True)
    finish = LocalMoment(required=True)
    worker = OptionalIdentifier(load_default=None)
    final = fields.Boolean(required=True)


class Movement(Part):
    """What a consumption and an output have in common."""

    order = Identifier(longest=20, required=True)
    material = Identifier(required=True)
    lot = OptionalIdentifier(load_default=None)
    quantity = Amount(required=True)
    unit = Identifier(required=True)
    storage = OptionalIdentifier(load_default=None)
    at = LocalMoment(required=True)


class Consumption(Movement):
    consumptionId = Identifier(required=True)
    operation = OptionalIdentifier(load_default=None)
    line = OptionalIdentifier(load_default=None)
    last = fields.Boolean(load_default=False)


class Output(Movement):
    declarationId = Identifier(required=True)
    kind = Identifier(required=True)
    stock = Identifier(required=True)
    made = fields.Date(load_default=None)


class OrderState(Part):
    order = Identifier(longest=20, required=True)
    sequence = fields.Integer(strict=True, required=True)
    to = Identifier(required=True)
    at = LocalMoment(required=True)

    class Meta(Part.Meta):
        include: ClassVar = {"from": OptionalIdentifier(load_default=None)}  # a word of Python, so not an attribute


def _contract(
    name: str, schema: type[Schema], *, identity: tuple[str, ...], searchable: tuple[str, ...], example: bytes
) -> Contract:
    return Contract(
        type=f"mes-p200.{name}.v1",
        owner="MES",
        support=SUPPORT,
        schema=schema,
        identity=identity,
        key=KEY,
        searchable=("order", *searchable),
        examples=(example,),
    )


CONTRACTS = (
    _contract(
        "operation-confirm",
        Confirmation,
        identity=("confirmationId",),
        searchable=("confirmationId",),
        example=b"""{
  "confirmationId": "8d9c1c52-7f4f-5c55-9a39-4d5b1d0c2a01", "order": "000001000124", "operation": "0010",
  "good": "811.5", "scrap": "1.0", "rework": "0", "unit": "kilo", "scrapReason": "AUSSCHUSS-MATERIAL",
  "status": "LAEUFT", "begin": "2026-03-02 07:04:00", "finish": "2026-03-02 09:51:30", "worker": "W117", "final": true
}""",
    ),
    _contract(
        "consumption",
        Consumption,
        identity=("consumptionId",),
        searchable=("material", "lot"),
        example=b"""{
  "consumptionId": "8d9c1c52-7f4f-5c55-9a39-4d5b1d0c2a02", "order": "000001000124", "operation": "0010",
  "line": "1000124/1", "material": "RM-RESIN-B", "lot": "R4711009", "quantity": "666.25", "unit": "kilo",
  "storage": "RM01", "last": true, "at": "2026-03-02 08:10:00"
}""",
    ),
    _contract(
        "output",
        Output,
        identity=("declarationId",),
        searchable=("material", "lot"),
        example=b"""{
  "declarationId": "8d9c1c52-7f4f-5c55-9a39-4d5b1d0c2a03", "order": "000001000124", "material": "FG-RESIN-K2",
  "lot": "20000124", "quantity": "811.5", "unit": "kilo", "kind": "GUT", "storage": "FG01", "stock": "FREI",
  "made": "2026-03-02", "at": "2026-03-02 16:20:00"
}""",
    ),
    _contract(
        "order-state",
        OrderState,
        identity=("order", "sequence"),
        searchable=("to",),
        example=b'{"order": "000001000124", "sequence": 1, "from": "FREIGEGEBEN", "to": "LAEUFT",'
        b' "at": "2026-03-02 07:04:00"}',
    ),
)
