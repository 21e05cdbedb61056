"""Fields that canonical and native schemas share: identifiers as text, exact amounts, moments with an offset."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

from marshmallow import INCLUDE, Schema, ValidationError, fields
from marshmallow.validate import Length, OneOf, Regexp

_AMOUNT = re.compile(r"[+-]?[0-9]{1,15}(\.[0-9]{1,20})?")
_LARGEST = Decimal(10**15)


class Part(Schema):
    """A part of a document. Fields it does not know are kept: a newer minor version may bring some."""

    class Meta:
        unknown = INCLUDE


class Identifier(fields.String):
    """An id as text, because `000021735053` is not a number; no blanks around it."""

    def __init__(self, longest: int = 40, **settings: Any) -> None:
        pattern = Regexp(r"\S(.*\S)?\Z", error="An id is text without blanks around it.")
        super().__init__(validate=[Length(min=1, max=longest), pattern], **settings)


class OptionalIdentifier(Identifier):
    """An id that may be missing or empty: systems write `""` for what they do not know."""

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> Any:
        return super()._deserialize(value, attr, data, **kwargs) if value != "" else ""

    def _validate(self, value: Any) -> None:
        if value != "":
            super()._validate(value)


class Amount(fields.Decimal):
    """A decimal number as text or number, exact, never `NaN`; at most 15 digits before and 20 after the point."""

    def __init__(self, *, at_least: int | None = 0, scale: int = 20, **settings: Any) -> None:
        super().__init__(**settings)
        self.at_least = at_least
        self.scale = scale

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> Decimal:
        if isinstance(value, str):
            if not _AMOUNT.fullmatch(value.strip()):
                raise ValidationError("A decimal number is expected, such as 12.5.")
            amount = Decimal(value)
        else:
            amount = Decimal(super()._deserialize(value, attr, data, **kwargs))
        exponent = amount.as_tuple().exponent
        if not isinstance(exponent, int) or exponent < -self.scale or abs(amount) >= _LARGEST:
            raise ValidationError(f"At most 15 digits before and {self.scale} after the point are taken.")
        if self.at_least is not None and amount < self.at_least:
            raise ValidationError(f"At least {self.at_least} is expected.")
        return amount


class Moment(fields.AwareDateTime):
    """When something happened: RFC 3339 with an offset. A time without one could be any plant's."""

    default_error_messages = {  # noqa: RUF012  # marshmallow collects these dicts over the class hierarchy
        "invalid_awareness": "The time has no offset: 2026-03-01T06:00:00+01:00 is expected.",
    }

    def __init__(self, **settings: Any) -> None:
        super().__init__(validate=in_our_age, **settings)


class LocalMoment(fields.DateTime):
    """A time that may lack an offset; its transformer puts it into the plant's zone."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(validate=in_our_age, **settings)


def in_our_age(moment: datetime) -> None:
    """Refuse what no plant has seen, and what a change of zone would carry over the edge of the calendar."""
    if not 1900 <= moment.year <= 9998:
        raise ValidationError("The year is not between 1900 and 9998.")


class Word(fields.String):
    """One word of a fixed list."""

    def __init__(self, *words: str, **settings: Any) -> None:
        super().__init__(validate=OneOf(words), **settings)
