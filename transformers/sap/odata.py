"""The manner of OData V2 and V4: envelopes, three forms of expansion, dates and times as SAP writes them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from marshmallow import ValidationError, fields
from marshmallow.validate import Length

from bus import read_json

_EDM_DATE = re.compile(r"/Date\((-?[0-9]{1,15})([+-][0-9]{4})?\)/")
_EDM_TIME = re.compile(r"PT(?:([0-9]{1,2})H)?(?:([0-9]{1,2})M)?(?:([0-9]{1,2})(?:\.[0-9]+)?S)?")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def read_entity(body: bytes) -> Any:
    """The entity alone: `{"d": {…}}` is taken off, expansions are lists, what was not expanded is left out.

    An expansion is `{"results": […]}` (V2) or a list (V4); a URL or `{"__deferred": …}` in its place says that it
    was not expanded.
    """
    document = read_json(body)
    if isinstance(document, dict) and isinstance(document.get("d"), dict):
        document = document["d"]
    return _expanded(document)


def _expanded(document: Any) -> Any:
    if not isinstance(document, dict):
        return document
    entity = {}
    for name, value in document.items():
        if not name.startswith("to_"):
            entity[name] = value
        elif isinstance(value, dict) and isinstance(value.get("results"), list):
            entity[name] = [_expanded(item) for item in value["results"]]
        elif isinstance(value, list):
            entity[name] = [_expanded(item) for item in value]
        elif not _is_deferred(value):
            entity[name] = value
    return entity


def _is_deferred(value: Any) -> bool:
    return value is None or isinstance(value, str) or (isinstance(value, dict) and "__deferred" in value)


class EdmDate(fields.Field[date | None]):
    """A day: `/Date(1496707200000)/` (midnight UTC), the same as RFC 3339, `2017-06-06`, `20170606`.

    SAP writes `""` or null for no date: taken where the date is not required.
    """

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> date | None:
        if value == "" and not self.required:
            return None
        try:
            found = _date(str(value))
        except (ValueError, OverflowError) as error:
            raise ValidationError("A date is expected, such as /Date(1496707200000)/.") from error
        if not 1900 <= found.year <= 9998:
            raise ValidationError("The year is not between 1900 and 9998.")
        return found


def _date(text: str) -> date:
    match = _EDM_DATE.fullmatch(text)
    if match:
        return (_EPOCH + timedelta(milliseconds=int(match[1]))).date()
    moment = datetime.fromisoformat(text)
    # Some gateways rewrite SAP's midnight UTC in their own zone: 2017-06-06T09:00:00+09:00 is the sixth.
    return (moment.astimezone(UTC) if moment.tzinfo else moment).date()


class EdmTime(fields.Field[time]):
    """A time of day: `PT07H00M00S`, `07:00:00`; `""` is midnight."""

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> time:
        match = _EDM_TIME.fullmatch(str(value))
        try:
            if match:
                hour, minute, second = (int(part or 0) for part in match.groups())
                return time(hour, minute, second)
            return time.fromisoformat(str(value)).replace(tzinfo=None) if value != "" else time()
        except ValueError as error:
            raise ValidationError("A time is expected, such as PT07H00M00S.") from error


class Text(fields.String):
    """A text of an SAP field and its published length."""

    def __init__(self, longest: int, *, at_least: int = 0, **settings: Any) -> None:
        super().__init__(validate=Length(min=at_least, max=longest), **settings)


class Flag(fields.Field[str]):
    """SAP's indicator: `X` or empty; V4 writes true and false."""

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> str:
        if isinstance(value, bool):
            return "X" if value else ""
        if value not in ("", "X"):
            raise ValidationError('"X" or "" is expected.')
        return str(value)


def edm_date(day: date) -> str:
    """A day as V2 writes it: midnight UTC in milliseconds."""
    midnight = datetime(day.year, day.month, day.day, tzinfo=UTC)
    return f"/Date({int(midnight.timestamp()) * 1000})/"


def edm_time(moment: datetime) -> str:
    """The time of day as V2 writes it; the date beside it says which day, the plant which zone."""
    return f"PT{moment.hour:02d}H{moment.minute:02d}M{moment.second:02d}S"
