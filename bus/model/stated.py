"""What a publisher stated beside the body: AMQP properties, headers and CloudEvents attributes as one set of fields."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

from bus.errors import MessageInvalid, MessageRefused, Violation
from bus.model import cloud_event

LONGEST_NAME = 200
"""Letters in a message id, correlation id or subject."""

END_OF_SEQUENCE = 10**18
"""A sequence number is smaller."""

_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?(?P<zone>[Zz]|[+-]\d\d:\d\d)?", re.ASCII)
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_DIGITS = re.compile(r"[0-9]{1,18}")


@dataclass(frozen=True, slots=True, kw_only=True)
class StatedFields:
    """Empty or None where the publisher said nothing; `body` is the payload, unwrapped where an event carried it."""

    message_id: str
    type: str
    app_id: str
    site: str
    user_id: str
    subject: str
    correlation_id: str
    causation_id: str
    content_type: str
    charset: str
    dataschema: str
    traceparent: str
    time: datetime | None
    sequence: int | None
    business_date: date | None
    body: bytes


def read_fields(properties: Mapping[str, Any], headers: Mapping[str, Any], body: bytes) -> StatedFields:
    """The fields, whichever form the publisher chose; headers `x-*` are dropped.

    Raises:
        MessageInvalid: a field has no form it can be read in.
        MessageRefused: properties.contradict: two forms say different things.
    """
    if _text(properties, "content_encoding").lower() not in ("", "identity"):
        raise MessageInvalid(
            "content-encoding.unexpected",
            Violation("content_encoding", f"{properties['content_encoding']!r}: send the body as it is"),
        )
    headers = {name: value for name, value in headers.items() if not str(name).lower().startswith("x-")}
    media_type, charset = _media_type(_text(properties, "content_type", longest=255))
    event = cloud_event.attributes_of(headers, media_type=media_type, body=body)
    if event.body is not None:
        media_type, charset = _media_type(event.text("datacontenttype") or "application/json")
    return StatedFields(
        message_id=_either("message_id", _text(properties, "message_id"), event.text("id", longest=LONGEST_NAME)),
        type=_either("type", _text(properties, "type", longest=255), event.text("type", longest=255)),
        app_id=_either("app_id", _text(properties, "app_id"), event.system),
        site=_either("site", _text(headers, "site"), event.site),
        user_id=_text(properties, "user_id", longest=255),
        subject=_either("subject", _text(headers, "subject"), event.text("subject", longest=LONGEST_NAME)),
        correlation_id=_text(properties, "correlation_id") or event.text("correlationid", longest=LONGEST_NAME),
        causation_id=_text(headers, "causation_id") or event.text("causationid", longest=LONGEST_NAME),
        content_type=media_type,
        charset=charset,
        dataschema=_text(headers, "dataschema", longest=2048) or event.text("dataschema"),
        traceparent=_text(headers, "traceparent") or event.text("traceparent", longest=LONGEST_NAME),
        time=_time(headers.get("time")) or _time(event.get("time")),
        sequence=_whole(headers.get("sequence", event.get("sequence"))),
        business_date=_date(_text(headers, "business_date") or event.text("businessdate")),
        body=body if event.body is None else event.body,
    )


@dataclass(frozen=True, slots=True)
class StatedPlace:
    """Which number of its subject a message is; `subject` is empty where the contract reads it from `body`."""

    subject: str
    sequence: int
    body: bytes


def read_place(properties: Mapping[str, Any], headers: Mapping[str, Any], body: bytes) -> StatedPlace | None:
    """The place, be it that nothing else of the message can be read; None: it states none."""
    try:
        media_type, _ = _media_type(_text(properties, "content_type", longest=255))
        event = cloud_event.attributes_of(headers, media_type=media_type, body=body)
    except MessageInvalid:
        event = cloud_event.CloudEvent()
    try:
        sequence = _whole(headers.get("sequence", event.get("sequence")))
        subject = _text(headers, "subject") or event.text("subject", longest=LONGEST_NAME)
    except MessageInvalid:
        return None
    return None if sequence is None else StatedPlace(subject, sequence, body if event.body is None else event.body)


def _text(fields: Mapping[str, Any], name: str, *, longest: int = LONGEST_NAME) -> str:
    value = fields.get(name, "")
    if value is None or value == "":
        return ""
    if not isinstance(value, str) or not value.isprintable() or len(value) > longest:
        raise MessageInvalid(
            "properties.malformed", Violation(name, f"at most {longest} printable letters are expected")
        )
    return value


def _either(name: str, native: str, event: str) -> str:
    if native and event and native != event:
        raise MessageRefused(
            "properties.contradict", f"{name} is {native!r} as a property and {event!r} in the CloudEvent: say it once"
        )
    return native or event


def _media_type(content_type: str) -> tuple[str, str]:
    media_type, *parameters = (part.strip() for part in content_type.lower().split(";"))
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "charset":
            return media_type, value.strip().strip('"')
    return media_type, ""


def _time(value: object) -> datetime | None:
    """A time with a zone; an AMQP timestamp in a header table is UTC by AMQP 0-9-1 and read as naive by py-amqp."""
    if value is None or value == "":
        return None
    if isinstance(value, datetime):
        return _in_our_age(value if value.tzinfo else value.replace(tzinfo=UTC))
    form = _TIME.fullmatch(value) if isinstance(value, str) else None
    if form is None:
        raise MessageInvalid("time.syntax", Violation("time", "RFC 3339 is expected: 2026-03-01T06:30:00+01:00"))
    if form["zone"] is None:
        raise MessageInvalid("time.no-zone", Violation("time", f"{value} has no zone: write Z or an offset"))
    try:
        time = datetime.fromisoformat(form[0].upper())
        time.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise MessageInvalid("time.syntax", Violation("time", f"{value}: {error}")) from error
    return _in_our_age(time)


def _in_our_age(time: datetime) -> datetime:
    """Refuse what no plant has seen, and what a change of zone would carry over the edge of the calendar."""
    if not 1900 <= time.year <= 9998:
        raise MessageInvalid(
            "time.syntax", Violation("time", f"{time.isoformat()}: a year from 1900 to 9998 is expected")
        )
    return time


def _date(value: str) -> date | None:
    if not value:
        return None
    try:
        if _DATE.fullmatch(value):
            return date.fromisoformat(value)
    except ValueError:
        pass  # the 30th of February has the form of a date too
    raise MessageInvalid("properties.malformed", Violation("business_date", "a date is expected: 2026-03-01"))


def _whole(value: object) -> int | None:
    if value is None or value == "":
        return None
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < END_OF_SEQUENCE:
        return value
    if isinstance(value, str) and _DIGITS.fullmatch(value):
        return int(value)
    raise MessageInvalid("properties.malformed", Violation("sequence", "a whole number from 0 is expected"))
