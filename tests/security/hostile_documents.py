"""Documents that hypothesis makes: any JSON, examples of real contracts with something wrong in them, bombs."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from bus.model.contract import Contract
from tests.project.project import contracts

EXAMPLES_TRIED = int(os.environ.get("PLANTBUS_FUZZ") or 100)
costly = settings(deadline=None, max_examples=max(25, EXAMPLES_TRIED // 10), suppress_health_check=[*HealthCheck])
"""For tests that take long for an example: a tenth of the others' number."""

CONTRACTS: tuple[Contract, ...] = tuple(contracts().values())
EXAMPLES: tuple[tuple[Contract, bytes], ...] = tuple((each, body) for each in CONTRACTS for body in each.examples)

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from([-1, 0, 2**31, 2**63, 2**64, 10**30, 10**300, 1e308, -0.0, 5e-324]),
    st.sampled_from(["", " ", "0", "-0", "1e9", "NaN", "Infinity", "\u0661", "0x1", "1_000", "+1", "1,5", "∞", "٣"]),
    st.sampled_from(["2026-02-30", "0000-01-01", "9999-12-31T24:00:00Z", "/Date(9e99)/", "/Date(-62135596800001)/"]),
    st.sampled_from(["PT1H", "P1Y", "-PT9999999999999H", "PT07H00M00S", "P", "T", "PT", "PT25H61M61S"]),
    st.sampled_from(["'; DROP TABLE message; --", "\u202e", "\x1b[2J", "a" * 300, "../../etc/passwd", "{{7*7}}", "%s"]),
)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)


def written(document: Any) -> bytes:
    return json.dumps(document, ensure_ascii=False).encode("utf-8", "surrogatepass")


def places(document: Any) -> Iterator[tuple[Any, Any]]:
    """(holder, key) of every value of a document."""
    keys = list(document) if isinstance(document, dict) else range(len(document)) if isinstance(document, list) else ()
    for key in keys:
        yield document, key
        yield from places(document[key])


@st.composite
def spoiled_json(draw: st.DrawFn) -> tuple[Contract, bytes]:
    """An example of a contract with some values replaced, left out, wrapped or said twice over."""
    contract, body = draw(st.sampled_from([each for each in EXAMPLES if each[1].lstrip().startswith(b"{")]))
    document = json.loads(body)
    for _ in range(draw(st.integers(1, 3))):
        found = list(places(document))
        if not found:
            break
        holder, key = found[draw(st.integers(0, len(found) - 1))]
        match draw(st.sampled_from(["replace", "leave out", "wrap", "many", "add"])):
            case "replace":
                holder[key] = draw(anything)
            case "leave out":
                del holder[key]
            case "wrap":
                holder[key] = draw(st.sampled_from([[holder[key]], {"value": holder[key]}, {"results": [holder[key]]}]))
            case "many":
                holder[key] = [holder[key]] * draw(st.integers(0, 60))
            case "add" if isinstance(holder, dict):
                holder[draw(st.text(max_size=12))] = draw(anything)
    return contract, written(document)


_XML_BITS = st.sampled_from(
    [
        *(b"", b" ", b"<a>", b"</a>", b"<a/>", b"&amp;", b"&#0;", b"&#x110000;", b"&e;", b"<![CDATA[", b"]]>", b"--"),
        *(b"<!DOCTYPE a>", b"<?xml version='1.0'?>", b"<?x?>", b" xmlns=''", b" xmlns:p='u'", b"p:", b"\x00", b"\xff"),
        *(b"-1", b"1e999", b"NaN", b"2026-02-30", b"\xef\xbb\xbf", b"'", b'"', b"=", b"<", b">", b"\xe2\x80\xae"),
    ]
)


@st.composite
def spoiled_xml(draw: st.DrawFn) -> tuple[Contract, bytes]:
    """An example of a contract with bits put in, or instead of something."""
    contract, body = draw(st.sampled_from([each for each in EXAMPLES if each[1].lstrip().startswith(b"<")]))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(body)))
        body = body[:at] + draw(_XML_BITS) + body[at + draw(st.integers(0, 20)) :]
    return contract, body


_PIECES = st.sampled_from(
    [
        *(
            b"[",
            b"{",
            b'{"a":',
            b'"',
            b"\\",
            b'\\"',
            b'"a":1,',
            b"9",
            b"1e9,",
            b"[],",
            b'"\\u0000"',
            b"\xc3",
            b" ",
            b".",
        ),
        *(b"<a>", b"<a", b"<", b"<!--", b"<![CDATA[", b"<?", b"</", b"&amp;", b" a=''", b"='", b"xmlns:a=''", b"]]>"),
        *(b"<!DOCTYPE", b"<!ENTITY", b"\x00", b"\r\n", b"<b c='d'/>", b"-", b"--", b"E+", b"null,", b"a:"),
    ]
)


@dataclass(frozen=True)
class Bomb:
    """A body of up to a megabyte that is made of repetitions; shown as its recipe."""

    head: bytes
    piece: bytes
    times: int
    middle: bytes
    other: bytes
    others: int
    tail: bytes

    @property
    def body(self) -> bytes:
        text = self.head + self.piece * self.times + self.middle + self.other * self.others + self.tail
        return text[:1_048_576]


bombs = st.builds(
    Bomb,
    head=st.sampled_from([b"", b"[", b"{", b'{"a":"', b"<a>", b"<a ", b'<?xml version="1.0"?><a>', b"\xef\xbb\xbf"]),
    piece=_PIECES,
    times=st.sampled_from([1, 60, 70, 999, 1001, 4001, 20_001, 50_001, 300_000]),
    middle=st.sampled_from([b"", b'"', b"]", b">", b":", b","]),
    other=_PIECES,
    others=st.sampled_from([0, 1, 65, 1001, 50_001, 300_000]),
    tail=st.sampled_from([b"", b"]", b"}", b'"}', b"</a>", b"/>", b"-->"]),
)
