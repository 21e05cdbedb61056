"""JSON and XML from outside: strict, bounded, and every refusal names its place."""

import json
import time
from contextlib import suppress
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus import MessageInvalid, read_json, read_xml, write_json
from bus.model.exact_document import MAX_ATTRIBUTES, MAX_DEPTH, MAX_KEY, MAX_NAMES, MAX_NODES, MAX_VALUES


def refusal(read: object, body: bytes) -> tuple[str, str]:
    with pytest.raises(MessageInvalid) as caught:
        read(body)  # type: ignore[operator]  # either reader
    return caught.value.cause, caught.value.violations[0].place


@pytest.mark.parametrize(
    ("body", "cause", "place"),
    [
        (b"", "json.syntax", "line 1, column 1"),
        (b'{"a": 1,\n "b" 2}', "json.syntax", "line 2, column 6"),
        (b'{"a": "\xfc"}', "json.charset", "line 1, column 8"),
        ('{"a": 1}'.encode("utf-16"), "json.charset", "line 1, column 1"),
        (b'{"order": {"id": 1, "id": 2}}', "json.duplicate-key", "order.id"),
        (b'{"a":\n NaN}', "json.nan", "line 2, column 2"),
        (b'{"a": -Infinity}', "json.nan", "line 1, column 7"),
        (b'{"order": {"notes": ["x", "a\\u0000b"]}}', "text.nul", "order.notes[1]"),
        (b'{"a\\u0000": 1}', "text.nul", "(key)"),
        (b'{"a": "\\ud800"}', "json.charset", "a"),
        (b'{"a": 1e99999999999999999999}', "json.syntax", "line 1, column 7"),
        (b'{"a": 1e-9999}', "json.syntax", "line 1, column 7"),
        (b"9" * 5000, "json.syntax", "line 1, column 1"),
        (b"[" * (MAX_DEPTH + 1), "json.depth", f"line 1, column {MAX_DEPTH + 1}"),
        (b"[" + b"[]," * MAX_NODES + b"[]]", "json.depth", ""),
        (b"[" + b"0," * MAX_VALUES + b"0]", "json.depth", ""),
        (b'{"' + b"k" * (MAX_KEY + 1) + b'": 1}', "json.key-too-long", "k" * 40 + "…"),
    ],
)
def test_a_json_text_that_is_not_taken_is_refused_with_cause_and_place(body: bytes, cause: str, place: str) -> None:
    assert refusal(read_json, body) == (cause, place)


def test_brackets_inside_of_texts_are_not_nesting() -> None:
    text = "[{" * MAX_DEPTH

    assert read_json(json.dumps({"a": text, "b": '"' + text}).encode()) == {"a": text, "b": '"' + text}


def test_no_digit_of_a_number_is_lost() -> None:
    assert read_json(b'{"a": 0.33400000000000002}') == {"a": Decimal("0.33400000000000002")}


def test_a_byte_order_mark_is_skipped() -> None:
    assert read_json(b'\xef\xbb\xbf{"a": 1}') == {"a": 1}
    assert read_xml(b"\xef\xbb\xbf<?xml version='1.0' encoding='utf-8'?><a/>").tag == "a"


@pytest.mark.parametrize(
    ("body", "cause", "place"),
    [
        (b"", "xml.syntax", "line 1, column 1"),
        (b"<a>\n  <b></a>", "xml.syntax", "line 2, column 8"),
        (b"<a>\x00</a>", "xml.syntax", "line 1, column 4"),
        (b"<!DOCTYPE a><a/>", "xml.doctype", "line 1, column 1"),
        (b'<!DOCTYPE a [<!ENTITY e "x">]><a>&e;</a>', "xml.doctype", "line 1, column 1"),
        (b'<!DOCTYPE a SYSTEM "file:///etc/passwd"><a/>', "xml.doctype", "line 1, column 1"),
        (b"<a>&e;</a>", "xml.syntax", "line 1, column 4"),
        (b"<a>\xfc</a>", "xml.charset", "line 1, column 4"),
        (b"<?xml version='1.0' encoding='klingon'?><a/>", "xml.charset", "line 1, column 1"),
        ("<a/>".encode("utf-16"), "xml.charset", "line 1, column 1"),
        ("<a/>".encode("utf-16-le"), "xml.charset", "line 1, column 1"),
        ("<a/>".encode("utf-32-be"), "xml.charset", "line 1, column 1"),
        (b"<?xml version='1.0' encoding='iso-8859-1'?><a/>", "xml.charset", "line 1, column 1"),
        (b"<?xml version='1.0' encoding='windows-1252'?><a/>", "xml.charset", "line 1, column 1"),
        (b"<?xml version='1.0' encoding='UTF-16'?><a/>", "xml.charset", "line 1, column 1"),
        (b"<?xml version='1.0' encoding='us-ascii'?><a>\xc3\xbc</a>", "xml.charset", "line 1, column 1"),
        (b"<a>" * (MAX_DEPTH + 1), "xml.depth", f"line 1, column {3 * MAX_DEPTH + 1}"),
        (b"<a>" + b"<b/>" * MAX_NODES + b"</a>", "xml.depth", f"line 1, column {4 * MAX_NODES}"),
        (b"<a>\n<b xmlns='" + b"u" * (MAX_KEY + 1) + b"'/></a>", "xml.namespace", "line 2, column 1"),
        (b'<a xmlns:p = "' + b">" * (MAX_KEY + 1) + b'"/>', "xml.namespace", "line 1, column 1"),
        (
            b"<a " + b" ".join(b"a%d='1'" % n for n in range(MAX_ATTRIBUTES + 1)) + b"/>",
            "xml.attributes",
            "line 1, column 1",
        ),
        (b"<" + b"a" * (2 * MAX_KEY + 2) + b"/>", "xml.names", "line 1, column 1"),
    ],
)
def test_an_xml_document_that_is_not_taken_is_refused_with_cause_and_place(body: bytes, cause: str, place: str) -> None:
    assert refusal(read_xml, body) == (cause, place)


