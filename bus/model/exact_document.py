"""Read JSON and XML from outside exactly: strict, bounded, and every refusal names its place.

`bus.model.document` reads quickly what is certain to be taken; what is not comes here, and is taken or refused here.
"""

from __future__ import annotations

import json
import re
from decimal import Decimal, InvalidOperation
from typing import Any, NoReturn
from xml.etree import ElementTree
from xml.parsers import expat

from bus.errors import MessageInvalid, Violation

MAX_DEPTH = 64
MAX_NODES = 20_000
"""Objects and lists, or elements, of one document: what checking it against a contract costs grows with them."""
MAX_VALUES = 50_000
"""Values of one document, nested or not; for XML elements and attributes together."""
MAX_KEY = 1_000
"""Letters in a JSON key, an XML name or a namespace; every place that is named may repeat them."""
MAX_ATTRIBUTES = 256
"""Attributes of one XML element."""
MAX_NAMES = 5_000
"""Different names in one XML document: each carries its namespace."""
MAX_EXPONENT = 400
MAX_DIGITS = 4_000

BOM = b"\xef\xbb\xbf"
# Possessive, and a text without an end reaches to the end: else one made of quotes takes its reader hours.
_TEXT = rb'"(?:[^"\\]++|\\.)*+"?'
_STRUCTURE = re.compile(_TEXT + rb"|[\[\]{},]", re.DOTALL)
_WORD = re.compile(_TEXT + rb'|[^\s\[\]{}:,"]++', re.DOTALL)
# What is not a tag comes first; what has no end reaches to the end, as above.
_MARKUP = re.compile(
    rb"<!--.*?(?:-->|\Z)|<!\[CDATA\[.*?(?:\]\]>|\Z)|<\?.*?(?:\?>|\Z)|<!"
    rb"|<[^!?/](?:[^>\"']++|\"[^\"]*+\"?|'[^']*+'?)*+>?",
    re.DOTALL,
)
_ATTRIBUTE = re.compile(rb"(?<![^\s=\"'<>/])([^\s=\"'<>/]++)\s*+=\s*+(\"[^\"]*+\"?|'[^']*+'?)")
_ENCODINGS = ("utf-8", "us-ascii")


def _place(text: bytes, offset: int) -> str:
    before = text[:offset]
    line_start = before.rfind(b"\n") + 1
    return f"line {before.count(10) + 1}, column {offset - line_start + 1}"


def read_json_exactly(body: bytes) -> Any:
    """Read a JSON text (RFC 8259, UTF-8): no duplicate keys, no NaN or Infinity, no NUL, bounded depth.

    Numbers with a fraction become Decimal, so that no digit a system sent is lost.

    Raises:
        MessageInvalid: json.charset, json.depth, json.syntax, json.duplicate-key, json.key-too-long, json.nan or
            text.nul.
    """
    body = body.removeprefix(BOM)
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MessageInvalid(
            "json.charset", Violation(_place(body, error.start), f"not UTF-8: byte 0x{body[error.start]:02x}")
        ) from error
    _check_depth(body)
    try:
        document = json.loads(
            text,
            object_pairs_hook=_unique_keys,
            parse_constant=_no_constant,
            parse_float=exact_number,
            parse_int=_whole,
        )
    except json.JSONDecodeError as error:
        raise MessageInvalid(
            "json.syntax", Violation(f"line {error.lineno}, column {error.colno}", error.msg)
        ) from error
    except _ConstantFound as error:
        raise MessageInvalid("json.nan", Violation(_find(body, error.name), f"{error.name} is not JSON")) from error
    except NumberRefused as error:
        raise MessageInvalid("json.syntax", Violation(_find(body, error.text), error.rule)) from error
    except _DuplicateKey as error:
        raise MessageInvalid(
            "json.duplicate-key", Violation(_path_of_duplicate(text) or error.key, "the key stands twice in one object")
        ) from error
    except _KeyTooLong as error:
        raise MessageInvalid(
            "json.key-too-long", Violation(f"{error.key[:40]}…", f"a key has at most {MAX_KEY} letters")
        ) from error
    except (RecursionError, ValueError) as error:
        raise MessageInvalid("json.syntax", Violation("", str(error))) from error
    _refuse_bad_text(document)
    return document


class _ConstantFound(Exception):
    def __init__(self, name: str) -> None:
        self.name = name


class _DuplicateKey(Exception):
    def __init__(self, key: str) -> None:
        self.key = key


class _KeyTooLong(Exception):
    def __init__(self, key: str) -> None:
        self.key = key


