"""The quick reader and the exact one agree: on what is taken, on what comes of it, and on what is said of a refusal."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from xml.etree.ElementTree import Element

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bus import MessageInvalid, read_json, read_xml
from bus.model import document
from bus.model.exact_document import (
    BOM,
    MAX_ATTRIBUTES,
    MAX_DEPTH,
    MAX_KEY,
    MAX_NAMES,
    MAX_NODES,
    MAX_VALUES,
    read_json_exactly,
    read_xml_exactly,
)
from tests.project.project import contracts

EXAMPLES = [(each, body) for each in contracts().values() for body in each.examples]
JSON_EXAMPLES = [body for each, body in EXAMPLES if each.content_types == ("application/json",)]
XML_EXAMPLES = [body for each, body in EXAMPLES if each.content_types != ("application/json",)]


def outcome(read: Callable[[bytes], Any], body: bytes) -> object:
    try:
        return shown(read(body))
    except MessageInvalid as error:
        return error.cause, error.violations


def shown(value: Any) -> object:
    """The value with its types: equal numbers of different types, and 1.0 and 1.00, are shown apart."""
    if isinstance(value, Element):
        return value.tag, dict(value.attrib), value.text, value.tail, [shown(child) for child in value]
    if isinstance(value, dict):
        return [(key, shown(item)) for key, item in value.items()]
    if isinstance(value, list):
        return [shown(item) for item in value]
    return type(value), str(value)


# --- JSON ------------------------------------------------------------------------------------------------------------

LONG = st.integers(MAX_KEY - 3, MAX_KEY + 3)
json_texts = (
    st.text(max_size=8) | LONG.map(lambda length: "k" * length) | st.sampled_from(['"', "[{", "]}", "\\", "\\u"])
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | json_texts,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(json_texts, inner, max_size=5),
    max_leaves=12,
)
json_written = st.builds(
    lambda value, ascii_only, indent: json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode(
        errors="surrogatepass"
    ),
    json_values,
    st.booleans(),
    st.sampled_from([None, 1]),
)
json_bricks = st.sampled_from(
    [
        *(b"{", b"}", b"[", b"]", b'"', b'"a"', b'"b"', b'"a":', b'"\\u0061":', b":", b",", b" ", b"\n", b"\t", b"\\"),
        *(b"1", b"-0", b"0.10", b"1e5", b"1E401", b"1e-401", b"-", b"01", b"1.", b"18446744073709551616", b"null"),
        *(b"NaN", b"-Infinity", b"true", b"\x00", b"\x1f", b"\x7f", b"\xff", b"\xed\xa0\x80", b"\xc3\xbc", BOM),
        *(
            b'"\\u0000"',
            b'"\\ud800"',
            b'"\\ud83d\\ude00"',
            b'"\\u0022"',
            b'"\\""',
            b'"\\\\"',
            b'"[{"',
            b'"]}"',
            b'"\\x"',
        ),
        *(b'{"a":1,"a":2}', b'{"a":"\\u0022","a":2}', b'{"a":{},"\\u0061":[]}', b"[" * MAX_DEPTH, b"]" * MAX_DEPTH),
        *(b"9" * 3_999, b"9" * 4_001, b"9" * 4_400, b'"' + b"t" * 1_500 + b'"', b"{}," * 70, b'"",' * 300),
    ]
)


def with_bricks(bodies: st.SearchStrategy[bytes], bricks: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """A body with something put into it, or instead of a part of it."""
    return st.builds(
        lambda body, at, skipped, brick: body[: at % (len(body) + 1)] + brick + body[at % (len(body) + 1) + skipped :],
        bodies,
        st.integers(0, 10_000),
        st.integers(0, 3),
        bricks,
    )


json_bodies = st.one_of(
    json_written,
    st.sampled_from(JSON_EXAMPLES),
    with_bricks(json_written | st.sampled_from(JSON_EXAMPLES), json_bricks),
    with_bricks(with_bricks(st.sampled_from(JSON_EXAMPLES), json_bricks), json_bricks),
    st.lists(json_bricks, max_size=12).map(b"".join),
    st.binary(max_size=60),
)


@settings(max_examples=500)
@given(json_bodies)
def test_json_is_read_alike_by_the_quick_reader_and_the_exact_one(body: bytes) -> None:
    assert outcome(read_json, body) == outcome(read_json_exactly, body)


BOUNDARIES = [-1, 0, 1]


@pytest.mark.parametrize("over", BOUNDARIES)
@pytest.mark.parametrize(
    "body",
    [
        lambda over: b"[" * (MAX_DEPTH + over) + b"]" * (MAX_DEPTH + over),
        lambda over: b'{"a":' * (MAX_DEPTH + over) + b"1" + b"}" * (MAX_DEPTH + over),
        lambda over: b"[" + b"{}," * 70 + b"[" * (MAX_DEPTH - 1 + over) + b"]" * (MAX_DEPTH - 1 + over) + b"]",
        # Brackets in texts close what only texts have opened, so that the rest looks flat.
        lambda over: b'["]",' * (MAX_DEPTH + over) + b"1" + b',"["]' * (MAX_DEPTH + over),
        lambda over: b"[" + b"{}," * (MAX_NODES - 2 + over) + b"{}]",
        lambda over: b"[" + b"0," * (MAX_VALUES - 2 + over) + b"0]",
        lambda over: b'{"' + b"k" * (MAX_KEY + over) + b'":1}',
        lambda over: b'{"x":"' + b"t" * 2_000 + b'","' + b"k" * (MAX_KEY + over) + b'":1}',
        lambda over: b'{"' + "ü".encode() * (MAX_KEY + over) + b'":1}',
        lambda over: b'{"' + b'\\"' * (MAX_KEY + over) + b'":1}',
        lambda over: b'{"a":' + b"9" * (4_000 + over) + b"}",
        lambda over: b'{"a":"\\u0022%s","a":2}' % (b"\\u0022" * over if over > 0 else b""),
    ],
)
def test_json_at_a_bound_is_read_alike(body: Callable[[int], bytes], over: int) -> None:
    assert outcome(read_json, body(over)) == outcome(read_json_exactly, body(over))


@pytest.mark.parametrize(
    "body",
    [
        *JSON_EXAMPLES,
        BOM + JSON_EXAMPLES[0],
        b"[" + b",".join(JSON_EXAMPLES * 3) + b"]",
        json.dumps({"Maß": "3 µm", "text": 'a "b"\n' * 20, "value": 0.5, "on": None}).encode(),
    ],
)
def test_what_plants_send_is_read_the_quick_way(body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = read_json_exactly(body)
    monkeypatch.setattr(document, "read_json_exactly", None)

    assert shown(read_json(body)) == shown(expected)


# --- XML -------------------------------------------------------------------------------------------------------------

xml_bricks = st.sampled_from(
    [
        *(b"<a>", b"</a>", b"<b/>", b"<p:c xmlns:p='urn:p'/>", b'<c xmlns="u}r{n"/>', b'<p:c p:x="1"/>', b"<", b">"),
        *(b"&amp;", b"&#65;", b"&#0;", b"&#xD800;", b"&e;", b"]]>", b"<![CDATA[<x>&]]>", b"<!-- c -->", b"<?pi x?>"),
        *(b"<!DOCTYPE a>", b'<!DOCTYPE a [<!ENTITY e "x">]>', b"<?xml version='1.0'?>", b"<?xml version='1.1'?>"),
        *(b'<?xml version="1.0" encoding="us-ascii"?>', b"<?xml version='1.0' encoding='utf-16'?>", BOM, b"\x00"),
        *(b"\xff", b"\xed\xa0\x80", b"\xef\xbf\xbf", b"\xc3\xbc", b"\r\n", b"\x0b", b" xmlns='urn:x'", b' x="1"'),
        *(b'xmlns="urn:y"', b' x="1" x="2"', b" a='1'" * 5, b"<a>" * 70, b"</a>" * 70, b"<b/>" * 100, b"t" * 1_200),
    ]
)
XML_SMALL = [b"<a/>", b"<a>b</a>", b"<?xml version='1.0' encoding='UTF-8'?>\n<a x='1'>b<c/>d</a>"]
xml_bodies = st.one_of(
    st.sampled_from(XML_EXAMPLES),
    with_bricks(st.sampled_from(XML_EXAMPLES + XML_SMALL), xml_bricks),
    with_bricks(with_bricks(st.sampled_from(XML_EXAMPLES + XML_SMALL), xml_bricks), xml_bricks),
    st.lists(xml_bricks, max_size=12).map(lambda bricks: b"<a>" + b"".join(bricks) + b"</a>"),
    st.binary(max_size=60),
)


@settings(max_examples=500)
@given(xml_bodies)
@example(b"<a>b<!-- c -->d<?e f?>g</a>")
def test_xml_is_read_alike_by_the_quick_reader_and_the_exact_one(body: bytes) -> None:
    assert outcome(read_xml, body) == outcome(read_xml_exactly, body)


@pytest.mark.parametrize("over", BOUNDARIES)
@pytest.mark.parametrize(
    "body",
    [
        lambda over: b"<a>" * (MAX_DEPTH + over) + b"</a>" * (MAX_DEPTH + over),
        lambda over: b"<a>" * (MAX_DEPTH - 1 + over) + b"<a/>" + b"</a>" * (MAX_DEPTH - 1 + over),
        lambda over: (
            b"<r>" + b"<b/>" * 99 + b"<a>" * (MAX_DEPTH - 1 + over) + b"</a>" * (MAX_DEPTH - 1 + over) + b"</r>"
        ),
        lambda over: b"<r>" + b"".join(b"<a%d/>" % n for n in range(MAX_NAMES - 1 + over)) + b"</r>",
        lambda over: b"<r " + b" ".join(b'a%d="1"' % n for n in range(MAX_ATTRIBUTES + over)) + b"/>",
        lambda over: b'<r xmlns="' + b"u" * (MAX_KEY + over) + b'"/>',
        lambda over: b"<r><" + b"n" * (2 * MAX_KEY + 1 + over) + b"/></r>",
        lambda over: b"<r>" + b'<a xmlns="urn:x" b="1"/>' * (60 + over) + b"</r>",
    ],
)
def test_xml_at_a_bound_is_read_alike(body: Callable[[int], bytes], over: int) -> None:
    assert outcome(read_xml, body(over)) == outcome(read_xml_exactly, body(over))


@pytest.mark.parametrize("body", [*XML_EXAMPLES, BOM + XML_EXAMPLES[0], b"<r>" + b"<a><b>1</b></a>" * 200 + b"</r>"])
def test_xml_that_plants_send_is_read_the_quick_way(body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = read_xml_exactly(body)
    monkeypatch.setattr(document, "read_xml_exactly", None)

    assert shown(read_xml(body)) == shown(expected)
