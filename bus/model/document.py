"""Read JSON and XML from outside: strict, bounded, and every refusal names its place."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from typing import Any, NoReturn
from xml.etree import ElementTree
from xml.parsers import expat

from bus.errors import MessageInvalid, Violation

MAX_DEPTH = 64
MAX_NODES = 200_000
MAX_EXPONENT = 400
MAX_DIGITS = 4_000

_BOM = b"\xef\xbb\xbf"
# Possessive, and a text without an end reaches to the end: else one made of quotes takes its reader hours.
_TEXT = rb'"(?:[^"\\]++|\\.)*+"?'
_STRUCTURE = re.compile(_TEXT + rb"|[\[\]{}]", re.DOTALL)
_WORD = re.compile(_TEXT + rb'|[^\s\[\]{}:,"]++', re.DOTALL)


def _place(text: bytes, offset: int) -> str:
    before = text[:offset]
    line_start = before.rfind(b"\n") + 1
    return f"line {before.count(10) + 1}, column {offset - line_start + 1}"


def read_json(body: bytes) -> Any:
    """Read a JSON text (RFC 8259, UTF-8): no duplicate keys, no NaN or Infinity, no NUL, bounded depth.

    Numbers with a fraction become Decimal, so that no digit a system sent is lost.

    Raises:
        MessageInvalid: json.charset, json.depth, json.syntax, json.duplicate-key, json.nan or text.nul.
    """
    body = body.removeprefix(_BOM)
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MessageInvalid(
            "json.charset", Violation(_place(body, error.start), f"not UTF-8: byte 0x{body[error.start]:02x}")
        ) from error
    _check_depth(body)
    try:
        document = json.loads(
            text, object_pairs_hook=_unique_keys, parse_constant=_no_constant, parse_float=_number, parse_int=_whole
        )
    except json.JSONDecodeError as error:
        raise MessageInvalid(
            "json.syntax", Violation(f"line {error.lineno}, column {error.colno}", error.msg)
        ) from error
    except _ConstantFound as error:
        raise MessageInvalid("json.nan", Violation(_find(body, error.name), f"{error.name} is not JSON")) from error
    except _NumberRefused as error:
        raise MessageInvalid("json.syntax", Violation(_find(body, error.text), error.rule)) from error
    except _DuplicateKey as error:
        raise MessageInvalid(
            "json.duplicate-key", Violation(_path_of_duplicate(text) or error.key, "the key stands twice in one object")
        ) from error
    except (RecursionError, ValueError) as error:
        raise MessageInvalid("json.syntax", Violation("", str(error))) from error
    _refuse_nul(document, "")
    return document


class _ConstantFound(Exception):
    def __init__(self, name: str) -> None:
        self.name = name


class _DuplicateKey(Exception):
    def __init__(self, key: str) -> None:
        self.key = key


class _NumberRefused(Exception):
    def __init__(self, text: str, rule: str) -> None:
        self.text = text
        self.rule = rule


def _number(text: str) -> Decimal:
    # Beyond any double: written out, such a number would fill the memory.
    try:
        number = Decimal(text)
        if abs(number.adjusted()) <= MAX_EXPONENT:
            return number
    except InvalidOperation:
        pass
    raise _NumberRefused(text, f"the exponent of {text[:40]} is out of range")


def _whole(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise _NumberRefused(text, f"a whole number has at most {MAX_DIGITS} digits")
    return int(text)


def _no_constant(name: str) -> NoReturn:
    raise _ConstantFound(name)


def _find(body: bytes, word: str) -> str:
    """Where a word stands that is no part of a text."""
    wanted = word.encode()
    return next((_place(body, found.start()) for found in _WORD.finditer(body) if found[0] == wanted), "")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
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
    return next(_duplicates(document, ""), "")


def _duplicates(value: Any, path: str) -> Iterator[str]:
    if isinstance(value, _Pairs):
        seen: set[str] = set()
        for key, item in value:
            place = f"{path}.{key}" if path else key
            if key in seen:
                yield place
            seen.add(key)
            yield from _duplicates(item, place)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _duplicates(item, f"{path}[{index}]")


def _check_depth(body: bytes) -> None:
    """Count nesting before parsing: the parser itself recurses."""
    depth = nodes = 0
    for match in _STRUCTURE.finditer(body):
        token = match[0]
        if token in (b"{", b"["):
            depth += 1
            nodes += 1
            if depth > MAX_DEPTH:
                raise MessageInvalid(
                    "json.depth", Violation(_place(body, match.start()), f"nested deeper than {MAX_DEPTH}")
                )
        elif token in (b"}", b"]"):
            depth -= 1
    if nodes > MAX_NODES:
        raise MessageInvalid("json.depth", Violation("", f"more than {MAX_NODES} objects and lists"))


def _refuse_nul(value: Any, path: str) -> None:
    if isinstance(value, str):
        if "\x00" in value:
            raise MessageInvalid("text.nul", Violation(path, "the text holds a NUL character"))
        if not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
            raise MessageInvalid("json.charset", Violation(path, "the text holds half of a surrogate pair"))
    elif isinstance(value, dict):
        for key, item in value.items():
            _refuse_nul(key, f"{path}.(key)" if path else "(key)")
            _refuse_nul(item, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _refuse_nul(item, f"{path}[{index}]")


class _Tree:
    """Builds an ElementTree from expat events and stops at the first thing that is not allowed."""

    def __init__(self) -> None:
        self.builder = ElementTree.TreeBuilder()
        self.parser = expat.ParserCreate(namespace_separator="}")
        self.parser.buffer_text = True
        self.parser.SetParamEntityParsing(expat.XML_PARAM_ENTITY_PARSING_NEVER)
        self.parser.StartDoctypeDeclHandler = self._doctype
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self.builder.data
        self.depth = 0
        self.nodes = 0

    def place(self) -> str:
        return f"line {self.parser.CurrentLineNumber}, column {self.parser.CurrentColumnNumber + 1}"

    def _doctype(self, *_: object) -> None:
        raise MessageInvalid("xml.doctype", Violation(self.place(), "DOCTYPE and entities are not taken"))

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self.depth += 1
        self.nodes += 1
        if self.depth > MAX_DEPTH:
            raise MessageInvalid("xml.depth", Violation(self.place(), f"nested deeper than {MAX_DEPTH}"))
        if self.nodes > MAX_NODES:
            raise MessageInvalid("xml.depth", Violation(self.place(), f"more than {MAX_NODES} elements"))
        self.builder.start(_clark(name), {_clark(key): value for key, value in attributes.items()})

    def _end(self, name: str) -> None:
        self.depth -= 1
        self.builder.end(_clark(name))


def _clark(name: str) -> str:
    return "{" + name if "}" in name else name


def read_xml(body: bytes) -> ElementTree.Element:
    """Read an XML 1.0 document: any DOCTYPE refused, no entities but the five, no network, bounded depth.

    Raises:
        MessageInvalid: xml.syntax, xml.charset, xml.doctype or xml.depth, with line and column.
    """
    tree = _Tree()
    try:
        tree.parser.Parse(body, True)
    except expat.ExpatError as error:
        charset = error.code in (
            expat.errors.codes[expat.errors.XML_ERROR_UNKNOWN_ENCODING],
            expat.errors.codes[expat.errors.XML_ERROR_INCORRECT_ENCODING],
        )
        if error.code == expat.errors.codes[expat.errors.XML_ERROR_INVALID_TOKEN] and not _decodes(body):
            charset = True
        raise MessageInvalid(
            "xml.charset" if charset else "xml.syntax",
            Violation(f"line {error.lineno}, column {error.offset + 1}", expat.ErrorString(error.code)),
        ) from error
    except (ValueError, LookupError) as error:
        raise MessageInvalid("xml.charset", Violation("line 1, column 1", str(error))) from error
    return tree.builder.close()


def _decodes(body: bytes) -> bool:
    try:
        body.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def write_json(document: object) -> bytes:
    """Write a document as compact UTF-8 JSON; Decimals become strings (canonical.md: quantities are text)."""
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"), default=_as_text).encode()


def _as_text(value: object) -> str:
    if isinstance(value, Decimal):
        return format(value, "f")
    if hasattr(value, "isoformat"):
        return str(value.isoformat())
    raise TypeError(f"{type(value).__name__} cannot stand in a JSON document")