class NumberRefused(Exception):
    def __init__(self, text: str, rule: str) -> None:
        self.text = text
        self.rule = rule


def exact_number(text: str) -> Decimal:
    """A number with a fraction or an exponent, every digit kept.

    Raises:
        NumberRefused: its exponent is out of range.
    """
    # Beyond any double: written out, such a number would fill the memory.
    try:
        number = Decimal(text)
        if abs(number.adjusted()) <= MAX_EXPONENT:
            return number
    except InvalidOperation:
        pass
    raise NumberRefused(text, f"the exponent of {text[:40]} is out of range")


def _whole(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise NumberRefused(text, f"a whole number has at most {MAX_DIGITS} digits")
    return int(text)


def _no_constant(name: str) -> NoReturn:
    raise _ConstantFound(name)


def _find(body: bytes, word: str) -> str:
    """Where a word stands that is no part of a text."""
    wanted = word.encode()
    return next((_place(body, found.start()) for found in _WORD.finditer(body) if found[0] == wanted), "")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if max(map(len, document), default=0) > MAX_KEY:
        raise _KeyTooLong(next(key for key in document if len(key) > MAX_KEY))
    if len(document) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _DuplicateKey(key)
            seen.add(key)
    return document


class _Pairs(list[tuple[str, Any]]):
    """An object as it was written, keys that stand twice included."""


def _path_of_duplicate(text: str) -> str:
    """The path of the first key that stands twice; empty where what follows it is no JSON."""
    try:
        document = json.loads(text, object_pairs_hook=_Pairs, parse_float=str, parse_int=str)
    except ValueError:
        return ""
    return (_duplicate_in(document) or "").removeprefix(".")


def _duplicate_in(value: Any) -> str | None:
    """The path is put together on the way out, once: on the way in it would cost its length for every value."""
    if isinstance(value, _Pairs):
        seen: set[str] = set()
        for key, item in value:
            if key in seen:
                return f".{key}"
            seen.add(key)
            if (found := _duplicate_in(item)) is not None:
                return f".{key}{found}"
    elif isinstance(value, list):
        for index, item in enumerate(value):
            if (found := _duplicate_in(item)) is not None:
                return f"[{index}]{found}"
    return None


def _check_depth(body: bytes) -> None:
    """Count nesting and values before parsing: the parser itself recurses, and makes more of a text than it was."""
    depth = nodes = 0
    values = 1
    for match in _STRUCTURE.finditer(body):
        token = match[0]
        if token in (b"{", b"["):
            depth += 1
            nodes += 1
            values += 1
            if depth > MAX_DEPTH:
                raise MessageInvalid(
                    "json.depth", Violation(_place(body, match.start()), f"nested deeper than {MAX_DEPTH}")
                )
        elif token in (b"}", b"]"):
            depth -= 1
        elif token == b",":
            values += 1
        if nodes > MAX_NODES:
            raise MessageInvalid("json.depth", Violation("", f"more than {MAX_NODES} objects and lists"))
        if values > MAX_VALUES:
            raise MessageInvalid("json.depth", Violation("", f"more than {MAX_VALUES} values"))


def _refuse_bad_text(document: Any) -> None:
    found = _bad_text_in(document)
    if found is None:
        return
    place, text = found
    place = place.removeprefix(".")
    if "\x00" in text:
        raise MessageInvalid("text.nul", Violation(place, "the text holds a NUL character"))
    raise MessageInvalid("json.charset", Violation(place, "the text holds half of a surrogate pair"))


def _bad_text_in(value: Any) -> tuple[str, str] | None:
    """(path, text) of the first text that is not taken; the path is put together as in `_duplicate_in`."""
    if isinstance(value, str):
        return ("", value) if _is_bad(value) else None
    if isinstance(value, dict):
        for key, item in value.items():
            if _is_bad(key):
                return ".(key)", key
            if (found := _bad_text_in(item)) is not None:
                return f".{key}{found[0]}", found[1]
    elif isinstance(value, list):
        for index, item in enumerate(value):
            if (found := _bad_text_in(item)) is not None:
                return f"[{index}]{found[0]}", found[1]
    return None


def _is_bad(text: str) -> bool:
    return "\x00" in text or (not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text))


