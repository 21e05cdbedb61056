"""CloudEvents 1.0 on AMQP: attributes in prefixed headers (binary mode) or in a JSON body (structured mode).

Sources: CloudEvents 1.0.2, AMQP protocol binding section 3 and JSON event format section 3.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from bus.errors import MessageInvalid, Violation
from bus.model.document import read_json

STRUCTURED = "application/cloudevents+json"

_PREFIXES = ("cloudEvents:", "cloudEvents_")
_SOURCE = re.compile(r"/plant/(?P<site>[^/]+)/(?P<system>[^/]+)")
_SPACE = re.compile(r"[ \t\r\n]*")
_LONGEST = 2048
_DECODER = json.JSONDecoder()


@dataclass(frozen=True, slots=True)
class CloudEvent:
    """The attributes found (none: it is no CloudEvent); `body` only in structured mode, exactly as sent."""

    attributes: Mapping[str, Any] = field(default_factory=dict)
    body: bytes | None = None

    def get(self, name: str) -> Any:
        return self.attributes.get(name)

    def text(self, name: str, *, longest: int = _LONGEST) -> str:
        """An attribute as text of at most `longest` letters, empty where it is not set.

        Raises:
            MessageInvalid: cloudevents.malformed.
        """
        value = self.attributes.get(name)
        if value is None:
            return ""
        if not isinstance(value, str) or not value.isprintable() or len(value) > longest:
            raise MessageInvalid(
                "cloudevents.malformed", Violation(name, f"at most {longest} printable letters are expected")
            )
        return value

    @property
    def site(self) -> str:
        """Site of a source in the form `/plant/<site>/<system>`; other sources say nothing."""
        return self._source("site")

    @property
    def system(self) -> str:
        return self._source("system")

    def _source(self, part: str) -> str:
        form = _SOURCE.fullmatch(self.text("source"))
        return form[part] if form else ""


def attributes_of(headers: Mapping[str, Any], *, media_type: str, body: bytes) -> CloudEvent:
    """The CloudEvent in an AMQP message, in whichever mode; an empty one where it is none.

    Raises:
        MessageInvalid: cloudevents.version or cloudevents.malformed; those of read_json for a structured body.
    """
    if media_type == STRUCTURED:
        return _structured(body)
    attributes = {
        name.removeprefix(prefix): value
        for name, value in headers.items()
        for prefix in _PREFIXES
        if isinstance(name, str) and name.startswith(prefix)
    }
    if attributes:
        _check(attributes)
    return CloudEvent(attributes)


def _structured(body: bytes) -> CloudEvent:
    document = read_json(body)
    if not isinstance(document, dict):
        raise MessageInvalid("cloudevents.malformed", Violation("", "an object is expected"))
    attributes = {name: value for name, value in document.items() if name not in ("data", "data_base64")}
    _check(attributes)
    return CloudEvent(attributes, _payload(document, body))


def _check(attributes: Mapping[str, Any]) -> None:
    if attributes.get("specversion") != "1.0":
        raise MessageInvalid("cloudevents.version", Violation("specversion", "1.0 is expected"))
    missing = [name for name in ("id", "source", "type") if not attributes.get(name)]
    if missing:
        raise MessageInvalid(
            "cloudevents.malformed", *(Violation(name, "the attribute is required") for name in missing)
        )


def _payload(document: Mapping[str, Any], body: bytes) -> bytes:
    encoded = document.get("data_base64")
    if encoded is not None:
        if "data" in document or not isinstance(encoded, str):
            raise MessageInvalid(
                "cloudevents.malformed", Violation("data_base64", "one text instead of data is expected")
            )
        try:
            return base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError) as error:
            raise MessageInvalid("cloudevents.malformed", Violation("data_base64", str(error))) from error
    data = document.get("data")
    if isinstance(data, str) and "json" not in str(document.get("datacontenttype") or "json").lower():
        return data.encode()
    # The exact text: numbers must not be written in another way than the system wrote them.
    return next((text.encode() for name, text in _members(body.decode("utf-8-sig")) if name == "data"), b"")


def _members(text: str) -> Iterator[tuple[str, str]]:
    """(name, exact text of the value) of the members of a JSON object that was read before."""
    at = _skip(text, _skip(text, 0) + 1)
    while text[at] != "}":
        name, at = _DECODER.raw_decode(text, at)
        begin = _skip(text, _skip(text, at) + 1)
        _, end = _DECODER.raw_decode(text, begin)
        yield name, text[begin:end]
        at = _skip(text, end)
        if text[at] == ",":
            at = _skip(text, at + 1)


def _skip(text: str, at: int) -> int:
    space = _SPACE.match(text, at)
    assert space is not None
    return space.end()
