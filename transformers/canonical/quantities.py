"""Units of measure (UN/ECE Recommendation 20) and quantities rounded to what their unit can tell."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from marshmallow.validate import OneOf

from bus import ValueMap
from transformers.canonical.fields import Amount, Identifier, Part

DECIMALS = {
    "PCE": 3,  # piece; SAP's ISO code for ST and PC
    "EA": 3,  # each
    "MIL": 6,  # thousand
    "CT": 3,  # carton
    "SET": 3,
    "GRM": 3,
    "KGM": 3,
    "TNE": 6,
    "MLT": 3,
    "LTR": 3,
    "MTR": 3,
    "MTK": 3,
    "MTQ": 6,
    "SEC": 3,
    "MIN": 3,
    "HUR": 3,
    "KWH": 3,
}
"""The units this project knows and how many decimals of each mean something; a plant's new unit is a line here."""


class Unit(Identifier):
    """A Rec 20 code. A partner's own words (`stk`, `KG`) are turned into these by its value map."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        known = ", ".join(sorted(DECIMALS))
        self.validators.append(OneOf(DECIMALS, error=f"{{input}} is not one of the Rec 20 units {known}."))


class Quantity(Part):
    """How much of what unit; the value is written as text so that no parser makes a binary float of it."""

    value = Amount(required=True)
    uom = Unit(required=True)


def rounded(value: Decimal, uom: str) -> Decimal:
    """The value without the noise of a binary float: 3.2999999999999998 kg are 3.3 kg."""
    exact = value.quantize(Decimal(1).scaleb(-DECIMALS[uom]), rounding=ROUND_HALF_UP)
    return Decimal(f"{exact:f}".rstrip("0").rstrip(".")) if exact else Decimal(0)


def canonical_quantity(value: Decimal, word: str, units: ValueMap) -> dict[str, object]:
    """A Quantity of a partner's number and unit word; raises PermanentFailure(value-map.missing)."""
    uom = units.to_canonical(word)
    return {"value": rounded(value, uom), "uom": uom}