class _Tree:
    """Builds an ElementTree from expat events and stops at the first thing that is not allowed."""

    def __init__(self, body: bytes) -> None:
        self.is_ascii = body.isascii()
        self.builder = ElementTree.TreeBuilder()
        self.parser = expat.ParserCreate("utf-8", namespace_separator="}")
        self.parser.buffer_text = True
        self.parser.SetParamEntityParsing(expat.XML_PARAM_ENTITY_PARSING_NEVER)
        self.parser.XmlDeclHandler = self._declaration
        self.parser.StartDoctypeDeclHandler = self._doctype
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self.builder.data
        self.names: dict[str, str] = {}
        self.depth = 0
        self.nodes = 0
        self.values = 0

    def place(self) -> str:
        return f"line {self.parser.CurrentLineNumber}, column {self.parser.CurrentColumnNumber + 1}"

    def _declaration(self, version: str, encoding: str | None, standalone: int) -> None:
        declared = encoding or "UTF-8"
        if declared.lower() not in _ENCODINGS or (declared.lower() == "us-ascii" and not self.is_ascii):
            raise MessageInvalid(
                "xml.charset", Violation(self.place(), f"encoding {declared[:40]!r}: UTF-8 (or US-ASCII) is expected")
            )

    def _doctype(self, *_: object) -> None:
        raise MessageInvalid("xml.doctype", Violation(self.place(), "DOCTYPE and entities are not taken"))

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self.depth += 1
        self.nodes += 1
        self.values += 1 + len(attributes)
        if self.depth > MAX_DEPTH:
            raise MessageInvalid("xml.depth", Violation(self.place(), f"nested deeper than {MAX_DEPTH}"))
        if self.nodes > MAX_NODES:
            raise MessageInvalid("xml.depth", Violation(self.place(), f"more than {MAX_NODES} elements"))
        if self.values > MAX_VALUES:
            raise MessageInvalid(
                "xml.depth", Violation(self.place(), f"more than {MAX_VALUES} elements and attributes")
            )
        self.builder.start(self._clark(name), {self._clark(key): value for key, value in attributes.items()})

    def _end(self, name: str) -> None:
        self.depth -= 1
        self.builder.end(self._clark(name))

    def _clark(self, name: str) -> str:
        """`{namespace}name`, one text for all elements that share it: a namespace is written once and meant often."""
        known = self.names.get(name)
        if known is not None:
            return known
        if len(self.names) >= MAX_NAMES:
            raise MessageInvalid("xml.names", Violation(self.place(), f"more than {MAX_NAMES} different names"))
        if len(name) > 2 * MAX_KEY + 1:
            raise MessageInvalid("xml.names", Violation(self.place(), f"a name has at most {MAX_KEY} letters"))
        self.names[name] = clark = "{" + name if "}" in name else name
        return clark


def _check_markup(body: bytes) -> None:
    """What the parser would work on before, or after, anybody can stop it: DOCTYPE, and what one tag may expand to."""
    for match in _MARKUP.finditer(body):
        token = match[0]
        if token == b"<!":
            if body.startswith(b"<!DOCTYPE", match.start()):
                raise MessageInvalid(
                    "xml.doctype", Violation(_place(body, match.start()), "DOCTYPE and entities are not taken")
                )
        elif not token.startswith((b"<!", b"<?")) and b"=" in token:
            attributes = 0
            for name, value in _ATTRIBUTE.findall(token):
                attributes += 1
                if name.split(b":", 1)[0] == b"xmlns" and len(value) > MAX_KEY + 2:
                    raise MessageInvalid(
                        "xml.namespace",
                        Violation(_place(body, match.start()), f"a namespace has at most {MAX_KEY} bytes"),
                    )
            if attributes > MAX_ATTRIBUTES:
                raise MessageInvalid(
                    "xml.attributes",
                    Violation(_place(body, match.start()), f"more than {MAX_ATTRIBUTES} attributes in one element"),
                )


def read_xml_exactly(body: bytes) -> ElementTree.Element:
    """Read an XML 1.0 document in UTF-8 or US-ASCII: any DOCTYPE refused, no entities but the five, no network.

    Depth, elements, attributes, names and namespaces are bounded.

    Raises:
        MessageInvalid: xml.syntax, xml.charset, xml.doctype, xml.depth, xml.namespace, xml.attributes or xml.names,
            with line and column.
    """
    try:
        body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MessageInvalid(
            "xml.charset", Violation(_place(body, error.start), f"not UTF-8: byte 0x{body[error.start]:02x}")
        ) from error
    if b"\x00" in body[:2]:
        raise MessageInvalid("xml.charset", Violation("line 1, column 1", "UTF-8 is expected, not UTF-16 or UTF-32"))
    _check_markup(body)
    tree = _Tree(body)
    try:
        tree.parser.Parse(body, True)
    except expat.ExpatError as error:
        raise MessageInvalid(
            "xml.syntax", Violation(f"line {error.lineno}, column {error.offset + 1}", expat.ErrorString(error.code))
        ) from error
    return tree.builder.close()