def test_xml_names_carry_their_namespace_and_text_is_kept() -> None:
    root = read_xml(b'<o xmlns="urn:x" n="1"><i>a &amp; b</i></o>')

    assert (root.tag, root.attrib, root[0].tag, root[0].text) == ("{urn:x}o", {"n": "1"}, "{urn:x}i", "a & b")


def test_xml_in_us_ascii_is_utf_8_too() -> None:
    assert read_xml(b"<?xml version='1.0' encoding='US-ASCII'?><a>b</a>").text == "b"


def test_the_names_of_an_xml_document_are_bounded_together() -> None:
    names = b"".join(b"<a%d/>" % number for number in range(MAX_NAMES))

    assert refusal(read_xml, b"<a>" + names + b"</a>")[0] == "xml.names"


def test_what_only_looks_like_a_tag_is_text() -> None:
    long = b"<b xmlns='" + b"u" * (MAX_KEY + 1) + b"'/> <!DOCTYPE a>"

    assert read_xml(b"<a><!--" + long + b"--><![CDATA[" + long + b"]]></a>").text == long.decode()


def test_elements_of_one_name_share_one_text_however_long_their_namespace() -> None:
    root = read_xml(b"<a xmlns='" + b"u" * MAX_KEY + b"'><b/><b/></a>")

    assert root[0].tag is root[1].tag


@pytest.mark.parametrize(
    "body",
    [
        b'{"' + b"k" * 120_000 + b'":[' + b"0," * 180_000 + b"0]}",
        b'{"' + b"k" * MAX_KEY + b'":[' + b"0," * (MAX_VALUES - 10) + b'{"a":1,"a":2}]}',
        b'<a xmlns="' + b"u" * 200_000 + b'">' + b"<b/>" * 60_000 + b"</a>",
        b'<a xmlns:p="' + b"u" * 200_000 + b'" ' + b" ".join(b'p:a%d=""' % n for n in range(50_000)) + b"/>",
        b"<!--" * 250_000,
        b"<![CDATA[" * 100_000,
        b"<?" * 400_000,
        b"<a '" * 200_000,
        b"<" + b"k" * 1_000_000 + b" a='' />",
        b"<a " + b"=" * 500_000 + b" " * 500_000 + b"/>",
        b"<!DOCTYPE a [<!ATTLIST b "
        + b" ".join(b'a%d CDATA "x"' % n for n in range(5_000))
        + b">]>"
        + b"<b/>" * 90_000,
    ],
    ids=lambda body: body[:12].decode(),
)
def test_a_document_made_to_keep_its_reader_busy_is_refused_within_a_second(body: bytes) -> None:
    began = time.process_time()

    take_or_refuse(body)

    assert time.process_time() - began < 1


def take_or_refuse(body: bytes) -> None:
    for read in (read_json, read_xml):
        with suppress(MessageInvalid):
            read(body)


@given(st.binary(max_size=300))
def test_arbitrary_bytes_raise_nothing_but_message_invalid(body: bytes) -> None:
    take_or_refuse(body)


XML_PIECES = [
    *("<a>", "</a>", "<b x='1'>", "<", "&amp;", "&x;", "<![CDATA[", "]]>", "<!--", "-->", "\x00", "ü"),
    *("<?xml version='1.0'?>", "<!DOCTYPE a>"),
]
JSON_PIECES = [
    *("{", "}", "[", "]", '"a"', ":", ",", " ", "-", "1e5", "-0.", "1e999999999999999999", "NaN"),
    *('"\\u0000"', '"\\ud800"'),
]


@given(st.lists(st.sampled_from(XML_PIECES + JSON_PIECES), max_size=30))
def test_what_nearly_is_a_document_raises_nothing_but_message_invalid(parts: list[str]) -> None:
    take_or_refuse("".join(parts).encode())


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"))
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc", max_size=3), inner, max_size=4),
)


@given(values)
def test_what_was_written_is_read_again(document: object) -> None:
    assert read_json(write_json(document)) == document


def test_quantities_and_times_are_written_as_text() -> None:
    assert write_json({"value": Decimal("1E+3")}) == b'{"value":"1000"}'
