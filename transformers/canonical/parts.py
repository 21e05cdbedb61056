"""Parts that canonical messages share: order, material, lot, person (ISA-95 names)."""

from __future__ import annotations

from bus import OrderingKey, without_leading_zeros
from transformers.canonical.fields import Identifier, Part

ORDER_KEY = OrderingKey("order", "order.id", without_leading_zeros)
"""Everything about one production order stays in one order: its subject is `order:4711`."""


class Order(Part):
    """A production order; `system` is the one whose number it is."""

    id = Identifier(longest=20, required=True)
    system = Identifier()
    item = Identifier()


class Material(Part):
    id = Identifier(required=True)
    version = Identifier()


class Lot(Part):
    """A lot (batch); `sublot` is a part of it, such as a pallet with an SSCC."""

    id = Identifier(required=True)
    sublot = Identifier()


class Person(Part):
    """Somebody by number, never by name."""

    id = Identifier(required=True)
