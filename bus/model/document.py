"""Read and write documents: JSON and XML from outside, strict and bounded, JSON for others.

Reading takes the quick way where a few certain tests show that nothing in the body can be refused but by its parser.
Everything else, and everything that a parser refuses, goes the exact way, which also says what is wrong and where.
"""

from __future__ import annotations

import json
import re
from decimal import Decimal
from typing import Any
from xml.etree import ElementTree

import msgspec

from bus.model.exact_document import (
    BOM,
    MAX_ATTRIBUTES,
    MAX_DEPTH,
    MAX_KEY,
    MAX_NAMES,
    MAX_NODES,
    MAX_VALUES,
    NumberRefused,
    exact_number,
    read_json_exactly,
    read_xml_exactly,
)

# Escapes of NUL, of a quotation mark and of (half of) a surrogate pair.
_DOUBTFUL_ESCAPE = re.compile(rb"\\u(?:00(?:00|22)|[dD])")
_NO_STRUCTURE = bytes(set(range(256)) - set(b'[]{}"'))
_decode = msgspec.json.Decoder(float_hook=exact_number).decode
_encode = msgspec.json.Encoder(decimal_format="number").encode

_DECLARATION = re.compile(rb"<\?xml version=([\"'])1\.0\1(?: encoding=([\"'])(?i:utf-8)\2)? ?\?>")
_NAMESPACE = re.compile(rb'xmlns(?::[\w.-]+)?="[^"<>]{0,%d}"' % MAX_KEY)


def read_json(body: bytes) -> Any:
    """Read a JSON text (RFC 8259, UTF-8): no duplicate keys, no NaN or Infinity, no NUL, bounded depth.

    Numbers with a fraction become Decimal, so that no digit a system sent is lost.

    Raises:
        MessageInvalid: json.charset, json.depth, json.syntax, json.duplicate-key, json.key-too-long, json.nan or
            text.nul.
    """
    text = body.removeprefix(BOM)
    if _is_plain_json(text):
        try:
            document = _decode(text)
            # The parser keeps the last of two equal keys. Then fewer quotation marks are written than were read.
            if _encode(document).count(b'"') == text.count(b'"'):
                return document
        except (msgspec.MsgspecError, ValueError, OverflowError, NumberRefused):
            pass
    return read_json_exactly(body)


def _is_plain_json(text: bytes) -> bool:
    """Whether a parser that takes this text makes nothing of it that is refused, but for duplicate keys."""
    has_escapes = b"\\" in text
    if has_escapes and _DOUBTFUL_ESCAPE.search(text):
        return False
    marks_texts = not has_escapes or b'\\"' not in text  # every quotation mark begins a text or ends it
    if len(text) > MAX_KEY and (not marks_texts or _has_gap(text, b'"')):
        return False  # a key, or a number, may be too long
    nodes = text.count(b"{") + text.count(b"[")
    if nodes > MAX_NODES or nodes + text.count(b",") >= MAX_VALUES:
        return False
    return nodes <= MAX_DEPTH or (marks_texts and _is_shallow(text))


def _is_shallow(text: bytes) -> bool:
    """Whether the brackets of a JSON text, no quotation mark of which is escaped, certainly nest no deeper."""
    # Without what is no structure a text without brackets is `""`. A bracket inside of one leaves its quotes behind.
    structure = text.translate(None, _NO_STRUCTURE).replace(b'""', b"")
    for _ in range(MAX_DEPTH // 2):
        if not structure:
            break
        structure = structure.replace(b"{}", b"").replace(b"[]", b"")  # takes off two levels at most
    return not structure


def _has_gap(text: bytes, mark: bytes) -> bool:
    """Whether more than MAX_KEY bytes in a row have no mark."""
    last = -1
    while last + MAX_KEY + 1 < len(text):
        last = text.rfind(mark, last + 1, last + MAX_KEY + 2)
        if last < 0:
            return True
    return False


def read_xml(body: bytes) -> ElementTree.Element:
    """Read an XML 1.0 document in UTF-8 or US-ASCII: any DOCTYPE refused, no entities but the five, no network.

    Depth, elements, attributes, names and namespaces are bounded.

    Raises:
        MessageInvalid: xml.syntax, xml.charset, xml.doctype, xml.depth, xml.namespace, xml.attributes or xml.names,
            with line and column.
    """
    if _is_plain_xml(body):
        parser = ElementTree.XMLParser(encoding="utf-8")  # noqa: S314  # no DOCTYPE in it, and bounded
        try:
            parser.feed(body)
            root = parser.close()
        except (ElementTree.ParseError, ValueError):
            return read_xml_exactly(body)
        if body.count(b"<") <= 2 * MAX_DEPTH or _depth(root) <= MAX_DEPTH:
            return root
    return read_xml_exactly(body)


def _is_plain_xml(body: bytes) -> bool:
    """Whether a parser that takes this body makes nothing of it that is refused, but for its depth."""
    declared = _DECLARATION.match(body.removeprefix(BOM)) is not None
    if b"<!" in body or body.count(b"<?") != declared or b"\x00" in body:
        return False
    attributes = body.count(b"=")
    if attributes > MAX_ATTRIBUTES or body.count(b"<") + attributes > MAX_NAMES:
        return False
    return len(body) <= MAX_KEY or (
        len(_NAMESPACE.findall(body)) == body.count(b"xmlns")
        and not _has_gap(body, b"<")  # else a name may be too long
    )


def _depth(root: ElementTree.Element) -> int:
    level, depth = [root], 0
    while level:
        level = [child for element in level for child in element]
        depth += 1
    return depth


def _as_text(value: object) -> str:
    if isinstance(value, Decimal):
        return format(value, "f")
    if hasattr(value, "isoformat"):
        return str(value.isoformat())
    raise TypeError(f"{type(value).__name__} cannot stand in a JSON document")


_write = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=_as_text).encode


def write_json(document: object) -> bytes:
    """Write a document as compact UTF-8 JSON; Decimals become strings (canonical.md: quantities are text)."""
    return _write(document).encode()
