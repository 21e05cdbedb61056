"""How things are printed: bodies laid out without changing them, times with their offset, nothing a terminal obeys."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.cli.bodies import LONG, readable, readable_exchange
from bus.cli.output import _dumped, as_data
from bus.cli.texts import clock, counted, duration, plain, when
from bus.model.secret import Secret

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@given(JSON)
def test_a_json_body_is_laid_out_by_white_space_alone(document: object) -> None:
    body = json.dumps([document, "x" * LONG]).encode()

    laid_out = readable(body, "application/json", limit=10**9)

    assert json.loads(laid_out) == [document, "x" * LONG]
    assert _without_space(laid_out) == _without_space(body.decode())


def test_numbers_are_shown_digit_by_digit_as_they_were_sent() -> None:
    body = b'{"quantity":3.2999999999999998,"id":000123,"big":1e400' + b" " * LONG + b"}"

    assert '"quantity": 3.2999999999999998,\n  "id": 000123,\n  "big": 1e400' in readable(body, "application/json")


def test_an_xml_body_is_laid_out_with_its_prefixes_comments_and_cdata() -> None:
    body = f"<?xml version='1.0'?><a:b xmlns:a='u'><!--c--><a:d><![CDATA[<x>]]></a:d><e>{'t' * LONG}</e><f/></a:b>"

    laid_out = readable(body.encode(), "application/xml")

    assert "".join(line.strip() for line in laid_out.splitlines()) == body
    assert "\n  <e>t" in laid_out


def test_a_body_that_its_sender_laid_out_stays_as_it_is() -> None:
    assert readable(b'{\n "a":1}', "application/json") == '{\n "a":1}'


def test_a_body_that_is_no_text_is_told_by_size_and_first_bytes() -> None:
    assert readable(b"\xff\xfe\x00", "application/json") == "3 bytes that are no UTF-8 text, beginning with ff fe 00"


def test_a_long_body_says_how_much_is_left_out() -> None:
    assert "… 4 more letters" in readable(b"0123456789", "text/plain", limit=6)


def test_an_exchange_is_shown_line_by_line_with_its_body_laid_out_as_its_head_says() -> None:
    raw = b"POST /b2mml HTTP/1.1\r\nHost: mes\r\nContent-Type: Application/XML; charset=utf-8\r\n\r\n<a><b>%b</b></a>"

    shown = readable_exchange(raw % (b"t" * LONG), limit=1000)

    assert shown.splitlines()[:4] == [
        "POST /b2mml HTTP/1.1",
        "Host: mes",
        "Content-Type: Application/XML; charset=utf-8",
        "",
    ]
    assert shown.splitlines()[4:] == ["<a>", f"  <b>{'t' * LONG}</b>", "</a>"]


@pytest.mark.parametrize(
    "raw", [b"GET / HTTP/1.1\r\nHost: erp\r\n\r\n", b"GET / HTTP/1.1\r\nHost: er", b"\xff\r\n\r\nx"]
)
def test_an_exchange_that_is_no_whole_http_is_shown_all_the_same(raw: bytes) -> None:
    shown = readable_exchange(raw)

    assert shown
    assert "\r" not in shown


def test_a_carriage_return_shows_only_where_it_ends_no_line() -> None:
    assert plain("one\r\ntwo\rthree") == "one\ntwo\N{REPLACEMENT CHARACTER}three"


@given(st.text())
def test_nothing_that_a_terminal_obeys_is_printed(text: str) -> None:
    assert all(letter.isprintable() or letter in "\n\t" for letter in plain(text))


def test_times_are_local_and_bear_their_offset(berlin: None) -> None:
    winter, summer = datetime(2026, 1, 5, 23, 30, tzinfo=UTC), datetime(2026, 7, 5, 23, 30, tzinfo=UTC)

    assert when(winter) == "2026-01-06 00:30:00+01:00"
    assert when(summer, brief=True) == "07-06 01:30:00+02"
    assert as_data(winter) == "2026-01-05T23:30:00+00:00"


@pytest.mark.parametrize(
    ("span", "text"),
    [
        (timedelta(milliseconds=12), "12 ms"),
        (timedelta(seconds=1.5), "1.50 s"),
        (timedelta(seconds=59.999), "1 min 0 s"),
        (timedelta(minutes=90), "1 h 30 min"),
        (timedelta(days=3, hours=2), "3 days 2 h"),
        (timedelta(seconds=-2), "-2.00 s"),
    ],
)
def test_durations_are_told_in_the_units_that_matter(span: timedelta, text: str) -> None:
    assert duration(span) == text


def test_counts_agree_with_their_nouns() -> None:
    assert counted(1, "delivery") == "1 delivery"
    assert counted(1200, "delivery") == "1,200 deliveries"
    assert counted(10_000, "message", exact=False) == "more than 10,000 messages"


def test_bytes_and_secrets_have_a_safe_form_in_json() -> None:
    assert as_data({"a": b"text", "b": b"\xff", "c": Secret("env:X", "hidden")}) == {
        "a": "text",
        "b": {"base64": "/w=="},
        "c": "***",
    }


def _without_space(text: str) -> str:
    """The text without white space outside strings."""
    return "".join(re.findall(r'"(?:[^"\\]|\\.)*"|[^\s"]+', text))


@pytest.mark.parametrize("kind", ["json", "xml"])
@pytest.mark.parametrize(
    "piece", ['\\"', '"', "\\", "<", "<!--", "<![CDATA[", "<!", "{", "[", "<a>", "</", "<a ", "a", "{,"]
)
def test_no_body_keeps_its_reader_waiting(piece: str, kind: str) -> None:
    before = time.process_time()

    shown = readable(piece.encode() * (1_000_000 // len(piece)), f"application/{kind}")

    assert time.process_time() - before < 2
    assert "more letters" in shown


@pytest.mark.parametrize(("body", "kind"), [('["unfinished', "json"), ("<a><!-- unfinished", "xml"), ("<a", "xml")])
def test_a_body_that_stops_in_the_middle_is_shown_to_its_end(body: str, kind: str) -> None:
    shown = readable(f"{body}{'.' * LONG}".encode(), kind)

    assert _without_space(shown) == _without_space(f"{body}{'.' * LONG}")


@given(st.text())
def test_json_holds_nothing_that_a_terminal_obeys_and_loses_nothing(text: str) -> None:
    hostile = {"a": f"\x9b31m\u202e\u2028\ud800\x7f{text}", text: [text]}

    for indent in (None, 2):
        written = _dumped(hostile, indent)

        assert written.replace("\n", "").isprintable()
        assert json.loads(written) == hostile


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "UTC"])
@pytest.mark.parametrize("moment", [datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)])
def test_the_first_and_the_last_time_there_are_can_be_shown(
    zone: str, moment: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()

    shown = [when(moment), when(moment, brief=True), clock(moment)]

    monkeypatch.undo()
    time.tzset()
    assert all(shown)


def test_a_value_of_any_depth_can_be_printed() -> None:
    value: object = "x"
    for _ in range(5000):
        value = {"a": [value]}

    assert "deeper than 100 levels" in _dumped(value)
